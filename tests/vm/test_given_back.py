"""Copies give freed memory back: to the host, and out of nobody else's memory."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

import vmm
from machinen_runtime.boot import boot
from machinen_runtime.handle import VmHandle
from machinen_runtime.memory import read_balloon_stats
from machinen_runtime.restore import restore
from tests.vm.conftest import qemu_of
from vmm.arch import arch_for
from vmm.build_shim import compile_shim
from vmm.machine import COMMAND_LINE

pytestmark = pytest.mark.vm

MIB = 1 << 20
FILLED_MIB = 240
BLOCK_MIB = 16
MOST = 0.75
"""Of what is freed: the rest lies in blocks with something else in them."""
MEMORY_MIB = 768


@pytest.fixture(scope="module", autouse=True)
def shim(vm_home: Path) -> None:
    """Compiled by the set-up; again here, where the sources may be newer."""
    compile_shim(Path(vmm.__file__).parent)


@pytest.fixture(scope="module")
async def elder(shim: None, anyio_backend: str) -> AsyncGenerator[VmHandle]:
    """A VM with contents in memory that must never change."""
    async with await boot(name="elder", memory=MEMORY_MIB, network="none") as vm:
        await keep(vm, "first", 48)
        yield vm


@dataclass(frozen=True)
class ImageFacts:
    """What tells whether anybody has changed an image."""

    digest: str
    mtime_ns: int
    ctime_ns: int
    blocks: int


def facts_of(path: Path) -> ImageFacts:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    status = path.stat()
    return ImageFacts(digest, status.st_mtime_ns, status.st_ctime_ns, status.st_blocks)


async def keep(vm: VmHandle, name: str, size_mib: int) -> None:
    """Random contents in the guest's memory, and their checksum."""
    await vm.exec(
        f"cd /dev/shm && head -c {size_mib}M /dev/urandom > {name}.bin"
        f" && md5sum {name}.bin > {name}.md5"
    )


async def kept(vm: VmHandle) -> str:
    """What `md5sum` says about all that was kept, page cache and memory files alike."""
    return (await vm.exec("cd /dev/shm && md5sum --quiet -c *.md5 && ls *.md5")).stdout


def image_of(vm: VmHandle) -> tuple[int, int]:
    """Device and inode of the image that a VM's RAM is a map of."""
    for argument in qemu_of(vm).cmdline():
        if "memory-backend-file" in argument:
            image = argument.partition("mem-path=")[2].partition(",")[0]
            break
    else:
        raise AssertionError("its RAM is no map of an image")
    for line in Path(f"/proc/{qemu_of(vm).pid}/maps").read_text().splitlines():
        if image in line:
            major, minor = (int(part, 16) for part in line.split()[3].split(":"))
            return os.makedev(major, minor), int(line.split()[4])
    raise AssertionError(f"{image} is not mapped")


def own_bytes(vm: VmHandle) -> int:
    """Memory that is QEMU's alone."""
    text = Path(f"/proc/{qemu_of(vm).pid}/smaps_rollup").read_text()
    return int(text.partition("Private_Dirty:")[2].split()[0]) * 1024


def returned_bytes(vm: VmHandle) -> int:
    assert vm.entry.stats_path is not None
    counters = read_balloon_stats(vm.entry.stats_path)
    assert counters is not None
    return counters.bytes_reported


async def until(condition: Callable[[], bool]) -> None:
    """Wait for the kernels of host and guest, which tell nobody."""
    with anyio.fail_after(120):
        while not condition():
            await anyio.sleep(0.2)


async def fill(vm: VmHandle) -> None:
    """Have the guest take FILLED_MIB for a file. A guest under TCG takes random contents from its
    kernel at 40 MB/s: it has a block of them, which it keeps, and writes that many times.
    """
    make = f"[ -e /run/block ] || head -c {BLOCK_MIB}M /dev/urandom > /run/block"
    times = FILLED_MIB // BLOCK_MIB
    await vm.exec(f"{make}; for n in $(seq {times}); do cat /run/block; done > /dev/shm/filled")


async def fill_and_free(vm: VmHandle) -> None:
    """Have the guest take memory and free it, and wait until most of it is the host's again."""
    await fill(vm)
    full, returned = own_bytes(vm), returned_bytes(vm)
    assert full > FILLED_MIB * MIB
    await vm.exec("rm /dev/shm/filled")
    await until(lambda: own_bytes(vm) < full - MOST * FILLED_MIB * MIB)
    await until(lambda: returned_bytes(vm) > returned + MOST * FILLED_MIB * MIB)


