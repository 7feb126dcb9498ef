"""Says when a figure has been over its threshold for a while, once, and when it is back; and when
a sandbox stands still because the host's disk is full. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from machinen_tui.figures import ceiling

if TYPE_CHECKING:
    from machinen_tui.config import Config
    from machinen_tui.roster import SandboxView

NO_ROOM = "stands still: the host's disk is full; free some, and it goes on by itself"
CALM = 0.9
"""It is over when the figure is below this part of the threshold: no flapping."""


@dataclass(slots=True)
class AlertState:
    """What one sandbox has exceeded."""

    since: dict[str, float] = field(default_factory=dict[str, float])
    active: dict[str, str] = field(default_factory=dict[str, str])
    """What is said of each, by its name."""
    looked_at: tuple[object, ...] = ()
    """What `check` saw last."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Something to say."""

    text: str
    over: bool


def check(view: SandboxView, state: AlertState, config: Config, now_s: float) -> list[Alert]:
    """What has come and what is over since the last call."""
    seen = (view.last, view.history.last("exec_ms"), view.state, view.gone, config)
    if seen == state.looked_at and not state.since:
        return []  # fifty calm ones are asked every second
    state.looked_at = seen
    said = _of_the_disk(view, state)
    for name, value, limit in _measured(view, config):
        if limit and value >= limit and not view.gone:
            since, text = state.since.setdefault(name, now_s), _words(view, name, value, limit)
            if name in state.active:
                state.active[name] = text
            elif now_s - since >= config.alert_hold_s:
                state.active[name] = text
                said.append(Alert(f"{view.name}: {text}", over=False))
        elif not limit or value < limit * CALM or view.gone:
            state.since.pop(name, None)
            if state.active.pop(name, None):
                said.append(Alert(f"{view.name}: {name} is back", over=True))
        elif name not in state.active:
            state.since.pop(name, None)
    return said


def _of_the_disk(view: SandboxView, state: AlertState) -> list[Alert]:
    """What there is to say of a host's disk that was or is full."""
    if view.state == "disk-full" and not view.gone:
        if "disk" not in state.active:
            state.active["disk"] = NO_ROOM
            return [Alert(f"{view.name}: {NO_ROOM}", over=False)]
    elif view.state != "snapshotting" and state.active.pop("disk", None) and not view.gone:
        return [Alert(f"{view.name}: {view.state}, the disk has room", over=True)]
    return []


def _measured(view: SandboxView, config: Config) -> Iterator[tuple[str, float, int]]:
    """Name, value and threshold of each figure that is known."""
    last = view.last
    if last is not None:
        yield "cpu", last.cpu_percent, config.alert_cpu
        if limit := last.ceiling_mib or view.ceiling_mib:
            yield "memory", last.rss_bytes / (limit << 20) * 100, config.alert_memory
    latency = view.history.last("exec_ms")
    if latency is not None:
        yield "exec latency", latency, config.alert_latency


def _words(view: SandboxView, name: str, value: float, limit: int) -> str:
    """What is said of a figure that is over its threshold."""
    if name == "cpu":
        return f"cpu {value:.0f}% ≥ {limit}%"
    if name == "exec latency":
        return f"exec {value:.0f} ms ≥ {limit} ms"
    of = (view.last.ceiling_mib if view.last else 0) or view.ceiling_mib
    return f"memory {value:.0f}% of {ceiling(of)} ≥ {limit}%"
