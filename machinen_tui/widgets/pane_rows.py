"""The rows of a pane as they are on screen: draws those that changed, at once where nothing is
above them, else by Textual."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.segment import Segment
from textual.geometry import Region
from textual.strip import Strip

from machinen_tui.pane_paint import color_names, restyled, rich_style, with_cursor
from machinen_tui.pane_text import PaneText
from machinen_tui.terminal_cells import Cell
from machinen_tui.terminal_model import TerminalModel, runs_of
from machinen_tui.terminal_text import safe_to_draw

if TYPE_CHECKING:
    from machinen_tui.row_ansi import RowWriter
    from machinen_tui.row_painter import RowPainter
    from machinen_tui.widgets.terminal_pane import TerminalPane


class PaneRows:
    """Knows how each row of `pane` looks on screen; `painter` paints without delay, if it can."""

    def __init__(self, pane: TerminalPane, painter: RowPainter | None) -> None:
        self._pane, self._painter = pane, painter
        self._strips: dict[int, Strip] = {}
        """Rows as Textual has them."""
        self._written: dict[int, str] = {}
        """Rows as the painter wrote them, where nothing of Textual's came after."""

    def forget(self) -> None:
        """The size, the colours or what is in view is another: no row is known."""
        self._strips.clear()
        self._written.clear()

    def show(self, model: TerminalModel, rows: Sequence[int], width: int) -> None:
        """Draw those of `rows` anew that look different now."""
        if self._painter is not None and self._painter.can_paint(self._pane):
            self._paint(self._painter, model, rows, width)
        else:
            self._refresh(rows, width)

    def _paint(
        self, painter: RowPainter, model: TerminalModel, rows: Sequence[int], width: int
    ) -> None:
        written, writer = self._written, painter.writer_for(self._pane)
        changed: dict[int, str] = {}
        for y in rows:
            row = self._row(writer, model, y, width)
            if row != written.get(y):
                written[y] = row
                strip = self._strips.pop(y, None)  # there: Textual painted the row last
                if strip is None or strip != self._make_strip(y, width):
                    changed[y] = row
        if changed:
            painter.add_written(self._pane, changed)

    def _row(self, writer: RowWriter, model: TerminalModel, y: int, width: int) -> str:
        if not self._pane.marks:
            cells = self._cells(model, y + self._pane.top)
            if len(cells) <= width:
                return writer.row(cells, width)
        return writer.strip(self._make_strip(y, width))

    def _refresh(self, rows: Sequence[int], width: int) -> None:
        """Have Textual draw them."""
        changed: list[int] = []
        for y in rows:
            after = self._make_strip(y, width)
            if after != self._strips.get(y):
                self._strips[y] = after
                self._written.pop(y, None)
                changed.append(y)
        if changed:
            self._pane.refresh(*(Region(0, y, width, 1) for y in changed))

    def strip(self, y: int, width: int) -> Strip:
        """A row for Textual, which has painted the row last from now on."""
        self._written.pop(y, None)
        strip = self._strips.get(y)
        if strip is None or strip.cell_length != width:
            strip = self._strips[y] = self._make_strip(y, width)
        return strip

    def _make_strip(self, y: int, width: int) -> Strip:
        pane, base = self._pane, self._pane.rich_style
        model, y = pane.model, y + pane.top
        if model is None or y >= model.lines:
            return Strip.blank(width, base)
        foreground, background = color_names(base)
        segments = [
            Segment(safe_to_draw(text), rich_style(style, foreground, background))
            for text, style in runs_of(self._cells(model, y))
        ]
        strip = Strip(segments).adjust_cell_length(width, base)
        return self._marked(strip, y - pane.back, model, width) if pane.marks else strip

    def _cells(self, model: TerminalModel, y: int) -> Sequence[Cell]:
        """Row `y` of the terminal as it is shown, without its blank end."""
        if y >= model.lines:
            return ()
        cells = model.cells(y, self._pane.back)
        if y == model.terminal.cursor.y and self._pane.shows_cursor:
            return with_cursor(cells, model.terminal.column(), self._pane.attached)
        return cells

    def _marked(self, strip: Strip, row: int, model: TerminalModel, width: int) -> Strip:
        """`strip` with the selection, matches and copy mode's cursor."""
        for mark in self._pane.marks.of_row(PaneText(model), row, width):
            style = self._pane.get_component_rich_style(f"pane--{mark.what}", partial=True)
            parts = strip.divide([mark.start, mark.end, width])
            parts = [*parts[:1], Strip(restyled(parts[1], style)), *parts[2:]]
            strip = Strip.join(parts)
        return strip
