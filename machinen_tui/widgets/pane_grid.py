"""The centre: panes in an automatic grid, one pane filling it (zoom), or one at a time with a row
of tabs."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.app import ComposeResult
from textual.containers import Container
from textual.geometry import NULL_OFFSET, NULL_SPACING, Region, Size
from textual.layout import ArrangeResult, Layout, WidgetPlacement
from textual.strip import Strip
from textual.widget import Widget

from machinen_tui import theme
from machinen_tui.figures import clip
from machinen_tui.layout import grid, grid_capacity, neighbour, page_of
from machinen_tui.messages import NodeChosen
from machinen_tui.roster import SandboxView
from machinen_tui.widgets.terminal_pane import TerminalPane


class GridLayout(Layout):
    """Places the shown panes by `layout.grid`; the tab bar, if shown, takes the first row."""

    name = "panes"

    def arrange(
        self, parent: Widget, children: list[Widget], size: Size, greedy: bool = True
    ) -> ArrangeResult:
        bars = [child for child in children if isinstance(child, TabBar)]
        panes = [child for child in children if not isinstance(child, TabBar)]
        top = len(bars)
        placements = [_place(bar, Region(0, 0, size.width, 1)) for bar in bars]
        rects = grid(len(panes), size.width, max(size.height - top, 1))
        placements += [
            _place(pane, Region(rect.x, rect.y + top, rect.width, rect.height))
            for pane, rect in zip(panes, rects, strict=False)
        ]
        return placements


def _place(widget: Widget, region: Region) -> WidgetPlacement:
    return WidgetPlacement(region, NULL_OFFSET, NULL_SPACING, widget)


class TabBar(Widget):
    """Names of all panes in one row, the shown one marked; scrolled so that it is in view."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"tabs--current", "tabs--other"}

    def __init__(self) -> None:
        super().__init__()
        self._tabs: list[tuple[str, str, str, bool]] = []

    def show(self, views: list[SandboxView], current: str | None) -> None:
        """Draw `views`, the one with key `current` marked."""
        self._tabs = [
            (v.key, clip(v.name, 24), theme.state_color(v.shown_state), v.key == current)
            for v in views
        ]
        self.refresh()

    def _shown(self) -> list[tuple[str, str, str, bool]]:
        """The tabs from the first that is shown; those before it make room for the current one."""
        current = next((index for index, tab in enumerate(self._tabs) if tab[3]), 0)
        first, used = current, len(self._tabs[current][1]) + 4 if self._tabs else 0
        while first > 0 and used + len(self._tabs[first - 1][1]) + 4 <= self.size.width:
            first -= 1
            used += len(self._tabs[first][1]) + 4
        return self._tabs[first:]

    def render_line(self, y: int) -> Strip:
        segments: list[Segment] = []
        for _, name, color, current in self._shown():
            style = self.get_component_rich_style("tabs--current" if current else "tabs--other")
            segments.append(Segment(" ● ", style + Style(color=color)))
            segments.append(Segment(f"{name} ", style))
        return Strip(segments).adjust_cell_length(self.size.width, self.rich_style)

    def on_click(self, event: events.Click) -> None:
        event.stop()
        start = 0
        for key, name, _, _ in self._shown():
            end = start + len(name) + 4
            if start <= event.x < end:
                self.post_message(NodeChosen(key))
                return
            start = end


class PaneGrid(Container):
    """Holds a pane per sandbox and decides which are shown."""

    def __init__(self) -> None:
        super().__init__(id="panes")
        self.single = False
        """One pane at a time, as tabs."""
        self.zoomed = False
        self._order: list[SandboxView] = []
        self._current: str | None = None
        self._layout = GridLayout()

    @property
    def current(self) -> str | None:
        """The sandbox whose pane is in front."""
        return self._current

    @property
    def layout(self) -> Layout:
        return self._layout

    def compose(self) -> ComposeResult:
        yield TabBar()

    def pane(self, key: str | None) -> TerminalPane | None:
        """The pane of a sandbox."""
        return next((pane for pane in self.panes() if pane.view.key == key), None)

    def panes(self) -> list[TerminalPane]:
        """All panes, shown or not."""
        return [child for child in self.children if isinstance(child, TerminalPane)]

    def shown_panes(self) -> list[TerminalPane]:
        """The panes on screen, in their order."""
        return [pane for pane in self.panes() if pane.display]

    def arrange_panes(self, order: list[SandboxView], current: str | None) -> None:
        """Show the panes of `order` (lineage order) with `current` among them."""
        self._order, self._current = order, current
        keys = [view.key for view in order]
        index = keys.index(current) if current in keys else 0
        if self.single or self.zoomed:
            shown = set(keys[index : index + 1])
        else:
            shown = {keys[i] for i in page_of(index, len(keys), grid_capacity(*self.size))}
        self._sort(keys)
        for pane in self.panes():
            pane.display = pane.view.key in shown
            pane.set_class(pane.view.key == current, "-selected")
            pane.update_frame()
        bar = self.query_one(TabBar)
        bar.display = len(keys) > 1 and len(shown) < len(keys)
        bar.show(order, current)
        self.refresh(layout=True)

    def _sort(self, keys: list[str]) -> None:
        """Put the children into the order of the tree."""
        places = {key: place for place, key in enumerate(keys)}
        wanted = sorted(self.panes(), key=lambda pane: places.get(pane.view.key, len(keys)))
        if wanted != self.panes():
            self.sort_children(
                key=lambda child: (
                    places.get(child.view.key, len(keys)) if isinstance(child, TerminalPane) else -1
                )
            )

    def neighbour_of(self, key: str | None, direction: str) -> str | None:
        """The sandbox whose pane lies left, right, up or down of another's."""
        shown = self.shown_panes()
        keys = [pane.view.key for pane in shown]
        if key not in keys:
            return keys[0] if keys else None
        rects = grid(len(shown), self.size.width, self.size.height)
        return keys[neighbour(rects, keys.index(key), direction)] if rects else key

    def on_resize(self) -> None:
        self.arrange_panes(self._order, self._current)
