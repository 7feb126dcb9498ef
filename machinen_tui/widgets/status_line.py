"""The two lines at the bottom: mode, what is going on, and the keys that work now."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.strip import Strip
from textual.timer import Timer
from textual.widget import Widget

from machinen_tui import theme
from machinen_tui.figures import clip
from machinen_tui.keymap import textual_key
from machinen_tui.messages import KeyChosen

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class StatusLine(Widget):
    """A chip with the mode, the subject, and at the right what is under way."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "status--navigate",
        "status--attached",
        "status--broadcast",
        "status--copy",
        "status--dim",
        "status--notice",
        "status--plain",
    }

    def __init__(self) -> None:
        super().__init__(id="status")
        self._mode, self._subject, self._doing, self._tick = "navigate", "", "", 0
        self._notice = ""
        self._notice_timer: Timer | None = None

    def show(self, mode: str, subject: str) -> None:
        """`mode` is `navigate`, `attached`, `broadcast` or `copy`."""
        if (mode, subject) != (self._mode, self._subject):
            self._mode, self._subject = mode, subject
            self.refresh()

    def show_notice(self, text: str, seconds: float) -> None:
        """Say something in place of the subject for a while; nothing once the app was left."""
        if not self.is_attached:
            return
        if self._notice_timer is not None:
            self._notice_timer.stop()
        self._notice = text
        self._notice_timer = self.set_timer(seconds, self._end_notice)
        self.refresh()

    def _end_notice(self) -> None:
        self._notice, self._notice_timer = "", None
        self.refresh()

    def show_progress(self, doing: str, tick: int) -> None:
        """What is under way; empty: nothing. `tick` turns the spinner."""
        if (doing, tick) != (self._doing, self._tick):
            self._doing, self._tick = doing, tick
            self.refresh()

    def render_line(self, y: int) -> Strip:
        base, width = self.rich_style, self.size.width
        chip = self.get_component_rich_style(f"status--{self._mode}")
        label = {
            "navigate": " NAVIGATE ",
            "attached": " ATTACHED ",
            "broadcast": " TO ALL MARKED ",
            "copy": " COPY MODE ",
        }[self._mode]
        sign = "..." if theme.is_plain() else SPINNER[self._tick % len(SPINNER)]
        doing = f"{sign} {self._doing} " if self._doing else ""
        doing = clip(doing, max(width - len(label) - 12, 0))
        room = max(width - len(label) - len(doing) - 2, 0)
        accent = self.get_component_rich_style("status--dim", partial=True)
        said = self.get_component_rich_style("status--notice" if self._notice else "status--plain")
        segments = [
            Segment(label, chip),
            Segment(f" {clip(self._notice or self._subject, room).ljust(room)} ", base + said),
            Segment(doing, base + accent),
        ]
        return Strip(segments).adjust_cell_length(width, base)


class KeyLine(Widget):
    """The keys that work now, as many as fit. A click on one is as good as the key."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"keys--key", "keys--text"}

    def __init__(self) -> None:
        super().__init__(id="keys")
        self._hints: list[tuple[str, str]] = []
        self._ends: list[tuple[int, str]] = []
        """Where each shown hint ends, and its key."""

    def show(self, hints: list[tuple[str, str]]) -> None:
        """Pairs of key and what it does, the most useful first."""
        if hints != self._hints:
            self._hints = hints
            self.refresh()

    def render_line(self, y: int) -> Strip:
        base, width = self.rich_style, self.size.width
        key_style: Style = base + self.get_component_rich_style("keys--key", partial=True)
        text_style: Style = base + self.get_component_rich_style("keys--text", partial=True)
        segments: list[Segment] = []
        used = 0
        self._ends = []
        for key, text in self._hints:
            used += len(key) + len(text) + 3
            if used > width:
                break
            self._ends.append((used, key))
            segments += [Segment(f" {key}", key_style), Segment(f" {text} ", text_style)]
        return Strip(segments).adjust_cell_length(width, base)

    def on_click(self, event: events.Click) -> None:
        event.stop()
        key = next((key for end, key in self._ends if event.x < end), None)
        if key is not None:
            self.post_message(KeyChosen(textual_key(key.replace("↵", "enter")) or key))
