"""Free page reporting: what a guest frees goes back to the host, and the counters say so."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import anyio
import pytest

from machinen_runtime.boot import boot
from machinen_runtime.handle import VmHandle
from machinen_runtime.memory import read_balloon_stats, read_host_rss_bytes
from vmm.requests import StatsEvent

pytestmark = pytest.mark.vm

MIB = 1 << 20
FILLED = 300 * MIB


@pytest.fixture(scope="module")
async def roomy(vm_home: Path, anyio_backend: str) -> AsyncGenerator[VmHandle]:
    # Memory of its own; maps of an image are in test_given_back.py.
    async with await boot(name="roomy", memory=1024, network="none", warm=False) as handle:
        yield handle


async def until(condition: Callable[[], bool]) -> None:
    """Wait for the kernels of host and guest, which tell nobody."""
    with anyio.fail_after(120):
        while not condition():
            await anyio.sleep(0.2)


async def test_memory_that_a_guest_frees_goes_back_to_the_host(roomy: VmHandle) -> None:
    def resident() -> int:
        return read_host_rss_bytes(roomy.pid) or 0

    def returned() -> int:
        assert roomy.entry.stats_path is not None
        counters = read_balloon_stats(roomy.entry.stats_path)
        assert counters is not None
        return counters.bytes_reported

    before, returned_before = resident(), returned()
    await roomy.exec("head -c 300M /dev/zero > /dev/shm/full")
    assert resident() > before + FILLED * 0.9
    full = resident()
    await roomy.exec("rm /dev/shm/full")
    await until(lambda: resident() < full - FILLED * 0.8)
    await until(lambda: returned() > returned_before + FILLED * 0.8)
    stats = await roomy.memory_stats()
    assert stats.balloon_inflated_bytes >= returned_before + FILLED * 0.8
    assert stats.ceiling_mib == 1024
    async with roomy.events(stats_interval_ms=250) as events:
        async for event in events:
            if isinstance(event, StatsEvent):
                assert event.balloon_bytes >= FILLED * 0.8
                break


async def test_what_is_not_given_back_is_not_counted(roomy: VmHandle) -> None:
    assert roomy.entry.stats_path is not None
    before = read_balloon_stats(roomy.entry.stats_path)
    await roomy.exec("head -c 100M /dev/zero > /dev/shm/kept")
    after = read_balloon_stats(roomy.entry.stats_path)
    assert before is not None
    assert after is not None
    assert after.bytes_reported - before.bytes_reported < 50 * MIB
    assert (after.bytes_inflated, after.host_phys_footprint_bytes) == (0, 0)
