"""Several forks in one call: monitors out of one nest, of which nothing is left when it is over."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import psutil
import pytest

from machinen_runtime.boot import boot
from machinen_runtime.gc import run_gc
from machinen_runtime.handle import VmHandle
from machinen_runtime.pids import child_pids, wait_process_gone
from machinen_runtime.registry import live_entries
from tests.fakes import until
from tests.vm.child import MACHINEN
from tests.vm.conftest import MEMORY_MIB, leftovers, qemu_of
from vmm.requests import EXIT_QEMU_DIED, EXIT_TERMINATED

pytestmark = pytest.mark.vm

GONE_MS = 30_000


@pytest.fixture(scope="module")
async def source(vm_home: Path, anyio_backend: str) -> AsyncGenerator[VmHandle]:
    async with await boot(name="source", memory=MEMORY_MIB, network="none") as vm:
        yield vm


def nests_of(client: int) -> list[int]:
    """The nests among a process' children."""
    return [pid for pid in child_pids(client) if "--nest" in psutil.Process(pid).cmdline()]


@pytest.mark.parametrize("detached", [False, True])
async def test_of_three_siblings_one_may_die_and_the_others_do_not_notice(
    source: VmHandle, detached: bool
) -> None:
    first, *others = await source.fork_many(3, name="three", detached=detached)
    async with AsyncExitStack() as stack:
        for fork in (first, *others):
            stack.push_async_callback(fork.kill)
        assert nests_of(os.getpid()) == []
        parents = {psutil.Process(fork.pid).ppid() for fork in (first, *others)}
        assert os.getpid() not in parents
        assert [os.getsid(fork.pid) for fork in (first, *others)] == [
            fork.pid for fork in (first, *others)
        ]
        qemu = qemu_of(first).pid
        os.kill(first.pid, signal.SIGKILL)
        assert await wait_process_gone(qemu, timeout_ms=GONE_MS)
        if not detached:
            assert (await first.wait()).signal == "SIGKILL"
        for fork in others:
            await fork.exec(f"echo {fork.name} > /run/mine")
        for fork in others:
            assert (await fork.exec("cat /run/mine; hostname")).stdout.split() == [fork.name] * 2
        assert (await source.exec("cat /run/mine || echo none")).stdout == "none\n"


async def test_how_siblings_end_their_client_hears(source: VmHandle) -> None:
    killed, told = await source.fork_many(2, name="ends")
    async with killed, told:
        await killed.kill()
        assert (await killed.wait()).code == EXIT_TERMINATED
        os.kill(qemu_of(told).pid, signal.SIGKILL)
        assert (await told.wait()).code == EXIT_QEMU_DIED
    assert [entry.name for entry in live_entries()] == ["source"]


async def test_a_client_that_is_killed_takes_nest_and_siblings_along(
    source: VmHandle, vm_home: Path
) -> None:
    before = sorted(leftovers(vm_home))
    argv = [*MACHINEN, "fork", "source", "--count", "3", "--new-name", "orphan"]
    async with await anyio.open_process(argv, stdout=None, stderr=None) as client:
        await until(lambda: any(child_pids(nest) for nest in nests_of(client.pid)))
        (nest,) = nests_of(client.pid)
        hatched = child_pids(nest)
        client.kill()
    for pid in (nest, *hatched):
        assert await wait_process_gone(pid, timeout_ms=GONE_MS)
    await until(lambda: [entry.name for entry in live_entries()] == ["source"])
    run_gc()
    assert sorted(leftovers(vm_home)) == before
    assert (await source.exec("echo alive")).stdout == "alive\n"
