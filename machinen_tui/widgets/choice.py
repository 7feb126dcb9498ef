"""One of a few words, in the place of a line of text: arrows, space or a click take the next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from machinen_tui import theme


class Choice(Widget, can_focus=True):
    """Shows `◂ word ▸` and where it stands among the others."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"choice--arrow", "choice--other"}
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left", "step(-1)", show=False, priority=True),
        Binding("right,space", "step(1)", show=False, priority=True),
        Binding("enter", "submit", show=False, priority=True),
    ]

    class Changed(Message):
        """Another word was chosen."""

    class Submitted(Message):
        """Enter was pressed."""

    def __init__(self, choices: Sequence[str], value: str, id: str) -> None:
        super().__init__(id=id)
        self._choices = list(choices)
        self._value = value if value in self._choices else self._choices[0]

    @property
    def value(self) -> str:
        """The chosen word."""
        return self._value

    @value.setter
    def value(self, value: str) -> None:
        if value in self._choices and value != self._value:
            self._value = value
            self.refresh()
            self.post_message(self.Changed())

    def action_step(self, by: int) -> None:
        at = self._choices.index(self._value)
        self.value = self._choices[(at + by) % len(self._choices)]

    def action_submit(self) -> None:
        self.post_message(self.Submitted())

    def on_click(self, event: events.Click) -> None:
        """A click on a word takes it, elsewhere the next."""
        event.stop()
        self.focus()
        start = 0
        for word in self._choices:
            end = start + len(word) + 4
            if start <= event.x < end:
                self.value = word
                return
            start = end
        self.action_step(1)

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        arrow = base + self.get_component_rich_style("choice--arrow", partial=True)
        other = base + self.get_component_rich_style("choice--other", partial=True)
        left, right = ("[ ", " ]") if theme.is_plain() else ("◂ ", " ▸")
        segments: list[Segment] = []
        for word in self._choices:
            chosen = word == self._value
            segments.append(Segment(left if chosen else "  ", arrow))
            segments.append(Segment(word, base if chosen else other))
            segments.append(Segment(right if chosen else "  ", arrow))
        return Strip(segments).adjust_cell_length(self.size.width, base)
