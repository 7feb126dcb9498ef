"""One row of names, the shown one marked: the tabs, or the panes of a tab that are not all seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget


@dataclass(frozen=True, slots=True)
class TabItem:
    """One name of the row."""

    key: str
    label: str
    mark: str = "●"
    color: str = ""


class TabBar(Widget):
    """Names in one row, scrolled so that the current one is in view. A click chooses."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"tabs--current", "tabs--other"}

    class Chosen(Message):
        """A name was clicked."""

        def __init__(self, bar: TabBar, key: str) -> None:
            super().__init__()
            self.bar = bar
            self.key = key

    def __init__(self, id: str) -> None:
        super().__init__(id=id)
        self._items: Sequence[TabItem] = ()
        self._current = 0

    def show(self, items: Sequence[TabItem], current: int) -> None:
        """Draw `items`, number `current` marked."""
        if (items, current) != (self._items, self._current):
            self._items, self._current = items, current
            self.refresh()

    def _shown(self) -> list[tuple[int, TabItem]]:
        """From the first that is shown; those before the current one as far as there is room."""
        if not self._items:
            return []
        first = min(self._current, len(self._items) - 1)
        used = _width(self._items[first])
        while first > 0 and used + _width(self._items[first - 1]) <= self.size.width:
            first -= 1
            used += _width(self._items[first])
        return list(enumerate(self._items))[first:]

    def render_line(self, y: int) -> Strip:
        segments: list[Segment] = []
        for index, item in self._shown():
            name = "tabs--current" if index == self._current else "tabs--other"
            style = self.get_component_rich_style(name)
            mark = style + Style(color=item.color) if item.color else style
            segments += [Segment(f" {item.mark} ", mark), Segment(f"{item.label} ", style)]
        return Strip(segments).adjust_cell_length(self.size.width, self.rich_style)

    def on_click(self, event: events.Click) -> None:
        event.stop()
        start = 0
        for _, item in self._shown():
            end = start + _width(item)
            if start <= event.x < end:
                self.post_message(self.Chosen(self, item.key))
                return
            start = end


def _width(item: TabItem) -> int:
    return len(item.mark) + len(item.label) + 3
