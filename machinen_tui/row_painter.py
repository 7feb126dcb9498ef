"""Writes rows of panes that changed straight to the terminal, in the turn that changed them.

Textual's own way visits every row of every pane between the first and the last change, and waits up
to a sixtieth of a second to do so. Here only the rows themselves are written, in the styles of
Textual's own pipeline; its caches learn that they changed, so what it paints later is the same.
Panes that anything covers, dialogs for instance, are left to Textual.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from rich.color import ColorSystem
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from textual._compositor import CompositorUpdate
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

if TYPE_CHECKING:
    from textual.app import App
    from textual.screen import Screen

    from machinen_tui.row_ansi import RowWriter

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# Textual has no public way to paint part of the screen at once.


class RowsUpdate(CompositorUpdate):
    """Rows as they are written, each at its place on the screen."""

    def __init__(self, rows: list[tuple[int, int, str]]) -> None:
        self._rows = rows

    def render_segments(self, console: Console) -> str:
        """What moves the cursor there and draws them."""
        return "".join(f"\x1b[{y + 1};{x + 1}H{row}" for x, y, row in self._rows)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Segment(self.render_segments(console))


class Place(NamedTuple):
    """Where a widget is on the screen, and where its content is."""

    outer: Region
    content: Region


class RowPainter:
    """Collects changed rows of widgets of `app`; `flush` paints all of them as one update."""

    def __init__(self, app: App[None]) -> None:
        self._app = app
        self._rows: dict[Widget, dict[int, str]] = {}
        self._visible: Mapping[Widget, tuple[Region, Region]] = {}
        self._places: dict[Widget, Place | None] = {}
        """Where widgets are on the screen as `_visible` has it; None: something covers them."""

    def add(self, widget: Widget, rows: Mapping[int, Strip]) -> bool:
        """Paint these rows of the content of `widget`, by their numbers, with the next flush.

        False if that cannot be: the caller refreshes the widget instead.
        """
        if not self.can_paint(widget):
            return False
        writer = self.writer_for(widget)
        self.add_written(widget, {y: writer.strip(strip) for y, strip in rows.items()})
        return True

    def can_paint(self, widget: Widget) -> bool:
        """All of `widget` is seen: its rows may be added."""
        return self._place_of(widget) is not None

    def writer_for(self, widget: Widget) -> RowWriter:
        """What writes rows the way Textual would draw them in `widget`."""
        from machinen_tui.row_ansi import row_writer  # with the emulator: not for the first paint

        return row_writer(
            widget.rich_style,
            widget.background_colors[1],
            tuple(widget.get_line_filters()),
            self._app.console._color_system or ColorSystem.TRUECOLOR,
        )

    def add_written(self, widget: Widget, rows: Mapping[int, str]) -> None:
        """The same for rows that are written already, of a widget that can be painted."""
        place = self._place_of(widget)
        assert place is not None, "ask can_paint first"
        top, width = place.content.y - place.outer.y, place.outer.width
        widget._styles_cache.set_dirty(*(Region(0, top + y, width, 1) for y in rows))
        self._rows.setdefault(widget, {}).update(rows)

    def flush(self) -> None:
        """Paint what was added."""
        update: list[tuple[int, int, str]] = []
        for widget, rows in self._rows.items():
            place = self._place_of(widget)
            if place is None:
                widget.refresh()  # covered since
            else:
                x, y0, _, height = place.content
                update += [(x, y0 + y, row) for y, row in rows.items() if y < height]
        self._rows.clear()
        if update:
            screen: Screen[object] = self._app.screen
            self._app._display(screen, RowsUpdate(update))

    def _place_of(self, widget: Widget) -> Place | None:
        """Where `widget` is if all of it is seen now."""
        screen: Screen[object] = self._app.screen
        if self._app._batch_count or not widget.is_attached:
            return None
        visible = screen._compositor.visible_widgets
        if visible is not self._visible:  # arranged anew, or another screen
            self._visible, self._places = visible, {}
        if widget not in self._places:
            outer = _uncovered(widget, visible)
            self._places[widget] = outer and Place(outer, outer.shrink(widget.gutter))
        place = self._places[widget]
        return place if place is not None and place.outer.size == widget.outer_size else None


def _uncovered(widget: Widget, visible: Mapping[Widget, tuple[Region, Region]]) -> Region | None:
    """The region of `widget` if all of it is seen; `visible` is in order, the topmost first."""
    region, clip = visible.get(widget, (Region(), Region()))
    if not region or not clip.contains_region(region):
        return None
    for other, (place, its_clip) in visible.items():
        if other is widget:
            return region
        if place.intersection(its_clip).overlaps(region):
            return None
    return None