async def test_a_fork_gives_back_what_it_frees_and_nobody_else_notices(
    elder: VmHandle, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    async with AsyncExitStack() as stack:
        siblings = await elder.fork_many(2, name="sibling", out_dir=bundle)
        for sibling in siblings:
            await stack.enter_async_context(sibling)
        first, second = siblings
        image = bundle / "vm/ram.img"
        before = facts_of(image)
        status = image.stat()
        assert image_of(first) == image_of(second) == (status.st_dev, status.st_ino)
        await fill_and_free(first)
        await fill_and_free(first)  # what was given back is taken again, and given back again
        assert facts_of(image) == before
        assert await kept(first) == await kept(second) == await kept(elder) == "first.md5\n"
        async with await restore(snap_dir=bundle, name="later") as later:
            assert await kept(later) == "first.md5\n"
            await fill_and_free(later)
        assert facts_of(image) == before
        assert await kept(second) == "first.md5\n"


async def test_qemu_can_only_read_what_it_maps(elder: VmHandle) -> None:
    async with await elder.fork(name="reader") as fork:
        wanted, found = image_of(fork), list[int]()
        directory = Path(f"/proc/{qemu_of(fork).pid}/fd")
        for descriptor in directory.iterdir():
            status = descriptor.stat()
            if (status.st_dev, status.st_ino) == wanted:
                info = (directory.parent / "fdinfo" / descriptor.name).read_text()
                found.append(int(info.partition("flags:")[2].split()[0], 8) & os.O_ACCMODE)
        assert found
        assert set(found) == {os.O_RDONLY}


async def test_three_generations_that_all_gave_memory_back_have_it_right(elder: VmHandle) -> None:
    async with AsyncExitStack() as stack:
        vm = elder
        for generation in ("second", "third", "fourth"):
            vm = await stack.enter_async_context(await vm.fork(name=generation))
            await fill_and_free(vm)
            await keep(vm, generation, 24)  # into pages that were given back, among others
        assert await kept(vm) == "first.md5\nfourth.md5\nsecond.md5\nthird.md5\n"
        # What was part of the snapshot is freed, taken and given back in the copy alone.
        last = await stack.enter_async_context(await vm.fork(name="fifth"))
        await last.exec("cd /dev/shm && rm first.* second.*")
        await fill_and_free(last)
        await keep(last, "fifth", 64)
        assert await kept(last) == "fifth.md5\nfourth.md5\nthird.md5\n"
        assert await kept(vm) == "first.md5\nfourth.md5\nsecond.md5\nthird.md5\n"
        assert await kept(elder) == "first.md5\n"
        again = await stack.enter_async_context(await last.fork(name="sixth"))
        assert await kept(again) == "fifth.md5\nfourth.md5\nthird.md5\n"


async def test_a_warm_boot_gives_memory_back_and_leaves_its_template_alone(elder: VmHandle) -> None:
    async with await boot(name="warm", memory=MEMORY_MIB, network="none") as warm:
        assert warm.entry.booted == "warm"
        argument = next(each for each in qemu_of(warm).cmdline() if "memory-backend-file" in each)
        template = Path(argument.partition("mem-path=")[2].partition(",")[0])
        before = facts_of(template)
        await fill_and_free(warm)
        assert facts_of(template) == before
    async with await boot(name="warm", memory=MEMORY_MIB, network="none") as next_one:
        assert next_one.entry.booted == "warm"
        await keep(next_one, "anything", 8)
        assert await kept(next_one) == "anything.md5\n"


async def test_a_guest_that_counts_on_zeroed_free_memory_reports_none(elder: VmHandle) -> None:
    features = "cd /sys/bus/virtio/drivers/virtio_balloon && cut -c 5-6 virtio*/features"
    assert (await elder.exec(features)).stdout == "01\n", "not poisoned, reported"
    console = arch_for(platform.machine()).console_device
    append = f"console={console} {COMMAND_LINE} init_on_free=1"
    async with await boot(
        name="zeroing", memory=MEMORY_MIB, network="none", args=["-append", append]
    ) as zeroing:
        assert (await zeroing.exec(features)).stdout == "00\n"


async def test_without_the_shim_a_fork_keeps_its_memory_and_all_else_holds(
    elder: VmHandle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MACHINEN_GIVE_BACK", "off")
    bundle = tmp_path / "bundle"
    async with await elder.fork(name="keeper", out_dir=bundle) as fork:
        assert any("readonly=on" in argument for argument in qemu_of(fork).cmdline())
        before = facts_of(bundle / "vm/ram.img")
        await fill(fork)
        full = own_bytes(fork)
        await fork.exec("rm /dev/shm/filled; sync")
        await fork.exec("sleep 5")  # the guest tells of what is free after two seconds
        assert own_bytes(fork) > full - 16 * MIB
        assert facts_of(bundle / "vm/ram.img") == before
        assert await kept(fork) == "first.md5\n"
