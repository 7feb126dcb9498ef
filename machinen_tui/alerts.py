"""Says when a figure has been over its threshold for a while, once, and when it is back. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from machinen_tui.figures import ceiling

if TYPE_CHECKING:
    from machinen_tui.config import Config
    from machinen_tui.roster import SandboxView

CALM = 0.9
"""It is over when the figure is below this part of the threshold: no flapping."""


@dataclass(slots=True)
class AlertState:
    """What one sandbox has exceeded."""

    since: dict[str, float] = field(default_factory=dict[str, float])
    active: dict[str, str] = field(default_factory=dict[str, str])
    """What is said of each, by its name."""


@dataclass(frozen=True, slots=True)
class Alert:
    """Something to say."""

    text: str
    over: bool


def check(view: SandboxView, state: AlertState, config: Config, now_s: float) -> list[Alert]:
    """What has come and what is over since the last call."""
    said: list[Alert] = []
    for name, value, limit, text in _measured(view, config):
        if limit and value >= limit and not view.gone:
            since = state.since.setdefault(name, now_s)
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


def _measured(view: SandboxView, config: Config) -> list[tuple[str, float, int, str]]:
    """Name, value, threshold and words of each figure that is known."""
    found: list[tuple[str, float, int, str]] = []
    last = view.last
    if last is not None:
        cpu = last.cpu_percent
        found.append(("cpu", cpu, config.alert_cpu, f"cpu {cpu:.0f}% ≥ {config.alert_cpu}%"))
        limit = last.ceiling_mib or view.ceiling_mib
        if limit:
            part = last.rss_bytes / (limit << 20) * 100
            words = f"memory {part:.0f}% of {ceiling(limit)} ≥ {config.alert_memory}%"
            found.append(("memory", part, config.alert_memory, words))
    latency = view.history.last("exec_ms")
    if latency is not None:
        words = f"exec {latency:.0f} ms ≥ {config.alert_latency} ms"
        found.append(("exec latency", latency, config.alert_latency, words))
    return found
