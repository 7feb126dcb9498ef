"""Plays a recording in a pane: pause, faster, back and forth."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from machinen_runtime.registry_entry import RegistryEntry
from machinen_tui.asciicast import Cast
from machinen_tui.roster import SandboxView
from machinen_tui.session import PaneSession
from machinen_tui.widgets.dialogs import Dialog, KeyHint, plain
from machinen_tui.widgets.terminal_pane import TerminalPane

STEP_S = 0.05
SPEEDS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
JUMP_S = 5.0
MAX_PAUSE_S = 2.0
"""Where nothing happens for longer, the rest is skipped."""


class ReplayScreen(Dialog[None]):
    """Shows `cast` as if it happened now."""

    SHAPE = "dialog -full"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("space", "pause", show=False, priority=True),
        Binding("left", f"jump({-JUMP_S})", show=False, priority=True),
        Binding("right", f"jump({JUMP_S})", show=False, priority=True),
        Binding("plus,up", "speed(1)", show=False, priority=True),
        Binding("minus,down", "speed(-1)", show=False, priority=True),
        Binding("home", "jump(-1e9)", show=False, priority=True),
        Binding("q", "dismiss(None)", show=False, priority=True),
    ]

    def __init__(self, cast: Cast) -> None:
        super().__init__()
        self._cast = cast
        entry = RegistryEntry(pid=0, socket_path="", started_at=0.0, name=cast.title or "recording")
        self._view = SandboxView.from_entry(entry)
        self._view.state = "running"
        self._at_s, self._next, self._speed, self._paused = 0.0, 0, 1.0, False
        self._ticked = time.monotonic()
        self._restart()

    def title_text(self) -> str:
        return plain(f"recording of {self._view.name}")

    def keys(self) -> Sequence[KeyHint]:
        return (("space", "space pauses"), ("left", "← 5 s back"), ("right", "→ 5 s on"),
                ("plus", "+ faster"), ("minus", "- slower"), ("escape", "esc closes"))  # fmt: skip

    def fields(self) -> ComposeResult:
        yield TerminalPane(self._view, lambda view, data: None)

    def on_mount(self) -> None:
        self.set_interval(STEP_S, self._tick)
        self.call_after_refresh(self._play_to, 0.0)

    def _restart(self) -> None:
        self._view.session = PaneSession(lambda session: None)
        self._view.session.model.resize(self._cast.width, self._cast.height)
        self._next = 0

    def _tick(self) -> None:
        now = time.monotonic()
        passed, self._ticked = now - self._ticked, now
        if not self._paused and self._next < len(self._cast.events):
            coming = self._cast.events[self._next].at_s
            reached = max(self._at_s + passed * self._speed, coming - MAX_PAUSE_S)
            self._play_to(reached)

    def _play_to(self, at_s: float) -> None:
        """Feed what happened up to a moment; going back starts from the beginning."""
        if at_s < self._at_s:
            self._restart()
        self._at_s = min(max(at_s, 0.0), self._cast.length_s)
        session, events = self._view.session, self._cast.events
        assert session is not None
        while self._next < len(events) and events[self._next].at_s <= self._at_s:
            event = events[self._next]
            self._next += 1
            if event.size is not None:
                session.model.resize(*event.size)
            elif event.kind == "o":
                session.model.feed(event.data.encode("utf-8", "replace"), live=True)
        if self.is_attached:
            self.query_one(TerminalPane).repaint()
            state = "paused" if self._paused else f"{self._speed:g}x"
            self.say(f"{self._at_s:.1f} of {self._cast.length_s:.1f} s · {state}")

    def action_pause(self) -> None:
        """Stand still, or go on."""
        self._paused = not self._paused
        self._play_to(self._at_s)

    def action_jump(self, seconds: float) -> None:
        """Back or on."""
        self._play_to(max(self._at_s + seconds, 0.0))

    def action_speed(self, by: int) -> None:
        """Faster or slower."""
        at = SPEEDS.index(self._speed) + by
        self._speed = SPEEDS[min(max(at, 0), len(SPEEDS) - 1)]
        self._play_to(self._at_s)
