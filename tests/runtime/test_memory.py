"""Memory: what the host says, and the gate in front of a fork."""

from __future__ import annotations

import os
import struct
import subprocess
from pathlib import Path

import pytest

from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.memory import (
    BalloonCounters,
    check_fork_backpressure,
    read_balloon_stats,
    read_host_free_bytes,
    read_host_rss_bytes,
    read_host_rss_bytes_multi,
    read_host_total_bytes,
)

MIB = 1 << 20


async def test_the_host_has_memory() -> None:
    assert 0 < await read_host_free_bytes() < read_host_total_bytes()


def test_a_monitor_and_its_children_are_counted() -> None:
    own = read_host_rss_bytes(os.getpid())
    assert own is not None
    script = "x = bytearray(100_000_000); print(flush=True); input()"
    child = subprocess.Popen(
        ["python3", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    both = read_host_rss_bytes(os.getpid())
    child.communicate(b"\n")
    assert both is not None
    assert both - own > 90_000_000


def test_processes_that_are_gone_are_absent() -> None:
    assert read_host_rss_bytes(4_194_304) is None
    assert set(read_host_rss_bytes_multi([os.getpid(), 4_194_304])) == {os.getpid()}


@pytest.mark.parametrize("size", [24, 40])
def test_the_stats_file_is_read(tmp_path: Path, size: int) -> None:
    path = tmp_path / "stats"
    path.write_bytes(struct.pack("<QQQ", 1, 2, 3).ljust(size))
    assert read_balloon_stats(path) == BalloonCounters(
        bytes_reported=1, bytes_inflated=2, host_phys_footprint_bytes=3
    )


def test_a_missing_or_short_stats_file_is_none(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(bytes(23))
    for path in (tmp_path / "short", tmp_path / "missing", tmp_path, "nul\0"):
        assert read_balloon_stats(path) is None


async def gate(free_mib: int, threshold: float, total_mib: int = 10_000) -> None:
    async def read_free() -> int:
        return free_mib * MIB

    await check_fork_backpressure(
        threshold=threshold, read_free=read_free, total_bytes=total_mib * MIB
    )


@pytest.mark.parametrize(
    ("free_mib", "threshold"),
    [(100, 0.01), (0, 0), (0, -1), (0, float("nan")), (0, float("inf")), (10_000, 5)],
)
async def test_a_fork_may_go_on(free_mib: int, threshold: float) -> None:
    await gate(free_mib, threshold)


@pytest.mark.parametrize(("threshold", "percent"), [(0.01, "1%"), (0.125, "12.5%"), (1, "100%")])
@pytest.mark.provokes(ErrorCode.FORK_MEMORY_BACKPRESSURE)
async def test_a_fork_is_refused_with_numbers(threshold: float, percent: str) -> None:
    with pytest.raises(BootError) as caught:
        await gate(99, threshold)
    assert (caught.value.code, caught.value.retryable) == (
        ErrorCode.FORK_MEMORY_BACKPRESSURE,
        True,
    )
    said = str(caught.value)
    assert "99 MiB" in said
    assert "10000 MiB" in said
    assert f"{percent} ({int(10_000 * threshold)} MiB)" in said
    assert "free_memory_threshold=0" in said
