"""`root_disk=False`: the disk is only read, what the guest writes goes with its memory."""

from __future__ import annotations

import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from machinen_runtime.boot import boot
from machinen_runtime.bundle import read_bundle
from machinen_runtime.handle import VmHandle
from machinen_runtime.restore import restore
from tests.vm.conftest import MEMORY_MIB

pytestmark = pytest.mark.vm


@pytest.fixture(scope="module")
async def vm(vm_home: Path, anyio_backend: str) -> AsyncGenerator[VmHandle]:
    """A VM without a disk of its own; when it has ended, nobody has written to the base."""
    async with await boot(
        name="diskless", memory=MEMORY_MIB, network="none", root_disk=False
    ) as handle:
        base = Path(handle.entry.disk_path or "")
        before = base.stat()
        yield handle
    after = base.stat()
    assert (after.st_mtime_ns, after.st_blocks) == (before.st_mtime_ns, before.st_blocks)


async def said(vm: VmHandle, command: str) -> str:
    return (await vm.exec(command)).stdout


def disk_files(vm: VmHandle) -> list[Path]:
    """Files of this VM that a disk could be."""
    return [path for each in vm.entry.cleanup_paths for path in Path(each).glob("*.qcow2")]


async def test_the_root_is_writable_and_the_disk_is_not(vm: VmHandle) -> None:
    assert await said(vm, "stat -f -c %T / && cat /sys/block/vda/ro") == "overlayfs\n1\n"
    assert await said(vm, "grep -c -e ' /lower ' -e ' /ram ' /proc/mounts || true") == "0\n"
    refused = await vm.exec_raw("dd if=/dev/zero of=/dev/vda count=1")
    assert "not permitted" in refused.stderr
    await vm.exec("echo mine > /etc/motd; rm /etc/issue; echo a > /root/a; sync")
    assert await said(vm, "cat /etc/motd /root/a; ls /etc/issue || true") == "mine\na\n"
    assert disk_files(vm) == []


async def test_directories_of_the_image_can_be_renamed(vm: VmHandle) -> None:
    listing = await said(vm, "cd /etc/apt && ls -R .")
    await vm.exec("python3 -c \"import os; os.rename('/etc/apt', '/etc/moved')\"")
    assert await said(vm, "cd /etc/moved && ls -R .") == listing
    await vm.exec("python3 -c \"import os; os.rename('/etc/moved', '/etc/apt')\"")
    assert await said(vm, "cd /etc/apt && ls -R .") == listing


async def test_a_root_that_is_full_says_so_and_the_vm_lives(vm: VmHandle) -> None:
    full = await vm.exec_raw(f"dd if=/dev/zero of=/root/much bs=1M count={MEMORY_MIB}")
    assert "No space left on device" in full.stderr
    await vm.exec("rm /root/much")
    assert await said(vm, "echo alive") == "alive\n"


async def test_forks_carry_the_changes_and_write_apart(vm: VmHandle) -> None:
    await vm.exec("echo before > /root/kept")  # not synced, and there is nowhere to sync to
    async with await vm.fork(name="diskless-fork") as fork:
        assert await said(fork, "cat /root/kept") == "before\n"
        await fork.exec("echo fork > /root/kept; echo only > /root/in-fork")
        await vm.exec("echo source > /root/kept")
        async with await fork.fork(name="diskless-deeper") as deeper:
            assert await said(deeper, "cat /root/kept /root/in-fork") == "fork\nonly\n"
            assert disk_files(deeper) == []
        assert await said(fork, "cat /root/kept") == "fork\n"
        assert await said(vm, "cat /root/kept; ls /root/in-fork || true") == "source\n"
        assert disk_files(fork) == []


async def test_a_bundle_holds_no_disk_and_its_ram_the_changes(vm: VmHandle, tmp_path: Path) -> None:
    await vm.exec("echo snapped > /root/kept")
    await vm.snapshot(out_dir=tmp_path / "bundle", leave_running=True)
    moved = Path(shutil.move(tmp_path / "bundle", tmp_path / "moved"))
    meta = read_bundle(moved)
    assert meta.machine.root_in_ram
    assert sorted(meta.files) == ["vm/ram.img", "vm/state"]
    await vm.exec("echo later > /root/kept")
    async with await restore(snap_dir=moved, lazy=False) as again:
        assert await said(again, "cat /root/kept /etc/motd") == "snapped\nmine\n"


async def test_engine_criu_takes_its_processes_to_another_such_vm(vm: VmHandle) -> None:
    async with await vm.fork(name="diskless-criu", engine="criu") as fork:
        assert await said(fork, "stat -f -c %T / && cat /sys/block/vda/ro") == "overlayfs\n1\n"
        assert [each.name for each in await fork.sessions()] == ["main"]
        assert disk_files(fork) == []
