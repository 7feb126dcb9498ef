"""Files, secrets and window sizes into a real guest and out of it; `machinen cp`."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import anyio
import pytest

from machinen_runtime.channel_files import VsockFiles
from machinen_runtime.channel_secrets import VsockSecrets
from machinen_runtime.channel_winsize import VsockWinsize
from machinen_runtime.errors import ErrorCode, ExecError, FilesError
from machinen_runtime.guest_copy import copy_into
from machinen_runtime.handle import VmHandle
from tests.vm.child import MACHINEN

pytestmark = pytest.mark.vm

LARGE = 48 << 20


async def machinen(
    *args: str, stdin: bytes = b"", cwd: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    return await anyio.run_process([*MACHINEN, *args], input=stdin, check=False, cwd=cwd)


def tree(root: Path) -> dict[str, tuple[int, str]]:
    """Path → permission bits and contents or where it leads, of all below `root`."""
    found: dict[str, tuple[int, str]] = {}
    for path in sorted(root.rglob("*")):
        what = (
            f"-> {path.readlink()}"
            if path.is_symlink()
            else "dir"
            if path.is_dir()
            else hashlib.sha256(path.read_bytes()).hexdigest()
        )
        found[str(path.relative_to(root))] = (path.lstat().st_mode & 0o777, what)
    return found


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with what one finds in such."""
    root = tmp_path / "project"
    (root / "sub" / "empty").mkdir(parents=True)
    (root / ".hidden").write_text("h")
    (root / "run.sh").write_text("#!/bin/sh\n")
    (root / "run.sh").chmod(0o755)
    (root / "secret").write_text("s")
    (root / "secret").chmod(0o600)
    (root / "sub" / "größe ünd \n newline").write_bytes(os.urandom(100_000))
    (root / "link").symlink_to("run.sh")
    (root / "dangling").symlink_to("/nowhere")
    (root / "sub" / "cache.pyc").write_text("c")
    (root / "sub").chmod(0o750)
    return root


async def test_a_directory_goes_there_and_back_as_it_was(
    vm: VmHandle, project: Path, tmp_path: Path
) -> None:
    sent, received = 0, 0

    def count_sent(size: int) -> None:
        nonlocal sent
        sent += size

    def count_received(size: int) -> None:
        nonlocal received
        received += size

    await VsockFiles.push(vm.vsock_path, project, "/srv/p", excludes=["*.pyc"], on_bytes=count_sent)
    owners = await vm.exec("find /srv/p ! -user root -o ! -group root")
    assert owners.stdout == ""
    await VsockFiles.pull(vm.vsock_path, "/srv/p", tmp_path / "back", on_bytes=count_received)
    expected = tree(project)
    del expected["sub/cache.pyc"]
    assert tree(tmp_path / "back") == expected
    assert min(sent, received) > 100_000
    await VsockFiles.pull(vm.vsock_path, "/srv/p", tmp_path / "less", excludes=[".hidden", "sub"])
    assert set(tree(tmp_path / "less")) == {"run.sh", "secret", "link", "dangling"}


async def test_a_copy_that_fails_in_the_guest_is_an_error_here(
    vm: VmHandle, project: Path, tmp_path: Path
) -> None:
    for guest_path in ("/proc/nope", "/etc/passwd/below"):
        with pytest.raises(FilesError) as caught:
            await VsockFiles.push(vm.vsock_path, project, guest_path)
        assert caught.value.code is ErrorCode.FILES_TRANSFER_FAILED
    await vm.exec("mkdir -p /mnt/tiny && mount -t tmpfs -o size=64k none /mnt/tiny")
    with pytest.raises(FilesError, match="No space left"):
        await VsockFiles.push(vm.vsock_path, project, "/mnt/tiny")
    with pytest.raises(FilesError, match="No such file"):
        await VsockFiles.pull(vm.vsock_path, "/no/such", tmp_path / "x")


async def test_a_file_of_any_size_is_written_whole_or_not_at_all(vm: VmHandle) -> None:
    data = os.urandom(LARGE)
    await vm.write_file("/var/big", data, mode=0o600)
    told = await vm.exec(
        "sha256sum < /var/big; stat -c %a /var/big; ls -A /var | grep machinen- || :"
    )
    assert told.stdout.split()[0] == hashlib.sha256(data).hexdigest()
    assert told.stdout.split()[2:] == ["600"]


