"""`mount`: a copied directory in real guests, through boots, snapshots and forks."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from machinen_runtime.boot import boot
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.handle import VmHandle
from machinen_runtime.option_types import Mount
from machinen_runtime.restore import restore
from tests.vm.conftest import MEMORY_MIB, leftovers

pytestmark = pytest.mark.vm

GUEST = "/mnt/work"
UPPER_BYTES = 64 << 20


@pytest.fixture(scope="module")
def host_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is mounted: a file, a script, a link, a file of some size."""
    directory = tmp_path_factory.mktemp("host")
    (directory / "sub").mkdir()
    (directory / "hello").write_text("from the host\n")
    (directory / "sub/run.sh").write_text("#!/bin/sh\necho it runs\n")
    (directory / "sub/run.sh").chmod(0o755)
    (directory / "link").symlink_to("sub/run.sh")
    (directory / "noise").write_bytes(os.urandom(3_000_001))
    os.utime(directory / "hello", (1000, 1000))
    return directory


@pytest.fixture(scope="module")
async def vm(vm_home: Path, anyio_backend: str, host_directory: Path) -> AsyncGenerator[VmHandle]:
    async with await boot(
        name="mounted",
        memory=MEMORY_MIB,
        network="none",
        mount=Mount(host=host_directory, guest=GUEST),
        mount_disk_upper_size_bytes=UPPER_BYTES,
        guest_cwd=GUEST,
    ) as handle:
        yield handle


async def said(vm: VmHandle, command: str) -> str:
    return (await vm.exec(command, cwd=GUEST)).stdout


async def test_the_guest_finds_the_directory_as_it_was(vm: VmHandle, host_directory: Path) -> None:
    assert await said(vm, "cat hello; ./link; readlink link") == (
        "from the host\nit runs\nsub/run.sh\n"
    )
    assert await said(vm, "stat -c '%a %U %Y' hello sub/run.sh | head -1") == "644 root 1000\n"
    expected = hashlib.sha256((host_directory / "noise").read_bytes()).hexdigest()
    assert (await said(vm, "sha256sum < noise")).split()[0] == expected
    entry = vm.entry.mount_disk
    assert entry is not None
    assert entry.guest == GUEST
    assert Path(entry.lower_path).is_file()


async def test_the_workload_starts_in_it(vm: VmHandle) -> None:
    pid = next(each.pid for each in await vm.sessions() if each.name == "main")
    assert await said(vm, f"readlink /proc/{pid}/cwd") == f"{GUEST}\n"


async def test_what_the_guest_writes_stays_in_the_guest(vm: VmHandle, host_directory: Path) -> None:
    await vm.exec("echo mine > hello; rm link; mkdir new; mv sub/run.sh new/; sync", cwd=GUEST)
    assert await said(vm, "cat hello; ls new; ls") == "mine\nrun.sh\nhello\nnew\nnoise\nsub\n"
    assert (host_directory / "hello").read_text() == "from the host\n"
    assert (host_directory / "link").is_symlink()
    await vm.exec("echo 'from the host' > hello; mv new/run.sh sub/; rmdir new", cwd=GUEST)
    await vm.exec("ln -s sub/run.sh link", cwd=GUEST)


async def test_its_room_is_the_size_that_was_asked_for(vm: VmHandle) -> None:
    room = int(await said(vm, "df --output=size -B1 . | tail -1"))
    assert UPPER_BYTES // 2 < room < UPPER_BYTES
    code = (await vm.exec_raw("dd if=/dev/zero of=much bs=1M count=70; rm much", cwd=GUEST)).stderr
    assert "No space left on device" in code


async def test_forks_go_on_with_it_and_write_apart(vm: VmHandle) -> None:
    await vm.exec("echo before > kept", cwd=GUEST)  # not synced: in memory still
    async with await vm.fork(name="apart") as fork:
        assert await said(fork, "cat kept hello") == "before\nfrom the host\n"
        await fork.exec("echo fork > kept; echo only > in-fork; sync", cwd=GUEST)
        await vm.exec("echo source > kept; sync", cwd=GUEST)
        async with await fork.fork(name="deeper") as deeper:
            assert await said(deeper, "cat kept in-fork; ./link") == "fork\nonly\nit runs\n"
        assert await said(vm, "cat kept; ls in-fork 2>&1 || true") == (
            "source\nls: cannot access 'in-fork': No such file or directory\n"
        )


async def test_a_bundle_needs_neither_the_directory_nor_the_cache(
    vm: VmHandle, tmp_path: Path, vm_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await vm.exec("echo snapped > kept; cp noise copy; sync", cwd=GUEST)
    bundle = tmp_path / "bundle"
    await vm.snapshot(out_dir=bundle, leave_running=True)
    assert {"meta.json", "vm", "mount-lower.sqfs", "mount-upper.img"} == {
        path.name for path in bundle.iterdir()
    }
    moved = Path(shutil.copytree(bundle, tmp_path / "elsewhere"))
    shutil.rmtree(bundle)
    monkeypatch.setenv("MACHINEN_CACHE_DIR", str(tmp_path / "cache"))
    async with await restore(snap_dir=moved, name="again") as again:
        await again.exec("echo 3 > /proc/sys/vm/drop_caches")  # what is read lies on the disks
        assert await said(again, "cmp noise copy && echo equal") == "equal\n"
        assert await said(again, "cat kept hello; ./link") == "snapped\nfrom the host\nit runs\n"
        await again.exec("echo again > kept; sync", cwd=GUEST)
    async with await restore(snap_dir=moved, name="once-more") as again:
        assert await said(again, "cat kept") == "snapped\n"
    (moved / "mount-lower.sqfs").unlink()
    before = leftovers(vm_home)
    with pytest.raises(BootError) as caught:
        await restore(snap_dir=moved)
    assert caught.value.code is ErrorCode.BOOT_SNAPSHOT_INVALID
    assert "mount-lower.sqfs" in str(caught.value)
    assert leftovers(vm_home) == before
