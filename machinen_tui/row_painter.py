"""Writes rows of panes that changed straight to the terminal, in the turn that changed them.

Textual's own way visits every row of every pane between the first and the last change, and waits up
to a sixtieth of a second to do so. Here only the rows themselves are drawn, through the filters of
Textual's own pipeline; its caches learn that they changed, so what it paints later is the same.
Panes that anything covers, dialogs for instance, are left to Textual.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from textual._compositor import CompositorUpdate
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

if TYPE_CHECKING:
    from textual.app import App
    from textual.screen import Screen

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# Textual has no public way to paint part of the screen at once.


class RowsUpdate(CompositorUpdate):
    """Rows, each at its place on the screen."""

    def __init__(self, rows: list[tuple[int, int, Strip]]) -> None:
        self._rows = rows

    def render_segments(self, console: Console) -> str:
        """What moves the cursor there and draws them."""
        return "".join(
            f"\x1b[{y + 1};{x + 1}H{strip.render(console)}" for x, y, strip in self._rows
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Segment(self.render_segments(console))


class RowPainter:
    """Collects changed rows of widgets of `app`; `flush` paints all of them as one update."""

    def __init__(self, app: App[None]) -> None:
        self._app = app
        self._rows: dict[Widget, dict[int, Strip]] = {}
        self._visible: Mapping[Widget, tuple[Region, Region]] = {}
        self._places: dict[Widget, Region | None] = {}
        """Where widgets are on the screen as `_visible` has it; None: something covers them."""

    def add(self, widget: Widget, rows: Mapping[int, Strip]) -> bool:
        """Paint these rows of the content of `widget`, by their numbers, with the next flush.

        False if that cannot be: the caller refreshes the widget instead.
        """
        if self._place_of(widget) is None:
            return False
        top, width = widget.gutter.top, widget.outer_size.width
        widget._styles_cache.set_dirty(*(Region(0, top + y, width, 1) for y in rows))
        self._rows.setdefault(widget, {}).update(rows)
        return True

    def flush(self) -> None:
        """Paint what was added."""
        update: list[tuple[int, int, Strip]] = []
        for widget, rows in self._rows.items():
            place = self._place_of(widget)
            if place is None:
                widget.refresh()  # covered since
            else:
                update += _placed(widget, place.shrink(widget.gutter), rows)
        self._rows.clear()
        if update:
            screen: Screen[object] = self._app.screen
            self._app._display(screen, RowsUpdate(update))

    def _place_of(self, widget: Widget) -> Region | None:
        """Where `widget` is if all of it is seen now."""
        screen: Screen[object] = self._app.screen
        if self._app._batch_count or not widget.is_attached or widget.screen is not screen:
            return None
        visible = screen._compositor.visible_widgets
        if visible is not self._visible:  # arranged anew
            self._visible, self._places = visible, {}
        if widget not in self._places:
            self._places[widget] = _uncovered(widget, visible)
        place = self._places[widget]
        return place if place is not None and place.size == widget.outer_size else None


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


def _placed(
    widget: Widget, content: Region, rows: Mapping[int, Strip]
) -> list[tuple[int, int, Strip]]:
    """The rows as they go out, each with its column and row on the screen."""
    background, filters = widget.background_colors[1], widget.get_line_filters()
    placed: list[tuple[int, int, Strip]] = []
    for y, strip in rows.items():
        for each in filters:
            strip = strip.apply_filter(each, background)
        if y < content.height:
            placed.append((content.x, content.y + y, strip))
    return placed
