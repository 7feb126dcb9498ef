"""Bundles of whole machines: how they travel, and memory that is mapped or the VM's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import anyio
import pytest

from machinen_runtime.attach import attach
from machinen_runtime.boot import boot
from machinen_runtime.bundle_check import check_bundle
from machinen_runtime.errors import BootError, ErrorCode, SnapshotError
from machinen_runtime.handle import VmHandle
from machinen_runtime.restore import restore
from tests.vm.conftest import MEMORY_MIB, leftovers

pytestmark = pytest.mark.vm

FILL_AND_FREE = "head -c 120M /dev/zero > /dev/shm/fill; rm /dev/shm/fill"


@pytest.fixture(scope="module")
async def bundle(
    vm_home: Path, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A snapshot of a VM with a file in memory; the VM is gone."""
    directory = tmp_path_factory.mktemp("bundles") / "bundle"
    async with await boot(name="kept", memory=MEMORY_MIB, network="none") as vm:
        await vm.exec("echo remembered > /run/memory")
        await vm.snapshot(out_dir=directory)
    return directory


async def rss_of(vm: VmHandle) -> int:
    return (await vm.memory_stats()).host_rss_bytes or 0


async def test_a_copy_elsewhere_restores_and_counts_what_was_not_touched(
    bundle: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(bundle, tmp_path / "copy")
    async with await restore(snap_dir=copy, name="mapped") as vm:
        assert (await vm.exec("cat /run/memory")).stdout == "remembered\n"
        attached = await attach(name="mapped")
        before = (await attached.memory_stats()).lazy_pages_pending
        assert before > 0
        await vm.exec(FILL_AND_FREE)
        assert (await attached.memory_stats()).lazy_pages_pending < before


async def test_memory_of_its_own_is_all_there_and_is_given_back(bundle: Path) -> None:
    async with await restore(snap_dir=bundle, name="filled", lazy=False) as vm:
        assert (await vm.exec("cat /run/memory")).stdout == "remembered\n"
        assert (await vm.memory_stats()).lazy_pages_pending == 0
        await vm.exec("head -c 120M /dev/zero > /dev/shm/fill")
        full = await rss_of(vm)
        await vm.exec("rm /dev/shm/fill")
        with anyio.fail_after(60):
            while await rss_of(vm) > full - (80 << 20):
                await anyio.sleep(0.2)
        async with await vm.fork(name="filled-fork") as fork:
            assert (await fork.exec("cat /run/memory")).stdout == "remembered\n"


def test_the_state_of_its_devices_is_small(bundle: Path) -> None:
    """It is written while the source stands still: devices of virtio 1 would take 46 KB each."""
    assert (bundle / "vm" / "state").stat().st_size < 46 << 10


async def test_an_edited_bundle_is_refused_before_anything_starts(
    bundle: Path, tmp_path: Path, vm_home: Path
) -> None:
    copy = shutil.copytree(bundle, tmp_path / "edited")
    with open(copy / "vm" / "ram.img", "r+b") as image:
        image.seek(20 << 20)
        byte = image.read(1)
        image.seek(20 << 20)
        image.write(bytes([byte[0] ^ 1]))
    before = sorted(leftovers(vm_home))
    with pytest.raises(BootError) as caught:
        await restore(snap_dir=copy)
    assert caught.value.code is ErrorCode.BOOT_SNAPSHOT_INVALID
    assert "vm/ram.img was changed" in str(caught.value)
    assert sorted(leftovers(vm_home)) == before
    assert check_bundle(bundle).base_disk is not None


async def test_a_vm_booted_with_snapshot_false_is_neither_kept_nor_forked(
    vm_home: Path, tmp_path: Path
) -> None:
    async with await boot(memory=MEMORY_MIB, network="none", snapshot=False) as vm:
        for refused in (vm.snapshot(out_dir=tmp_path / "no"), vm.fork()):
            with pytest.raises(SnapshotError) as caught:
                await refused
            assert caught.value.code is ErrorCode.SNAPSHOT_NO_DISK
        assert not list(tmp_path.iterdir())
