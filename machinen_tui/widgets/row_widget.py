"""A widget whose rows are made one by one: of those shown, only what looks different is painted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from machinen_tui.widgets.steady_style import SteadyStyle

PaintRows = Callable[[Widget, Mapping[int, Strip]], bool]


def show_or_hide(widget: Widget, shown: bool) -> None:
    """Textual lays out and paints for the first such word, even if it says what is so already."""
    if widget.display != shown:
        widget.display = shown


class RowWidget(SteadyStyle):
    """Give it `make_line`; call `show_rows` when its content may have changed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.paint_rows: PaintRows = lambda widget, rows: False
        """Paints rows without delay, if it can (`RowPainter.add`); the application sets it."""
        self._rows_painted: dict[int, Strip] = {}
        self.row_width = 0
        """Cells of a row, asked for once for all of them: Textual puts it together each time."""

    def make_line(self, y: int) -> Strip:
        """Row `y` of what is in view."""
        raise NotImplementedError

    def render_lines(self, crop: Region) -> list[Strip]:
        self.row_width = self.size.width
        return super().render_lines(crop)

    def render_line(self, y: int) -> Strip:
        strip = self._rows_painted[y] = self.make_line(y)
        return strip

    def show_rows(self) -> None:
        """Paint the rows that look different from what was painted last."""
        changed: dict[int, Strip] = {}
        self.row_width, height = self.size
        for y in range(height):
            strip = self.make_line(y)
            if strip != self._rows_painted.get(y):
                self._rows_painted[y] = changed[y] = strip
        if changed and not self.paint_rows(self, changed):
            self.refresh(*(Region(0, y, self.row_width, 1) for y in changed))

    def show_title(self, text: str) -> None:
        """Set the title of the border: Textual paints all of a widget for one, even the same."""
        if self.border_title != text:
            self.border_title = text