async def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(vm: VmHandle) -> None:
    await vm.exec("mkdir -p /srv/w; echo old > /srv/w/file")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(vm.write_file, "/srv/w/file", bytes(LARGE))
        with anyio.fail_after(60):
            await vm.exec("until [ $(ls -A /srv/w | wc -l) -gt 1 ]; do :; done")  # it has begun
        assert (await vm.exec("cat /srv/w/file")).stdout == "old\n", "and is not done"
        tasks.cancel_scope.cancel()
    with anyio.fail_after(60):
        while (await vm.exec("ls -A /srv/w")).stdout != "file\n":
            await anyio.sleep(0.2)  # the guest hangs up on the command that wrote
    assert (await vm.exec("cat /srv/w/file")).stdout == "old\n"


async def test_cp_names_things_the_way_cp_does(vm: VmHandle, project: Path, tmp_path: Path) -> None:
    name = str(vm.name)
    await vm.exec("rm -rf /srv/c; mkdir -p /srv/c")
    for args in (
        ["project/run.sh", f"{name}:/srv/c/"],
        ["project/run.sh", f"{name}:/srv/c/as.sh"],
        ["-r", "-x", "*.pyc", "project", f"{name}:/srv/c"],
        ["-r", "project/.", f"{name}:/srv/c/flat"],
        ["project/secret", f"{name}:relative"],
    ):
        done = await machinen("cp", *args, cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    listed = await vm.exec("cd /srv/c; find . -maxdepth 2 | sort; stat -c %a as.sh /root/relative")
    assert listed.stdout.split()[-2:] == ["755", "600"]
    assert {"./as.sh", "./run.sh", "./project/run.sh", "./flat/run.sh"} <= set(
        listed.stdout.split()
    )
    for args in (
        [f"{name}:/srv/c/as.sh", "."],
        [f"{name}:/srv/c/as.sh", "copied"],
        ["-r", f"{name}:/srv/c/project", "again"],
        ["-r", f"{name}:/srv/c/project", "again"],  # it is there now: below it
    ):
        assert (await machinen("cp", *args, cwd=tmp_path)).returncode == 0
    assert (tmp_path / "as.sh").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "copied").read_text() == "#!/bin/sh\n"
    expected = tree(project)
    del expected["sub/cache.pyc"]
    assert tree(tmp_path / "again" / "project") == expected
    assert not list(tmp_path.glob(".machinen-*"))


async def test_a_large_file_arrives_whole_or_leaves_what_was_there(
    vm: VmHandle, tmp_path: Path
) -> None:
    data = os.urandom(LARGE + 1)
    (tmp_path / "large").write_bytes(data)
    (tmp_path / "large").chmod(0o640)
    await vm.exec("mkdir -p /srv/l /mnt/small; mount -t tmpfs -o size=2m none /mnt/small")
    assert (await machinen("cp", "large", f"{vm.name}:/srv/l", cwd=tmp_path)).returncode == 0
    told = await vm.exec("sha256sum < /srv/l/large; stat -c %a /srv/l/large; ls -A /srv/l")
    assert told.stdout.split()[0] == hashlib.sha256(data).hexdigest()
    assert told.stdout.split()[2:] == ["640", "large"]
    assert (await machinen("cp", f"{vm.name}:/srv/l/large", "back", cwd=tmp_path)).returncode == 0
    assert (tmp_path / "back").read_bytes() == data

    full = await machinen("cp", "large", f"{vm.name}:/mnt/small/", cwd=tmp_path)
    assert full.returncode != 0
    assert b"No space left" in full.stderr
    assert (await vm.exec("ls -A /mnt/small")).stdout == ""

    sum_before = told.stdout.split()[0]
    (tmp_path / "large").write_bytes(bytes(LARGE))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(copy_into, vm.vsock_path, tmp_path / "large", "/srv/l/large")
        with anyio.fail_after(60):
            await vm.exec("until [ $(ls -A /srv/l | wc -l) -gt 1 ]; do :; done")  # it has begun
        tasks.cancel_scope.cancel()
    with anyio.fail_after(60):
        while (await vm.exec("ls -A /srv/l")).stdout != "large\n":
            await anyio.sleep(0.2)  # the guest hangs up on the command that waits
    assert sum_before in (await vm.exec("sha256sum < /srv/l/large")).stdout


