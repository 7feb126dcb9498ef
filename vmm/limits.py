"""What a VM may take of its host: processor time, memory, disk traffic.

Part of the contract: callers ask with these, the registry and bundles keep them, the monitor
enforces them. Processor and memory are limits of control groups (vmm/cgroups.py); disk traffic is
QEMU's own throttling, which needs no privilege.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, cast

MIN_CPUS, MAX_CPUS = 0.01, 1024.0
MIN_MEMORY_BYTES, MAX_MEMORY_BYTES = 128 << 20, 1 << 50
"""Below, not even QEMU itself would fit."""
MIN_IO_BYTES_PER_S, MAX_IO_BYTES_PER_S = 1 << 16, 1 << 50
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,6})?)([KMGT]?)(?:iB|B)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most a VM may take. None: as before, or as inherited; 0: no limit."""

    cpus: float | None = None
    """Processor time in cores, of QEMU with all its threads: 0.5 is half a core."""
    memory_bytes: int | None = None
    """Memory of the host that QEMU may hold: guest RAM and what QEMU needs beside it."""
    io_bytes_per_s: int | None = None
    """What all disks read and write together; not with the next two."""
    io_read_bytes_per_s: int | None = None
    """What they read."""
    io_write_bytes_per_s: int | None = None
    """What they write."""

    def over(self, inherited: Limits | None) -> Limits:
        """These where they say something, else the inherited ones; limits of 0 are gone."""
        below = inherited or Limits()
        if any(getattr(self, name) is not None for name in IO_FIELDS):
            below = replace(below, **dict.fromkeys(IO_FIELDS))
        merged: dict[str, Any] = {
            name: value if value is not None else getattr(below, name)
            for name, value in asdict(self).items()
        }
        return Limits(**{name: value or None for name, value in merged.items()})

    def to_object(self) -> dict[str, float]:
        """What is limited, for JSON; empty: nothing is."""
        return {name: value for name, value in asdict(self).items() if value}

    @property
    def need_cgroup(self) -> bool:
        """Whether control groups have to enforce some of it."""
        return bool(self.cpus or self.memory_bytes)


IO_FIELDS = ("io_bytes_per_s", "io_read_bytes_per_s", "io_write_bytes_per_s")
NO_LIMITS = Limits(**dict.fromkeys((field.name for field in fields(Limits)), 0))
"""In place of whatever would be inherited: nothing is limited."""
_BOUNDS: dict[str, tuple[float, float]] = {
    "cpus": (MIN_CPUS, MAX_CPUS),
    "memory_bytes": (MIN_MEMORY_BYTES, MAX_MEMORY_BYTES),
    **dict.fromkeys(IO_FIELDS, (MIN_IO_BYTES_PER_S, MAX_IO_BYTES_PER_S)),
}


def check_limits(limits: Limits) -> None:
    """ValueError, with what to write instead, if they cannot be used."""
    for name, (least, most) in _BOUNDS.items():
        value: Any = getattr(limits, name)
        if value is None:
            continue
        whole = name != "cpus"
        right = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not right or (isinstance(value, float) and not math.isfinite(value)):
            kind = "a whole number" if whole else "a number"
            raise ValueError(f"the limit {name} is {kind}, not {value!r}")
        if value and not least <= value <= most:
            raise ValueError(f"the limit {name} is {least:g} to {most:g}, or 0 for none: {value!r}")
    if limits.io_bytes_per_s and (limits.io_read_bytes_per_s or limits.io_write_bytes_per_s):
        message = "limit reads and writes together (io_bytes_per_s), or each for itself, not both"
        raise ValueError(message)


def limits_from_object(raw: object) -> Limits:
    """The limits in a JSON object that may be anybody's; ValueError if there are none such."""
    if not isinstance(raw, Mapping):
        raise ValueError("limits are an object")
    given = cast("Mapping[str, Any]", raw)
    unknown = [each for each in given if each not in _BOUNDS]
    if unknown:
        raise ValueError(f"no such limit: {unknown[0]!r}")
    limits = Limits(**given)
    check_limits(limits)
    return limits


def parse_size(text: str) -> int:
    """`512M`, `1.5G`, `65536`: bytes, units of 1024. ValueError if it is no size."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"a size is a number with K, M, G or T, such as 512M, not {text!r}")
    return round(float(found[1]) * _UNITS[found[2].upper()])


def parse_io_max(text: str) -> dict[str, int]:
    """`50M`, or `read=50M,write=10M`: fields of `Limits` about disk traffic, bytes a second."""
    if "=" not in text:
        return {"io_bytes_per_s": parse_size(text)}
    parsed: dict[str, int] = {}
    for part in text.split(","):
        word, separator, rate = part.strip().partition("=")
        if not separator or word not in ("read", "write") or f"io_{word}_bytes_per_s" in parsed:
            raise ValueError(f"a rate is 50M, or read=50M,write=10M, not {text!r}")
        parsed[f"io_{word}_bytes_per_s"] = parse_size(rate)
    return parsed


def describe_limits(limits: Mapping[str, float]) -> str:
    """`0.5 cpus · 512M memory · 50M/s disks`; empty if nothing is limited."""
    words = [f"{limits['cpus']:g} cpus"] if limits.get("cpus") else []
    words += [
        f"{format_size(limits[name])}{what}"
        for name, what in _SIZES_IN_WORDS.items()
        if limits.get(name)
    ]
    return " · ".join(words)


def describe_reached(throttled: int, memory_at_limit: int, oom_kills: int) -> str:
    """How often limits were reached: `12 times the processor, 0 times the memory`."""
    words = f"{throttled} times the processor, {memory_at_limit} times the memory"
    return f"{words}, {oom_kills} kills" if oom_kills else words


_SIZES_IN_WORDS = {
    "memory_bytes": " memory",
    "io_bytes_per_s": "/s disks",
    "io_read_bytes_per_s": "/s read",
    "io_write_bytes_per_s": "/s written",
}


def format_size(size_bytes: float) -> str:
    """The largest unit that keeps it at 1 or more: `512M`, `1.5G`."""
    for unit in ("T", "G", "M", "K"):
        if size_bytes >= _UNITS[unit]:
            return f"{size_bytes / _UNITS[unit]:.4g}{unit}"
    return f"{size_bytes:.0f}"
