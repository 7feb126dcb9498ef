"""Numbers as people read them, in few cells."""

from __future__ import annotations

MIB = 1024 * 1024


def mib(size_bytes: float) -> str:
    """`118M`, `1.5G`: bytes in the unit that takes at most four cells."""
    size = size_bytes / MIB
    if size < 10 and size != int(size):
        return f"{size:.1f}M"
    if size < 1000:
        return f"{size:.0f}M"
    return f"{size / 1024:.1f}G" if size < 100 * 1024 else f"{size / 1024:.0f}G"


def ceiling(size_mib: int) -> str:
    """A ceiling given in MiB."""
    return mib(size_mib * MIB)


def uptime(seconds: float) -> str:
    """`42s`, `3m07`, `2h05`, `4d06`: at most five cells."""
    whole = max(int(seconds), 0)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}"
    if whole < 86400:
        return f"{whole // 3600}h{whole // 60 % 60:02}"
    return f"{whole // 86400}d{whole // 3600 % 24:02}"


def count(number: int, thing: str) -> str:
    """`1 row`, `2 rows`: `thing` is one of them."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def clip(text: str, width: int) -> str:
    """`text` in at most `width` cells, the cut marked."""
    if len(text) <= width:
        return text
    return text[: max(width - 1, 0)] + "…" if width > 0 else ""
