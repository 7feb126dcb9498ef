"""What a VM costs the host: the stats file, and the figures of one moment.

File: five little-endian u64: bytes reported, bytes inflated, host footprint (macOS only, 0 here),
CPU of QEMU and monitor in thousandths of one core over the last interval, state (1: the first of
`vmm.requests.STATES`). The first three are the declaration's; readers of those take a longer file,
too. The state is there at once, the others every half second; of a VM that does nothing every two
seconds, and of one that stands still no more: looking costs processor time, too.

QEMU counts nowhere what free-page reporting gave back: neither QMP nor the guest's statistics have
it. But every report ends in a madvise(MADV_DONTNEED) of QEMU's, so every fall of QEMU's anonymous
memory is such a return; what went to swap has not gone back and is added. What the guest takes
anew between two looks hides as much of a fall: the sum is a lower bound.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from vmm.requests import STATES, State

STATS_FILE = "stats"
STATS_STRUCT = struct.Struct("<QQQQQ")
STATS_INTERVAL_S = 0.5
QUIET_INTERVAL_S = 2.0
QUIET_THOUSANDTHS = 20
"""Of a core: one tick of the clock in half a second."""
STILL: tuple[State, ...] = ("paused", "disk-full")
"""States in which the guest does nothing."""
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_ANONYMOUS = re.compile(rb"^(?:RssAnon|VmSwap):\s+(\d+) kB", re.MULTILINE)


class StatsFile:
    """Writer of the stats file: a shared map, so that readers never see half a number."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Written, not only made longer: on a full disk a map over a hole ends us with SIGBUS.
            os.pwrite(descriptor, bytes(STATS_STRUCT.size), 0)
            self._map = mmap.mmap(descriptor, STATS_STRUCT.size)
        finally:
            os.close(descriptor)
        self.bytes_reported = 0
        self._state = 0
        self._last_anonymous = 0
        self._last_cpu: tuple[float, float] | None = None
        self.interval_s = STATS_INTERVAL_S
        """How long until it is worth looking again, unless the state changes before."""

    def sample(self, qemu_pid: int, balloon_bytes: int = 0) -> None:
        """Count what QEMU gave back and used since the last call, and write the file."""
        anonymous = anonymous_bytes(qemu_pid)
        if anonymous:  # 0: it is gone, which is no return of memory
            self.bytes_reported += max(0, self._last_anonymous - anonymous)
        self._last_anonymous = anonymous
        cpu = self._cpu_thousandths(cpu_seconds(qemu_pid) + time.process_time())
        self._map[:] = STATS_STRUCT.pack(self.bytes_reported, balloon_bytes, 0, cpu, self._state)
        if cpu > QUIET_THOUSANDTHS:
            self.interval_s = STATS_INTERVAL_S
        elif cpu == 0 and self._state and STATES[self._state - 1] in STILL:
            self.interval_s = math.inf
        else:
            self.interval_s = min(2 * self.interval_s, QUIET_INTERVAL_S)

    def show_state(self, state: State) -> None:
        """Write what the VM does now; nothing else changes."""
        self._state = STATES.index(state) + 1
        self.interval_s = STATS_INTERVAL_S
        self._map[STATS_STRUCT.size - 8 :] = self._state.to_bytes(8, "little")

    def _cpu_thousandths(self, used_s: float) -> int:
        now = time.monotonic()
        before, self._last_cpu = self._last_cpu, (now, used_s)
        if before is None or now <= before[0]:
            return 0
        return max(0, round(1000 * (used_s - before[1]) / (now - before[0])))

    def close(self) -> None:
        """Release the map; the file stays."""
        self._map.close()


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFigures:
    """QEMU's memory at one moment, in bytes.

    `private` and `shared` speak of guest RAM alone: pages the VM has of its own, and pages of the
    snapshot's image it shares with its siblings.
    """

    rss: int
    pss: int
    private: int
    shared: int


def anonymous_bytes(pid: int) -> int:
    """Anonymous memory of a process, resident or swapped out; 0 if it is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(size) * 1024 for size in _ANONYMOUS.findall(status))


def cpu_seconds(pid: int) -> float:
    """Processor time a process has used, user and system; 0 if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    fields = text.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def memory_figures(pid: int, ram_size_bytes: int, ram_image: str | None) -> MemoryFigures:
    """Read /proc/<pid>/smaps once; zeros if the process is gone."""
    try:
        text = Path(f"/proc/{pid}/smaps").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return MemoryFigures(rss=0, pss=0, private=0, shared=0)
    totals = {"Rss": 0, "Pss": 0}
    ram: dict[str, int] = {}
    in_ram = False
    for line in text.splitlines():
        head, _, rest = line.partition(" ")
        if not head.endswith(":"):
            in_ram = _is_ram(line, ram_size_bytes, ram_image)
            continue
        key = head[:-1]
        if key in totals:
            totals[key] += int(rest.split()[0]) * 1024
        if in_ram and rest.endswith("kB"):
            ram[key] = int(rest.split()[0]) * 1024
    own = ram.get("Anonymous", 0)
    return MemoryFigures(
        rss=totals["Rss"], pss=totals["Pss"], private=own, shared=max(0, ram.get("Rss", 0) - own)
    )


def _is_ram(header: str, size_bytes: int, image: str | None) -> bool:
    fields = header.split(maxsplit=5)
    start, end = (int(part, 16) for part in fields[0].split("-"))
    named = len(fields) > 5 and fields[5].startswith("/")
    return end - start == size_bytes and fields[1].startswith("rw") and named == bool(image)
