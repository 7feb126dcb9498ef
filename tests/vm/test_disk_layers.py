"""A machine forked again and again: its disk keeps few layers, and every copy has the right one."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest

from machinen_runtime.boot import boot
from machinen_runtime.handle import VmHandle
from tests.vm.conftest import MEMORY_MIB, qemu_of
from vmm.disk_merge import WORTH_LAYERS

pytestmark = pytest.mark.vm

FORKS = 2 * WORTH_LAYERS + 1
FEW = WORTH_LAYERS + 4
"""What is merged with the next fork, what a template brought, the newest."""
SUM = "sync; echo 3 >/proc/sys/vm/drop_caches; cat /root/written-* | md5sum"


def open_layers(vm: VmHandle) -> int:
    """How many disk layers QEMU has open."""
    found = 0
    for link in Path(f"/proc/{qemu_of(vm).pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since
            found += ".qcow2" in str(link.readlink())
    return found


async def content(vm: VmHandle) -> str:
    """Of what was written, as it is on the disk."""
    return (await vm.exec(SUM)).stdout


async def test_a_disk_that_is_written_to_between_forks_keeps_few_layers() -> None:
    async with await boot(name="written", memory=MEMORY_MIB, network="none") as source:
        for number in range(FORKS):
            write = f"dd if=/dev/urandom of=/root/written-{number % 5} bs=1M count=1 2>&1; sync"
            await source.exec(f"{write}; rm -f /root/written-{(number + 2) % 5}")
            before = await content(source)
            async with await source.fork() as copy:
                assert await content(copy) == before == await content(source)
                await copy.exec("touch /root/new; sync")
        for _ in range(FORKS):  # a merge that was given up, on a busy host, begins anew with each
            if open_layers(source) <= FEW:
                break
            async with await source.fork():
                await source.exec("true")
        assert open_layers(source) <= FEW
        await source.exec("test ! -e /root/new")


async def test_a_disk_that_nobody_writes_to_gets_no_layers() -> None:
    async with await boot(name="unwritten", memory=MEMORY_MIB, network="none") as source:
        await source.exec("sync")
        async with await source.fork():
            few = open_layers(source)
        for _ in range(4):
            async with await source.fork() as copy:
                await copy.exec("true")
        assert open_layers(source) <= few + 1
