"""What a VM costs the host: the 24-byte stats file, and the figures of one moment.

File: three little-endian u64: bytes reported, bytes inflated, host footprint (macOS only, 0 here).
QEMU does not count what free-page reporting gave back, so we do: every fall of the anonymous memory
of QEMU is such a return.
"""

from __future__ import annotations

import mmap
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

STATS_FILE = "stats"
STATS_STRUCT = struct.Struct("<QQQ")
STATS_INTERVAL_S = 0.5
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_RSS_ANON = re.compile(rb"^RssAnon:\s+(\d+) kB", re.MULTILINE)


class StatsFile:
    """Writer of the stats file: a shared map, so that readers never see half a number."""

    def __init__(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, STATS_STRUCT.size)
            self._map = mmap.mmap(descriptor, STATS_STRUCT.size)
        finally:
            os.close(descriptor)
        self.bytes_reported = 0
        self._last_anonymous = 0

    def sample(self, qemu_pid: int, balloon_bytes: int = 0) -> None:
        """Count what QEMU gave back since the last call, and write the file."""
        anonymous = anonymous_bytes(qemu_pid)
        self.bytes_reported += max(0, self._last_anonymous - anonymous)
        self._last_anonymous = anonymous
        self._map[:] = STATS_STRUCT.pack(self.bytes_reported, balloon_bytes, 0)

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
    """Anonymous resident memory of a process; 0 if it is gone."""
    try:
        found = _RSS_ANON.search(Path(f"/proc/{pid}/status").read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return int(found[1]) * 1024 if found else 0


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