async def test_cp_through_pipes(vm: VmHandle, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    assert (await machinen("cp", "-", f"{vm.name}:/srv/piped", stdin=data)).returncode == 0
    assert (await machinen("cp", f"{vm.name}:/srv/piped", "-")).stdout == data
    assert (await machinen("cp", "-", f"{vm.name}:/srv/empty")).returncode == 0
    assert (await machinen("cp", f"{vm.name}:/srv/empty", "-")).stdout == b""


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["{}:/etc", "x"], "copy it with -r"),
        ([".", "{}:/srv/x"], "copy it with -r"),
        (["{}:/no/such", "x"], "there is no /no/such"),
        (["nothing", "{}:/srv/x"], "there is no nothing"),
        (["-", "{}:/etc"], "is a directory"),
    ],
)
async def test_cp_says_what_is_wrong(
    vm: VmHandle, tmp_path: Path, args: list[str], said: str
) -> None:
    words = [word.format(vm.name) for word in args]
    done = await machinen("cp", *words, cwd=tmp_path)
    assert done.returncode == 1
    assert said in done.stderr.decode()
    assert list(tmp_path.iterdir()) == []


async def test_a_hostile_guests_archive_stays_below_its_target(
    vm: VmHandle, tmp_path: Path
) -> None:
    """The guest's own tar is what answers a pull: here it is one that lies."""
    await vm.exec("cp /usr/bin/tar /usr/bin/tar.real; mkdir -p /srv/evil")
    lie = (
        "import sys, tarfile, io\n"
        "out = tarfile.open(fileobj=sys.stdout.buffer, mode='w|')\n"
        "for name, kind, link in LIES:\n"
        "    info = tarfile.TarInfo(name); info.type = kind; info.linkname = link\n"
        "    out.addfile(info, io.BytesIO())\n"
        "out.close()\n"
    )
    lies = {
        "dots": [("../escaped", "0", "")],
        "absolute": [(f"{tmp_path}/escaped", "0", "")],
        "through a link": [("out", "2", str(tmp_path)), ("out/escaped", "0", "")],
        "a hard link out": [("escaped", "1", "../outside")],
    }
    (tmp_path / "outside").write_text("mine")
    try:
        for title, entries in lies.items():
            members = [(name, kind.encode(), link) for name, kind, link in entries]
            script = f"#!/usr/bin/python3\n{lie.replace('LIES', repr(members))}"
            await vm.write_file("/usr/bin/tar", script, mode=0o755)
            with pytest.raises(FilesError):
                await VsockFiles.pull(vm.vsock_path, "/srv/evil", tmp_path / "target")
            assert not (tmp_path / "escaped").exists(), title
            assert not (tmp_path / "target" / "escaped").exists(), title
    finally:
        await vm.exec("mv /usr/bin/tar.real /usr/bin/tar")
    assert (tmp_path / "outside").read_text() == "mine"


async def test_secrets_replace_each_other_and_are_roots_alone(vm: VmHandle) -> None:
    await VsockSecrets.send(vm.vsock_path, {"OLD": "1"})
    assert await VsockSecrets.send(vm.vsock_path, {"A": "x=y z", "not-one": "1", "B": ""}) == 2
    shown = await vm.exec("cat /etc/machinen.env; stat -c %a /etc/machinen.env")
    assert shown.stdout == "A=x=y z\nB=\n600\n"
    done = await machinen("secrets", "set", str(vm.name), "-", stdin=b"C=3\n")
    assert done.returncode == 0
    assert (await vm.exec("cat /etc/machinen.env")).stdout == "C=3\n"


async def test_the_window_of_session_main_follows(vm: VmHandle) -> None:
    async with await VsockWinsize.connect(vm.vsock_path) as window:
        for cols, rows in ((101, 41), (101, 41), (80, 24)):
            await window.send(cols, rows)
            (main,) = [each for each in await vm.sessions() if each.name == "main"]
            assert (main.cols, main.rows) == (cols, rows)
    await window.send(1, 1)  # closed: nothing happens


async def test_an_oversized_request_is_refused_before_it_is_sent(vm: VmHandle) -> None:
    for path in ("relative", "/srv/", "/srv/\0"):
        with pytest.raises(ExecError) as caught:
            await vm.write_file(path, b"")
        assert caught.value.code is ErrorCode.EXEC_REQUEST_INVALID
