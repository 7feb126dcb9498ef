"""Memory of the host and of the processes behind a VM, and the gate in front of a fork.

Sources: proc_meminfo(5), proc_pid_statm(5). The balloon's counters come from the monitor's stats
file: u64, little-endian: bytes reported, bytes inflated, footprint (0 on Linux); a fourth is CPU,
a fifth the state, see vmm/stats.py.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.pids import child_pids
from vmm.requests import STATES, State

DEFAULT_FREE_MEMORY_THRESHOLD = 0.01
STATS_FILE_SIZE = 24
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryStats:
    """What the host sees of one VM's memory, now."""

    ceiling_mib: int | None
    """The most RAM the guest may use; None if we did not choose it."""
    host_rss_bytes: int | None
    """Resident bytes of monitor and QEMU; None once the VM is gone."""
    balloon_inflated_bytes: int
    """What the guest has given back so far by free-page reporting."""
    lazy_pages_pending: int
    """Pages of the bundle the guest has not touched yet (engine criu: not read); 0 for a plain
    boot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RssTarget:
    """A process whose memory `read_host_rss_bytes_multi` shall read."""

    pid: int
    """A monitor's, as `machinen ls` shows it."""
    stats_path: str | None = None
    """Its stats file. Linux has the figure in /proc, so it is not read here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BalloonCounters:
    """The stats file of one VM."""

    bytes_reported: int
    """What the guest has given back by free-page reporting."""
    bytes_inflated: int
    """What it put into the balloon; we never ask for any, so 0."""
    host_phys_footprint_bytes: int
    """Always 0 on Linux."""


async def read_host_free_bytes() -> int:
    """Memory a new process could have without swapping: MemAvailable."""
    return available_bytes()


def read_host_total_bytes() -> int:
    """All memory of the host."""
    return os.sysconf("SC_PHYS_PAGES") * PAGE_SIZE


async def check_fork_backpressure(
    *,
    threshold: float,
    read_free: Callable[[], Awaitable[int]] | None = None,
    total_bytes: int | None = None,
) -> None:
    """Return if enough of the host's memory is free for a fork.

    Args:
        threshold: the part that must be free, at most 1; zero, less, or no finite number switches
            the gate off.
        read_free: tells the free bytes; None: `read_host_free_bytes`.
        total_bytes: all memory of the host; None: `read_host_total_bytes()`.

    Raises:
        BootError: FORK_MEMORY_BACKPRESSURE (retryable).
    """
    if not math.isfinite(threshold) or threshold <= 0:
        return
    total = read_host_total_bytes() if total_bytes is None else total_bytes
    required = math.floor(total * min(threshold, 1.0))
    free = await (read_free or read_host_free_bytes)()
    if free < required:
        percent = f"{threshold * 100:.1f}".removesuffix(".0")
        raise BootError(
            ErrorCode.FORK_MEMORY_BACKPRESSURE,
            f"only {free // _MIB} MiB of the host's {total // _MIB} MiB are free and a fork wants"
            f" {percent}% ({required // _MIB} MiB); stop a VM and try again, or pass"
            " free_memory_threshold=0 to fork anyway",
            retryable=True,
        )


def read_host_rss_bytes(pid: int, stats_path: str | None = None) -> int | None:
    """Resident bytes of a monitor and its children, QEMU above all; None if `pid` is gone.

    From /proc/<pid>/statm, see proc_pid_statm(5). `stats_path` is where other systems would look.
    """
    own = _resident_bytes(pid)
    if own is None:
        return None
    return own + sum(_resident_bytes(child) or 0 for child in child_pids(pid))


def read_host_rss_bytes_multi(targets: Iterable[RssTarget | int]) -> dict[int, int]:
    """Pid → `read_host_rss_bytes` of each target; those that cannot be read are absent."""
    pids = [target if isinstance(target, int) else target.pid for target in targets]
    sizes = {pid: read_host_rss_bytes(pid) for pid in pids}
    return {pid: size for pid, size in sizes.items() if size is not None}


def read_cpu_percent(stats_path: str | os.PathLike[str]) -> float | None:
    """CPU of a VM over the last half second (of an idle one, two seconds), in percent of one core;
    None if nobody knows."""
    try:
        with open(stats_path, "rb") as file:
            content = file.read(STATS_FILE_SIZE + 8)
    except (OSError, ValueError):
        return None
    if len(content) < STATS_FILE_SIZE + 8:
        return None
    return int.from_bytes(content[STATS_FILE_SIZE:], "little") / 10


def read_vm_state(stats_path: str | os.PathLike[str]) -> State | None:
    """What a VM does now; None if its monitor does not say: it has ended, or is of an older
    version."""
    try:
        with open(stats_path, "rb") as file:
            content = file.read(STATS_FILE_SIZE + 16)
    except (OSError, ValueError):
        return None
    number = int.from_bytes(content[STATS_FILE_SIZE + 8 :], "little")
    return STATES[number - 1] if 1 <= number <= len(STATES) else None


def read_balloon_stats(path: str | os.PathLike[str]) -> BalloonCounters | None:
    """Read a stats file; None if it is missing, unreadable or shorter than 24 bytes."""
    try:
        with open(path, "rb") as file:
            content = file.read(STATS_FILE_SIZE)
    except (OSError, ValueError):
        return None
    if len(content) < STATS_FILE_SIZE:
        return None
    reported, inflated, footprint = struct.unpack("<QQQ", content)
    return BalloonCounters(
        bytes_reported=reported,
        bytes_inflated=inflated,
        host_phys_footprint_bytes=footprint,
    )


def available_bytes() -> int:
    """MemAvailable, or all memory of a host that does not tell."""
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return read_host_total_bytes()


def _resident_bytes(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * PAGE_SIZE
    except (OSError, IndexError):
        return None
