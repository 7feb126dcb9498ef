"""Images made in real guests and booted again, and the disks they boot from."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import pytest

from machinen_runtime.boot import boot
from machinen_runtime.errors import ErrorCode, ProvisionError
from machinen_runtime.handle import VmHandle
from machinen_runtime.image_config import read_image_config
from machinen_runtime.log_events import ChunkLogEvent, LogEvent, PhaseLogEvent
from machinen_runtime.provision import ProvisionResult, provision
from tests.runtime.oci_images import layer_tar, write_layout
from tests.vm.child import MACHINEN
from tests.vm.conftest import MEMORY_MIB, leftovers

pytestmark = pytest.mark.vm

SMALL: dict[str, Any] = {"memory": MEMORY_MIB, "network": "none"}
GROWN_BYTES = 5 << 30
CHANGES = """
set -e
mkdir -p /srv/app /var/tmp/junk
echo hello >/srv/app/greeting
chown 1234:567 /srv/app/greeting
chmod 4750 /srv/app/greeting
ln /srv/app/greeting /srv/app/hard
ln -s greeting /srv/app/soft
mknod /srv/app/null c 1 3
echo SECRET=1 >/etc/machinen.env
echo junk >/tmp/junk
python3 -c 'import os; os.setxattr("/srv/app/greeting", "user.note", bytes(range(1, 256)))'
python3 -c 'import os; os.setxattr("/srv/app/hard", "security.capability",
    bytes.fromhex("0100000200200000000000000000000000000000"))'
