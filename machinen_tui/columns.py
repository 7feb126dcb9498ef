"""The table of sandboxes: its columns, how each sorts, what a filter keeps. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from machinen_tui.figures import ceiling, mib, uptime

if TYPE_CHECKING:
    from machinen_tui.roster import SandboxView


@dataclass(frozen=True, slots=True)
class Column:
    """One column. `key` sorts; what is unknown is -1 and comes last when sorted downwards."""

    name: str
    title: str
    text: Callable[[SandboxView], str]
    key: Callable[[SandboxView], Any]
    right: bool = True
    falls: bool = True
    """The largest first."""


def _age_s(view: SandboxView) -> float:
    return time.time() - view.started_at_ms / 1000


def _stat(view: SandboxView, name: str) -> float:
    """A figure of the newest sample; -1 if there is none."""
    return getattr(view.last, name) if view.last is not None and not view.gone else -1.0


def _bytes(name: str) -> Column:
    title, attribute = (
        name,
        {"own": "private_bytes", "memory": "rss_bytes"}.get(name, f"{name}_bytes"),
    )
    return Column(
        name, title,
        lambda view: mib(_stat(view, attribute)) if _stat(view, attribute) >= 0 else "-",
        lambda view: _stat(view, attribute),
    )  # fmt: skip


def _rate(view: SandboxView, *names: str) -> float:
    values = [view.history.last(name) for name in names]
    known = [value for value in values if value is not None]
    return sum(known) if known and not view.gone else -1.0


def _rate_column(name: str, *series: str) -> Column:
    def text(view: SandboxView) -> str:
        value = _rate(view, *series)
        return f"{mib(value)}/s" if value >= 0 else "-"

    return Column(name, name, text, lambda view: _rate(view, *series))


def _latency(view: SandboxView) -> float:
    return _rate(view, "exec_ms")


def _memory(view: SandboxView) -> str:
    used = _stat(view, "rss_bytes")
    return f"{mib(used)}/{ceiling(view.ceiling_mib)}" if used >= 0 else "-"


NAME = Column("name", "name", lambda v: v.name, lambda v: v.name.casefold(), False, False)
COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (
        Column("state", "state", lambda v: v.shown_state, lambda v: v.shown_state, False, False),
        Column("cpu", "cpu", lambda v: f"{_stat(v, 'cpu_percent'):.0f}%"
               if _stat(v, "cpu_percent") >= 0 else "-", lambda v: _stat(v, "cpu_percent")),
        Column("memory", "memory", _memory, lambda v: _stat(v, "rss_bytes")),
        _bytes("own"), _bytes("shared"), _bytes("balloon"),
        _rate_column("disk", "disk_read", "disk_write"),
        _rate_column("network", "net_in", "net_out"),
        Column("latency", "exec", lambda v: f"{_latency(v):.0f}ms" if _latency(v) >= 0 else "-",
               _latency),
        Column("uptime", "up", lambda v: "-" if v.gone else uptime(_age_s(v)), _age_s),
        Column("ports", "ports", lambda v: " ".join(f"{p.host_port}→{p.guest_port}"
               for p in v.ports), lambda v: len(v.ports), False),
        Column("source", "fork of", lambda v: v.source_name or "", lambda v: v.source_name or "",
               False, False),
        Column("pid", "pid", lambda v: str(v.pid), lambda v: v.pid, True, False),
    )
}  # fmt: skip


def arranged(
    views: Sequence[SandboxView], sort: str, *, reverse: bool = False, needle: str = ""
) -> list[SandboxView]:
    """`views` (in the order of lineage) that match, sorted by a column; equal ones stay so."""
    words = needle.casefold().split()
    kept = [view for view in views if all(word in _haystack(view) for word in words)]
    column = NAME if sort == "name" else COLUMNS.get(sort)
    if column is None:
        return kept[::-1] if reverse else kept
    return sorted(kept, key=column.key, reverse=column.falls != reverse)


def _haystack(view: SandboxView) -> str:
    """What a filter looks into: `web paused :8080`."""
    ports = " ".join(f":{port.host_port}" for port in view.ports)
    source = view.source_name or ""
    return f"{view.name} {view.shown_state} {ports} {source} {view.pid}".casefold()
