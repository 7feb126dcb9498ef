"""What a guest says about its disks and network, and how long it took to say so. Pure.

Two files of Linux in one go: /proc/diskstats (Documentation/admin-guide/iostats.rst: sectors of 512
bytes read in field 6, written in field 10) and /proc/net/dev (received bytes in field 1, sent in
field 9 after the name).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

COMMAND = ("cat", "/proc/diskstats", "/proc/net/dev")
MAX_BYTES = 64 * 1024
SECTOR_BYTES = 512
WHOLE_DISK = re.compile(r"(?:[vsh]d[a-z]{1,2}|nvme\d{1,3}n\d{1,3}|mmcblk\d{1,2})\Z")
NUMBER = re.compile(r"\d{1,19}\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Counters:
    """Bytes since the guest booted."""

    disk_read: int = 0
    disk_write: int = 0
    net_in: int = 0
    net_out: int = 0


def counters_in(data: bytes) -> Counters:
    """The sums over whole disks and over cards but the loop; lines that are neither are skipped."""
    disk_read = disk_write = net_in = net_out = 0
    for line in data[:MAX_BYTES].decode("ascii", "replace").splitlines():
        name, colon, rest = line.partition(":")
        fields = rest.split()
        if colon and name.strip() != "lo" and len(fields) >= 9:
            net_in, net_out = net_in + _number(fields[0]), net_out + _number(fields[8])
            continue
        fields = line.split()
        if len(fields) >= 10 and WHOLE_DISK.match(fields[2]):
            disk_read += _number(fields[5]) * SECTOR_BYTES
            disk_write += _number(fields[9]) * SECTOR_BYTES
    return Counters(disk_read, disk_write, net_in, net_out)


def rates(before: Counters, now: Counters, seconds: float) -> dict[str, float]:
    """Bytes a second by the history's names; nothing if a counter went back (another life)."""
    if seconds <= 0:
        return {}
    differences = {
        name: getattr(now, name) - getattr(before, name)
        for name in ("disk_read", "disk_write", "net_in", "net_out")
    }
    if any(difference < 0 for difference in differences.values()):
        return {}
    return {name: difference / seconds for name, difference in differences.items()}


def _number(text: str) -> int:
    return int(text) if NUMBER.match(text) else 0
