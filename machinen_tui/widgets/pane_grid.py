"""The centre: panes where the workspace puts them; borders and floating panes follow the mouse."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, cast

from textual import events
from textual.app import ComposeResult
from textual.containers import Container
from textual.geometry import NULL_OFFSET, NULL_SPACING, Region, Size
from textual.layout import ArrangeResult, Layout, WidgetPlacement
from textual.widget import Widget

from machinen_tui import theme
from machinen_tui.figures import clip
from machinen_tui.layout import Rect, neighbour
from machinen_tui.layout_tree import Border
from machinen_tui.messages import NodeChosen, PaneClicked, TitleDoubleClicked
from machinen_tui.mouse_grip import holds_mouse
from machinen_tui.roster import SandboxView
from machinen_tui.widgets.row_widget import show_or_hide
from machinen_tui.widgets.tab_bar import TabBar, TabItem
from machinen_tui.workspace import Shown, Workspace, gathered

if TYPE_CHECKING:
    from machinen_tui.widgets.terminal_pane import TerminalPane

MAX_LABEL = 24


class GridLayout(Layout):
    """Places the panes as the grid says; the bars, if shown, take a row each."""

    name = "panes"

    def arrange(
        self, parent: Widget, children: list[Widget], size: Size, greedy: bool = True
    ) -> ArrangeResult:
        bars = [child for child in children if isinstance(child, TabBar)]
        placements = [_place(bar, Region(0, y, size.width, 1), 0) for y, bar in enumerate(bars)]
        assert isinstance(parent, PaneGrid)
        rects, above = parent.shown.rects, parent.shown.floating
        for pane in _panes(children):
            if (rect := rects.get(pane.view.key)) is not None:
                level = above.index(pane.view.key) + 1 if pane.view.key in above else 0
                region = Region(rect.x, rect.y, rect.width, rect.height)
                placements.append(_place(pane, region, level))
        return placements


def _panes(children: Iterable[Widget]) -> list[TerminalPane]:
    """Those that are no bars. By what they are not: terminals are imported with the first one."""
    return [cast("TerminalPane", child) for child in children if not isinstance(child, TabBar)]


def _place(widget: Widget, region: Region, level: int) -> WidgetPlacement:
    return WidgetPlacement(region, NULL_OFFSET, NULL_SPACING, widget, level)


class _Drag(NamedTuple):
    """What the mouse holds: a border (by where it is in the tree) or a floating pane."""

    border: Border | None
    key: str
    """The pane under the mouse."""
    grows: bool
    start: tuple[int, int]


class PaneGrid(Container):
    """Holds a pane per sandbox and shows those of the shown tab."""

    def __init__(self) -> None:
        super().__init__(id="panes")
        self.workspace = Workspace()
        self.single = False
        """One pane at a time, as tabs."""
        self.zoomed = False
        self.shown = Shown({})
        self.gathered: list[str] = []
        """Shown instead of the tab: panes of several tabs that are typed into at once."""
        self._order: list[SandboxView] = []
        self._current: str | None = None
        self._layout = GridLayout()
        self._drag: _Drag | None = None
        self._dragged = False
        self._clicked = ""

    @property
    def current(self) -> str | None:
        """The sandbox whose pane is in front."""
        return self._current

    @property
    def layout(self) -> Layout:
        return self._layout

    @property
    def area(self) -> Rect:
        """The cells panes share, below the bars."""
        top = sum(bar.display for bar in self.query(TabBar))
        return Rect(0, top, max(self.size.width, 1), max(self.size.height - top, 1))

    def compose(self) -> ComposeResult:
        yield TabBar(id="tabs")
        yield TabBar(id="page")

    def pane(self, key: str | None) -> TerminalPane | None:
        """The pane of a sandbox."""
        return next((pane for pane in self.panes() if pane.view.key == key), None)

    def panes(self) -> list[TerminalPane]:
        """All panes, shown or not."""
        return _panes(self.children)

    def shown_panes(self) -> list[TerminalPane]:
        """The panes on screen, in their order."""
        return [pane for pane in self.panes() if pane.display]

    # -- arranging --------------------------------------------------------------------------------

    def arrange_panes(self, order: list[SandboxView], current: str | None) -> None:
        """Show the tab of `current`; `order` is that of the list."""
        self._order, self._current = order, current
        keys = [view.key for view in order]
        self.workspace.update(keys, _sources(order), self.area)
        home = self.workspace.tab_of(current)
        if home is not None:
            self.workspace.active = self.workspace.tabs.index(home)
            home.current = current or ""
        self.show_workspace()

    def show_workspace(self) -> None:
        """Show the panes where the workspace has them now."""
        space = self.workspace
        tabs, page = self.query_one("#tabs", TabBar), self.query_one("#page", TabBar)
        show_or_hide(tabs, len(space.tabs) > 1)
        show_or_hide(page, False)
        self.shown = self._arranged()
        if self.shown.paged:
            page.display = True
            self.shown = self._arranged()
        self._sort(space.tab.keys)
        for pane in self.panes():
            show_or_hide(pane, pane.view.key in self.shown.rects)
            pane.set_class(pane.view.key == self._current, "-selected")
            pane.set_class(pane.view.key in self.shown.floating, "-floating")
            pane.update_frame()
        self._show_bars(tabs, page)
        tabs.refresh(layout=True)  # of a child: that drops the arrangement of its parent

    def _arranged(self) -> Shown:
        if self.gathered:
            return gathered(self.gathered, self.area)
        alone = self.single or self.zoomed
        return self.workspace.shown(self.area, self._current, alone=alone)

    def _show_bars(self, tabs: TabBar, page: TabBar) -> None:
        space, views = self.workspace, {view.key: view for view in self._order}
        names = {key: clip(view.name, MAX_LABEL) for key, view in views.items()}
        tabs.show(
            [TabItem(str(at), space.title_of(at, names), str(at + 1))
             for at in range(len(space.tabs))],
            space.active,
        )  # fmt: skip
        here = [views[key] for key in space.tab.keys if key in views]
        current = [view.key == self._current for view in here]
        page.show(
            [TabItem(v.key, names[v.key], color=theme.state_color(v.shown_state)) for v in here],
            current.index(True) if True in current else 0,
        )

    def _sort(self, keys: list[str]) -> None:
        """Put the children into the order of the tab."""
        places = {key: place for place, key in enumerate(keys)}
        wanted = sorted(self.panes(), key=lambda pane: places.get(pane.view.key, len(keys)))
        if wanted != self.panes():
            self.sort_children(
                key=lambda child: (
                    -1
                    if isinstance(child, TabBar)
                    else places.get(cast("TerminalPane", child).view.key, len(keys))
                )
            )

    def neighbour_of(self, key: str | None, direction: str) -> str | None:
        """The sandbox whose pane lies left, right, up or down of another's."""
        keys = list(self.shown.rects)
        if key not in keys:
            return keys[0] if keys else None
        return keys[neighbour(list(self.shown.rects.values()), keys.index(key), direction)]

    def on_resize(self) -> None:
        self.show_workspace()

    def on_tab_bar_chosen(self, message: TabBar.Chosen) -> None:
        message.stop()
        key = message.key
        if message.bar.id == "tabs":
            tabs = self.workspace.tabs
            chosen = tabs[min(int(key), len(tabs) - 1)]
            key = chosen.current if chosen.current in chosen.keys else (*chosen.keys, "")[0]
        self.post_message(NodeChosen(key))

    # -- the mouse --------------------------------------------------------------------------------

    def on_mouse_down(self, event: events.MouseDown) -> None:
        x, y = self._cell(event)
        self._clicked = ""
        self._drag = self._grip_at(x, y) if event.button == 1 else None
        if self._drag is not None:
            event.stop()
            self._dragged = False
            self.capture_mouse()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if self._drag is None:
            return
        event.stop()
        x, y = self._cell(event)
        if (x, y) == self._drag.start and not self._dragged:
            return
        self._dragged = True
        if self._drag.border is not None:
            self._drag_border(self._drag.border, x, y)
        else:
            self._drag_floating(self._drag, x, y)
        self.show_workspace()

    def on_mouse_up(self, event: events.MouseUp) -> None:
        if self._drag is None:
            return
        event.stop()
        self.release_mouse()
        self._clicked, self._drag = "" if self._dragged else self._drag.key, None

    def on_mouse_release(self) -> None:
        if not holds_mouse(self):  # lost: nobody saw the button go up
            self._drag = None

    def on_click(self, event: events.Click) -> None:
        """A frame that `on_mouse_down` took hold of was let go where it was."""
        key, self._clicked = self._clicked, ""
        rect = self.shown.rects.get(key)
        if rect is not None:
            self.post_message(PaneClicked(key))
            if event.chain == 2 and self._cell(event)[1] == rect.y:
                self.post_message(TitleDoubleClicked())

    def _cell(self, event: events.MouseEvent) -> tuple[int, int]:
        return int(event.screen_x) - self.region.x, int(event.screen_y) - self.region.y

    def _grip_at(self, x: int, y: int) -> _Drag | None:
        """What the mouse takes hold of: the frame of a floating pane, or a border."""
        key = self._key_at(x, y)
        rect = self.shown.rects.get(key)
        if rect is None or self.single or self.zoomed:
            return None
        if key in self.shown.floating:
            corner = (x, y) == (rect.x + rect.width - 1, rect.y + rect.height - 1)
            return _Drag(None, key, corner, (x, y)) if corner or y == rect.y else None
        border = next((line for line in self.shown.borders if line.touches(x, y)), None)
        return _Drag(border, key, False, (x, y)) if border is not None else None

    def _key_at(self, x: int, y: int) -> str:
        """The pane there, the topmost first."""
        level = {key: at for at, key in enumerate(self.shown.floating, 1)}
        over = [
            key
            for key, rect in self.shown.rects.items()
            if rect.x <= x < rect.x + rect.width and rect.y <= y < rect.y + rect.height
        ]
        return max(over, key=lambda key: level.get(key, 0), default="")

    def _drag_border(self, border: Border, x: int, y: int) -> None:
        self.workspace.by_hand(self.area, self._current)
        now = next(
            (each for each in self._arranged().borders
             if (each.path, each.index) == (border.path, border.index)), None,
        )  # fmt: skip
        if now is not None:
            self.workspace.drag(now, x if now.across else y)

    def _drag_floating(self, drag: _Drag, x: int, y: int) -> None:
        area, floating = self.area, self.workspace.tab.floating
        dx = round((x - drag.start[0]) * 100 / max(area.width, 1))
        dy = round((y - drag.start[1]) * 100 / max(area.height, 1))
        if (place := floating.get(drag.key)) is None or not (dx or dy):
            return
        floating[drag.key] = place.grown(dx, dy) if drag.grows else place.moved(dx, dy)
        self._drag = drag._replace(start=(x, y))


def _sources(order: list[SandboxView]) -> dict[str, str | None]:
    """The sandbox each was forked from, if it is there."""
    by_pid = {view.pid: view for view in order}
    sources: dict[str, str | None] = {}
    for view in order:
        source = by_pid.get(view.source_pid or -1)
        older = source is not None and source.started_at_ms < view.started_at_ms
        sources[view.key] = source.key if source is not None and older else None
    return sources
