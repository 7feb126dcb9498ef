"""Fifty sandboxes at once: a tile each, with state, CPU and memory. Click or walk to one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

from machinen_tui import theme
from machinen_tui.figures import ceiling, clip, mib
from machinen_tui.roster import Roster, SandboxView
from machinen_tui.tiles import Tiling, tiling
from machinen_tui.widgets.dialogs import Dialog, KeyHint

DRAW_S = 1.0


class Wall(Widget):
    """Draws the tiles; `chosen` is the number of the marked one."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"wall--chosen", "wall--dim", "wall--alert"}

    class Picked(Message):
        """A tile was clicked."""

    def __init__(self, roster: Roster, selected: str | None) -> None:
        super().__init__(id="wall")
        self._roster = roster
        self.views: list[SandboxView] = roster.shown()
        keys = [view.key for view in self.views]
        self.chosen = keys.index(selected) if selected in keys else 0

    def read(self) -> None:
        """Look at the roster again; the mark stays on its sandbox."""
        key = self.views[self.chosen].key if self.chosen < len(self.views) else None
        self.views = self._roster.shown()
        keys = [view.key for view in self.views]
        self.chosen = keys.index(key) if key in keys else max(min(self.chosen, len(keys) - 1), 0)
        self.refresh()

    @property
    def tiling(self) -> Tiling:
        """Where the tiles are."""
        return tiling(max(len(self.views), 1), max(self.size.width, 1), max(self.size.height, 1))

    @property
    def first(self) -> int:
        """The first tile that is shown: more than fit are scrolled by rows."""
        tiles = self.tiling
        row = self.chosen // tiles.columns
        return max(row - tiles.rows + 1, 0) * tiles.columns

    def step(self, columns: int, rows: int) -> None:
        """Move the mark, stopping at the ends."""
        moved = self.chosen + columns + rows * self.tiling.columns
        if 0 <= moved < len(self.views):
            self.chosen = moved
            self.refresh()

    def render_line(self, y: int) -> Strip:
        tiles, base, width = self.tiling, self.rich_style, self.size.width
        start = self.first + y // tiles.height * tiles.columns
        segments: list[Segment] = []
        for index in range(start, min(start + tiles.columns, len(self.views))):
            segments += self._tile_row(index, y % tiles.height, tiles)
        return Strip(segments).adjust_cell_length(width, base)

    def _tile_row(self, index: int, row: int, tiles: Tiling) -> list[Segment]:
        view, room = self.views[index], tiles.width - 1
        base = self.rich_style
        if index == self.chosen:
            base += self.get_component_rich_style("wall--chosen", partial=True)
        dim = base + self.get_component_rich_style("wall--dim", partial=True)
        color = base + Style(color=theme.state_color(view.shown_state))
        if row == 0:
            return [*self._head(view, room, base, color), Segment(" ", self.rich_style)]
        if row == 1:
            text = Segment(clip(_figures(view), room).ljust(room), dim)
        elif row == 2:
            cpu = [sample.cpu_percent for sample in view.samples]
            text = Segment(theme.spark(cpu, room, 100.0), color)
        else:
            return [Segment(" " * tiles.width, self.rich_style)]
        return [text, Segment(" ", self.rich_style)]

    def _head(self, view: SandboxView, room: int, base: Style, color: Style) -> list[Segment]:
        """Glyph, name, and at the right the CPU or that something is wrong."""
        last = view.last
        right = f"{last.cpu_percent:.0f}%" if last and not view.gone else ""
        style = base + self.get_component_rich_style("wall--dim", partial=True)
        if view.alerts.active:
            right = f"!{right}"
            style = base + self.get_component_rich_style("wall--alert", partial=True)
        name_room = max(room - len(right) - 3, 0)
        return [
            Segment(f"{theme.state_glyph(view.shown_state)} ", color),
            Segment(clip(view.name, name_room).ljust(name_room), base),
            Segment(f" {right}"[: room - 2 - name_room], style),
        ]

    def on_click(self, event: events.Click) -> None:
        event.stop()
        offset = event.get_content_offset(self)
        index = self.first + self.tiling.at(offset.x, offset.y) if offset else -1
        if 0 <= index < len(self.views):
            self.chosen = index
            self.refresh()
            self.post_message(self.Picked())


class WallScreen(Dialog[str]):
    """Answers with the key of the chosen sandbox."""

    TITLE_TEXT = "the wall"
    SHAPE = "dialog -full"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "choose", show=False),
        Binding("q,W", "dismiss(None)", show=False),
        *[
            Binding(keys, f"step({columns}, {rows})", show=False)
            for keys, columns, rows in (
                ("left,h", -1, 0), ("right,l", 1, 0), ("up,k", 0, -1), ("down,j", 0, 1),
            )
        ],
    ]  # fmt: skip

    def __init__(self, roster: Roster, selected: str | None) -> None:
        super().__init__()
        self._wall = Wall(roster, selected)

    def keys(self) -> Sequence[KeyHint]:
        return (("enter", "enter or click selects"), ("escape", "esc closes"))

    def fields(self) -> ComposeResult:
        yield self._wall

    def on_mount(self) -> None:
        self._draw()
        self.set_interval(DRAW_S, self._draw)

    def _draw(self) -> None:
        self._wall.read()
        views = self._wall.views
        live = [view for view in views if not view.gone]
        wrong = sum(bool(view.alerts.active) for view in live)
        total = sum(view.last.private_bytes for view in live if view.last)
        cpu = sum(view.last.cpu_percent for view in live if view.last)
        said = f"{len(live)} run · {cpu:.0f}% cpu · {mib(total)} of their own"
        self.say(said + (f" · {wrong} over a threshold" if wrong else ""), wrong=wrong > 0)

    def action_step(self, columns: int, rows: int) -> None:
        """Move the mark."""
        self._wall.step(columns, rows)

    def on_wall_picked(self) -> None:
        self.action_choose()

    def action_choose(self) -> None:
        """Answer with the marked one."""
        views = self._wall.views
        self.dismiss(views[self._wall.chosen].key if views else None)


def _figures(view: SandboxView) -> str:
    last = view.last
    if view.gone or last is None:
        return view.shown_state
    return f"{mib(last.rss_bytes)}/{ceiling(last.ceiling_mib or view.ceiling_mib)} {view.state}"