echo complaining >&2
"""
LOOK = """
stat -c '%n %a %u:%g %h' /srv/app/greeting /tmp /var/tmp
stat -c '%n %F %t,%T' /srv/app/null
readlink /srv/app/soft
cat /srv/app/hard
python3 -c 'import os; print(os.getxattr("/srv/app/greeting", "user.note") == bytes(range(1, 256)))'
python3 -c 'import os; print(len(os.getxattr("/srv/app/greeting", "security.capability")))'
ls -A /tmp /var/tmp; ls /etc/machinen.env 2>&1
df --output=size -B1 / | tail -1
"""


@pytest.fixture(scope="module")
async def image(
    tmp_path_factory: pytest.TempPathFactory, vm_home: Path, anyio_backend: str
) -> tuple[ProvisionResult, list[LogEvent], list[str]]:
    """The base with some files of every kind, and what was told on the way."""
    events: list[LogEvent] = []
    stages: list[str] = []

    async def install(vm: VmHandle) -> None:
        await vm.exec(CHANGES)

    def tell(stage: str, done_bytes: int) -> None:
        assert stage == "archive" or done_bytes == 0
        stages.append(stage)

    result = await provision(
        install=install,
        out=tmp_path_factory.mktemp("image") / "app.tar.gz",
        cmd=["sh", "-c", 'echo "$A $PWD"; exec sleep infinity'],
        env={"A": "baked"},
        guest_cwd="/srv/app",
        memory=MEMORY_MIB,
        on_log=events.append,
        on_progress=tell,
    )
    return result, events, stages


@pytest.fixture(scope="module")
async def app(
    image: tuple[ProvisionResult, list[LogEvent], list[str]],
) -> AsyncGenerator[VmHandle]:
    """A VM of that image, with a root larger than the image."""
    async with await boot(
        image=image[0].image_path, name="app", root_disk_size_bytes=GROWN_BYTES, **SMALL
    ) as vm:
        yield vm


async def test_provision_says_what_it_made_and_how(
    image: tuple[ProvisionResult, list[LogEvent], list[str]], vm_home: Path
) -> None:
    result, events, stages = image
    assert result.size_bytes == Path(result.image_path).stat().st_size
    assert result.tree_bytes > result.size_bytes
    assert list(dict.fromkeys(stages)) == ["boot", "install", "archive"]
    chunks = [event for event in events if isinstance(event, ChunkLogEvent)]
    assert b"complaining" in b"".join(c.chunk for c in chunks if c.source == "exec-stderr")
    phases = events[-1]
    assert isinstance(phases, PhaseLogEvent)
    assert phases.kind == "provision"
    assert {"boot", "install", "archive"} <= set(phases.phases)
    with tarfile.open(result.image_path) as tar:
        names = tar.getnames()
    assert names[0] == "./machinen-config.json"
    assert names[1:] == sorted(names[1:], key=lambda name: name.encode().split(b"/"))
    assert not [name for name in names if name.startswith(("./proc/", "./sys/", "./dev/"))]


async def test_an_image_runs_its_baked_command_with_every_file_as_it_was(app: VmHandle) -> None:
    seen = b""
    while b"\n" not in seen:
        seen += await app.stdout.receive()
    assert seen.split() == [b"baked", b"/srv/app"]
    lines = (await app.exec(LOOK)).stdout.splitlines()
    assert lines[:3] == [
        "/srv/app/greeting 4750 1234:567 2",
        "/tmp 1777 0:0 2",
        "/var/tmp 1777 0:0 2",
    ]
    assert lines[3] == "/srv/app/null character special file 1,3"
    assert lines[4:8] == ["greeting", "hello", "True", "20"]
    assert "junk" not in lines
    assert any("/etc/machinen.env" in line and "No such file" in line for line in lines)


async def test_a_root_is_grown_and_its_size_travels_with_a_fork(app: VmHandle) -> None:
    fill = (
        "truncate -s 4G /big && blockdev --getsize64 /dev/vda && df --output=size -B1 / | tail -1"
    )
    device, size = (await app.exec(fill)).stdout.split()
    assert int(device) == GROWN_BYTES
    assert int(size) > GROWN_BYTES * 0.9
    async with await app.fork(name="app-2") as fork:
        assert (await fork.exec(fill)).stdout.split() == [device, size]
        await fork.exec("dd if=/dev/zero of=/written bs=1M count=64 status=none; sync")
        assert (await app.exec_raw("test -e /written")).exit_code == 1


async def test_a_prebuilt_disk_is_booted_and_never_written(
    image: tuple[ProvisionResult, list[LogEvent], list[str]], tmp_path: Path
) -> None:
    disk = tmp_path / "disk.img"
    tree = tmp_path / "tree"
    tree.mkdir()
    without = [f"--exclude=./usr/{part}" for part in ("share", "lib/python3*", "lib/modules")]
    unpack = ["tar", "-xpf", image[0].image_path, "-C", str(tree), *without]
    await anyio.run_process(unpack)
    made = ["/usr/sbin/mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(disk), "256M"]
    await anyio.run_process(made)
    before = subprocess.check_output(["sha256sum", disk])
    async with await boot(root_disk=disk, cmd=["sleep", "infinity"], **SMALL) as vm:
        await vm.exec("echo changed >/srv/app/greeting; sync")
        assert (await vm.exec("cat /srv/app/hard")).stdout == "changed\n"
    assert subprocess.check_output(["sha256sum", disk]) == before


@pytest.mark.provokes(ErrorCode.PROVISION_DISK_TOO_SMALL, ErrorCode.PROVISION_INSTALL_HOOK_FAILED)
async def test_a_build_that_fails_is_cancelled_or_is_too_large_leaves_nothing(
    tmp_path: Path, vm_home: Path
) -> None:
    out = tmp_path / "out.tar.gz"
    out.write_text("old")
    before = leftovers(vm_home)

    async def fail(vm: VmHandle) -> None:
        await vm.exec("echo no such package >&2; exit 9")

    async def do_nothing(vm: VmHandle) -> None:
        await vm.exec("true")

    async def hang(vm: VmHandle) -> None:
        hanging.set()
        await vm.exec("sleep 600")

    async def refused(**options: Any) -> ProvisionError:
        with pytest.raises(ProvisionError) as caught:
            await provision(out=out, memory=MEMORY_MIB, **options)
        return caught.value

    error = await refused(install=fail)
    assert error.code is ErrorCode.PROVISION_INSTALL_HOOK_FAILED
    assert "no such package" in str(error)
    assert error.__cause__ is not None
    error = await refused(install=do_nothing, scratch_disk_size_bytes=10 << 20)
    assert error.code is ErrorCode.PROVISION_DISK_TOO_SMALL
    hanging = anyio.Event()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lambda: provision(install=hang, out=out, memory=MEMORY_MIB))
        await hanging.wait()
        tasks.cancel_scope.cancel()
    assert out.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out.tar.gz"]
    assert leftovers(vm_home) == before


# -- the command line -----------------------------------------------------------------------------


async def test_the_verb_copies_runs_the_script_and_keeps_the_tree(
    tmp_path: Path, vm_home: Path
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "page").write_text("hello")
    script, out = tmp_path / "setup.sh", tmp_path / "web.tar"
    script.write_text(
        "#!/bin/sh\nset -e\necho installing; mv /srv/page /srv/moved; echo $A >/srv/env\n"
        "rm -r /usr/lib/python3* /usr/share /usr/lib/modules\n"  # less to archive
    )
    before = leftovers(vm_home)
    argv = [*MACHINEN, "provision", "--install", str(script), "--copy", f"{tmp_path / 'site'}:/srv"]
    argv += ["--env", "A=b c", "--cmd", "cat '/srv/moved'", "--cwd", "/srv", "-m", str(MEMORY_MIB)]
    done = await anyio.run_process([*argv, "-o", str(out), "--json"], check=False)
    assert done.returncode == 0, done.stderr.decode()
    told = json.loads(done.stdout)
    assert told["image_path"] == str(out)
    assert told["size_bytes"] == out.stat().st_size
    assert b"installing" in done.stderr
    config = read_image_config(out)
    assert config is not None
    assert (config.cmd, config.env, config.cwd) == (("cat", "/srv/moved"), {"A": "b c"}, "/srv")
    with tarfile.open(out) as tar:
        found = {name: tar.extractfile(f"./srv/{name}") for name in ("moved", "env")}
        texts = {name: file and file.read() for name, file in found.items()}
        assert "./srv/page" not in tar.getnames()
    assert texts == {"moved": b"hello", "env": b"b c\n"}
    assert leftovers(vm_home) == before

    script.write_text("#!/bin/sh\nexit 7\n")
    failed = await anyio.run_process([*argv, "-o", str(tmp_path / "no.tar")], check=False)
    assert (failed.returncode, failed.stdout) == (1, b"")
    assert b"(PROVISION_INSTALL_HOOK_FAILED)" in failed.stderr
    assert not (tmp_path / "no.tar").exists()
    assert leftovers(vm_home) == before


# -- container images ----------------------------------------------------------------------------

PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int count, char **words)
{
    char cwd[256] = "";
    const char *home = getenv("HOME"), *a = getenv("A");
    getcwd(cwd, sizeof cwd);
    printf("uid=%d gid=%d cwd=%s home=%s A=%s", getuid(), getgid(), cwd, home, a);
    for (int i = 1; i < count; i++)
        printf(" [%s]", words[i]);
    printf(" tty=%d null=%d\n", isatty(0), access("/dev/null", W_OK));
    return 7;
}
"""


async def test_a_container_image_without_shell_or_directories_runs_its_entrypoint(
    tmp_path: Path,
) -> None:
    (tmp_path / "program.c").write_text(PROGRAM)
    build = ["gcc", "-static", "-O1", "-o", str(tmp_path / "program"), str(tmp_path / "program.c")]
    await anyio.run_process(build)
    layer = layer_tar(
        {
            "program": (tmp_path / "program").read_bytes(),
            "etc/passwd": b"app:x:1000:1001::/home/app:/none\n",
            "etc/group": b"web:x:33:\n",
        }
    )
    layout = write_layout(
        tmp_path / "layout",
        [layer],
        Entrypoint=["/program"],
        Cmd=["one", "two words"],
        Env=["A=from the image"],
        WorkingDir="/made/for/it",
        User="app:web",
    )
    async with await boot(image=layout, **SMALL) as vm:
        assert (await vm.wait()).code == 7
        said = (await vm.output()).strip()
    assert said == (
        "uid=1000 gid=33 cwd=/made/for/it home=/home/app A=from the image"
        " [one] [two words] tty=1 null=0"
    )
