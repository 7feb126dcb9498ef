"""Tabs of panes and how each tab arranges them. Pure state: no widget, no terminal.

Every sandbox is on one tab. A tab arranges its panes by itself (`grid`, `columns`, `rows`, `main`,
`stacked`) until somebody splits or drags: then its tree is `manual`. Floating panes lie above.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from machinen_tui import layout_tree as tree
from machinen_tui.layout import Rect, grid, grid_capacity, page_of

GRID, COLUMNS, ROWS, MAIN, STACKED, MANUAL = (
    "grid",
    "columns",
    "rows",
    "main",
    "stacked",
    "manual",
)
ARRANGEMENTS = (GRID, COLUMNS, ROWS, MAIN, STACKED)
"""In the order one key goes through them."""
MAX_TABS = 32
FLOAT_STEP = 4
"""Hundredths of the area a floating pane moves at a time."""


@dataclass(frozen=True, slots=True)
class Floating:
    """Where a floating pane is, in hundredths of the area."""

    x: int = 15
    y: int = 15
    width: int = 70
    height: int = 70

    def rect(self, area: Rect) -> Rect:
        """The same in cells, never outside of `area`."""
        width = min(max(area.width * self.width // 100, tree.LEAST_WIDTH), area.width)
        height = min(max(area.height * self.height // 100, tree.LEAST_HEIGHT), area.height)
        x = min(area.width * self.x // 100, area.width - width)
        y = min(area.height * self.y // 100, area.height - height)
        return Rect(area.x + x, area.y + y, width, height)

    def moved(self, dx: int, dy: int) -> Floating:
        """Shifted by hundredths, as far as it stays inside."""
        x = min(max(self.x + dx, 0), 100 - self.width)
        return replace(self, x=x, y=min(max(self.y + dy, 0), 100 - self.height))

    def grown(self, dx: int, dy: int) -> Floating:
        """Larger by hundredths, as far as there is room."""
        width = min(max(self.width + dx, 10), 100 - self.x)
        return replace(self, width=width, height=min(max(self.height + dy, 10), 100 - self.y))


@dataclass(slots=True)
class Tab:
    """Panes that are seen together."""

    name: str = ""
    keys: list[str] = field(default_factory=list[str])
    """Its sandboxes, in the order they are shown."""
    arrangement: str = GRID
    root: tree.Node | None = None
    """Of a manual arrangement: every pane that does not float."""
    floating: dict[str, Floating] = field(default_factory=dict[str, Floating])
    current: str = ""
    """The pane that was selected last, for when the tab is shown again."""
    by_hand: bool = False
    """Somebody swapped panes: the order of the list is not taken over any more."""

    @property
    def tiled(self) -> list[str]:
        """The panes that do not float."""
        return [key for key in self.keys if key not in self.floating]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a tab looks like: `rects` in cells, those of `floating` above the others."""

    rects: Mapping[str, Rect]
    floating: tuple[str, ...] = ()
    paged: bool = False
    """There are more panes on this tab than these."""
    borders: tuple[tree.Border, ...] = ()


class Workspace:
    """The tabs of one application; there is always one."""

    def __init__(self) -> None:
        self.tabs = [Tab()]
        self.active = 0
        self.expected: dict[str, bool] = {}
        """The next fork of these sandboxes goes beside its source: right of it (True), or below."""

    @property
    def tab(self) -> Tab:
        """The one that is shown."""
        return self.tabs[self.active]

    def tab_of(self, key: str | None) -> Tab | None:
        """The tab a sandbox is on."""
        return next((tab for tab in self.tabs if key in tab.keys), None)

    def title_of(self, index: int, names: Mapping[str, str]) -> str:
        """What stands for a tab in the row of tabs: its name, or that of its first sandbox and how
        many more there are."""
        tab = self.tabs[index]
        if tab.name or not tab.keys:
            return tab.name or "empty"
        more = len(tab.keys) - 1
        return names.get(tab.keys[0], "?") + (f" +{more}" if more else "")

    # -- sandboxes come and go --------------------------------------------------------------------

    def update(self, order: Sequence[str], sources: Mapping[str, str | None], area: Rect) -> None:
        """Take over which sandboxes there are, in the order of the list. One that is new comes to
        the tab of the sandbox it was forked from, else to the one that is shown."""
        here = set(order)
        for tab in self.tabs:
            gone = set(tab.keys) - here
            if gone:
                tab.keys = [key for key in tab.keys if key in here]
                tab.root = tree.without(tab.root, gone)
                for key in gone & set(tab.floating):
                    del tab.floating[key]
        self._drop_empty_tabs()
        placed = {key for tab in self.tabs for key in tab.keys}
        for key in order:
            if key not in placed:
                self._place_new(key, sources.get(key), area)
        places = {key: place for place, key in enumerate(order)}
        for tab in self.tabs:
            if not tab.by_hand:
                tab.keys.sort(key=lambda key: places[key])

    def _place_new(self, key: str, source: str | None, area: Rect) -> None:
        self.put(key, self.tab_of(source) or self.tab, area, source)
        if source is not None and source in self.expected:
            self.split(source, key, across=self.expected.pop(source), area=area)

    def put(self, key: str, tab: Tab, area: Rect, near: str | None = None) -> None:
        """Show a sandbox on `tab`."""
        tab.keys.append(key)
        if tab.arrangement == MANUAL:
            tab.root = tree.added(tab.root, key, area, near)

    def _drop_empty_tabs(self) -> None:
        shown = self.tab
        self.tabs = [tab for tab in self.tabs if tab.keys] or [Tab()]
        self.active = self.tabs.index(shown) if shown in self.tabs else 0

    def succeed(self, old: str, new: str) -> None:
        """Put `new`, from wherever it is, in the place of `old`, which is shown no more."""
        home = self.tab_of(old)
        if home is None or old == new:
            return
        self._take_out(new)
        home.keys[home.keys.index(old)] = new
        home.by_hand = True  # by age it would come last
        if home.root is not None:
            home.root = tree.renamed(home.root, {old: new})
        if old in home.floating:
            home.floating[new] = home.floating.pop(old)
        if home.current == old:
            home.current = new
        self._drop_empty_tabs()

    # -- tabs -------------------------------------------------------------------------------------

    def go_to(self, index: int) -> bool:
        """Show tab `index` (from 0); whether there is one."""
        if 0 <= index < len(self.tabs):
            self.active = index
            return True
        return False

    def step(self, by: int) -> None:
        """Show the next or the previous tab."""
        self.active = (self.active + by) % len(self.tabs)

    def break_out(self, key: str, name: str = "") -> bool:
        """Give a sandbox a tab of its own and show it; False if there are too many tabs."""
        if len(self.tabs) >= MAX_TABS:
            return False
        self._take_out(key)
        self.tabs.append(Tab(name=name, keys=[key]))
        self.active = len(self.tabs) - 1
        self._drop_empty_tabs()
        return True

    def join(self, key: str, index: int, area: Rect) -> bool:
        """Move a sandbox to tab `index` and show that; whether there is one."""
        if not 0 <= index < len(self.tabs):
            return False
        target = self.tabs[index]
        if key not in target.keys:
            self._take_out(key)
            self.put(key, target, area)
        self.active = self.tabs.index(target)
        self._drop_empty_tabs()
        return True

    def close_tab(self, area: Rect) -> bool:
        """Move what the shown tab has to the tab before it; False if it is the only one."""
        if len(self.tabs) < 2:
            return False
        closed = self.tabs.pop(self.active)
        self.active = max(self.active - 1, 0)
        for key in closed.keys:
            self.put(key, self.tab, area)
        return True

    def _take_out(self, key: str) -> None:
        tab = self.tab_of(key)
        if tab is not None:
            tab.keys.remove(key)
            tab.root = tree.without(tab.root, {key})
            tab.floating.pop(key, None)

    # -- arranging --------------------------------------------------------------------------------

    def arrange(self, arrangement: str) -> None:
        """Let the shown tab arrange its panes by itself."""
        self.tab.arrangement, self.tab.root, self.tab.by_hand = arrangement, None, False

    def next_arrangement(self) -> str:
        """Go to the next one; after `manual` comes the grid."""
        now = self.tab.arrangement
        at = ARRANGEMENTS.index(now) if now in ARRANGEMENTS else -1
        self.arrange(ARRANGEMENTS[(at + 1) % len(ARRANGEMENTS)])
        return self.tab.arrangement

    def by_hand(self, area: Rect, current: str | None) -> tree.Node | None:
        """Turn the shown arrangement into a tree that edits change; the tree."""
        tab = self.tab
        if tab.arrangement != MANUAL:
            tab.root = self._tree(tab, area, current)
            tab.arrangement, tab.by_hand = MANUAL, True
        return tab.root

    def split(self, key: str, other: str, *, across: bool, area: Rect) -> bool:
        """Put `other`, from wherever it is, right of `key` or below it."""
        home = self.tab_of(key)
        if home is None or key == other or key in home.floating:
            return False
        self.active = self.tabs.index(home)
        root = self.by_hand(area, key)
        if other in home.keys:
            root = tree.without(root, {other})
            home.floating.pop(other, None)
        else:
            self._take_out(other)
            home.keys.append(other)
        assert root is not None
        home.root = tree.beside(root, key, other, across=across)
        self._drop_empty_tabs()
        return True

    def swap(self, one: str, other: str) -> bool:
        """Two panes of the shown tab in each other's place."""
        tab = self.tab
        if one == other or one not in tab.keys or other not in tab.keys:
            return False
        at, to = tab.keys.index(one), tab.keys.index(other)
        tab.keys[at], tab.keys[to] = other, one
        tab.by_hand = True
        if tab.root is not None:
            tab.root = tree.swapped(tab.root, one, other)
        places = {key: tab.floating.pop(key, None) for key in (one, other)}
        for key, place in ((one, places[other]), (other, places[one])):
            if place is not None:
                tab.floating[key] = place
        return True

    def float(self, key: str, area: Rect) -> bool | None:
        """Let a pane of the shown tab float, or put it back; whether it floats now."""
        tab = self.tab
        if key not in tab.keys:
            return None
        if key in tab.floating:
            del tab.floating[key]
            if tab.arrangement == MANUAL:
                tab.root = tree.added(tab.root, key, area)
            return False
        offset = 4 * (len(tab.floating) % 4)
        tab.root = tree.without(tab.root, {key})
        tab.floating[key] = Floating(10 + offset, 10 + offset)
        return True

    def drag(self, border: tree.Border, to: int) -> None:
        """Move a border of the manual tree."""
        if self.tab.root is not None:
            self.tab.root = tree.moved(self.tab.root, border, to)

    def resize(self, key: str, direction: str, cells: int, area: Rect) -> bool:
        """Move the border beside a pane to the `left`, `right`, `up` or `down`."""
        tab, across = self.tab, direction in ("left", "right")
        sign = -1 if direction in ("left", "up") else 1
        if (place := tab.floating.get(key)) is not None:
            step = FLOAT_STEP * sign
            tab.floating[key] = place.grown(*((step, 0) if across else (0, step)))
            return True
        root = self.by_hand(area, key)
        rect = tree.place(root, area).get(key) if root is not None else None
        if root is None or rect is None:
            return False
        far, near = (rect.x + rect.width, rect.x) if across else (rect.y + rect.height, rect.y)
        start, length = (rect.y, rect.height) if across else (rect.x, rect.width)
        mine = [
            border
            for border in tree.borders(root, area)
            if border.across == across and border.at in (far, near)
            and border.start <= start and start + length <= border.end
        ]  # fmt: skip
        if not mine:
            return False
        border = max(mine, key=lambda each: each.at)
        tab.root = tree.moved(root, border, border.at + sign * cells)
        return True

    # -- what it looks like -----------------------------------------------------------------------

    def shown(self, area: Rect, current: str | None, *, alone: bool = False) -> Shown:
        """Where the panes of the shown tab go; `alone`: only the current one."""
        tab = self.tab
        if not tab.keys:
            return Shown({})
        current = current if current in tab.keys else tab.keys[0]
        if alone:
            return Shown({current: area}, paged=len(tab.keys) > 1)
        below = self._tiles(tab, area, current)
        above = {key: place.rect(area) for key, place in tab.floating.items()}
        front = sorted(above, key=lambda key: key == current)
        return replace(below, rects={**below.rects, **above}, floating=tuple(front))

    def _tiles(self, tab: Tab, area: Rect, current: str) -> Shown:
        keys = tab.tiled
        near = current if current in keys else keys[0] if keys else current
        if tab.arrangement == STACKED and len(keys) + tree.LEAST_HEIGHT - 1 <= area.height:
            return Shown(_stacked(keys, near, area))
        if tab.arrangement not in (GRID, STACKED):
            root = self._tree(tab, area, near)
            if root is not None and tree.fits(root, area):
                return Shown(tree.place(root, area), borders=tuple(tree.borders(root, area)))
        capacity = grid_capacity(area.width, area.height)
        page = page_of(keys.index(near) if near in keys else 0, len(keys), capacity)
        rects = _grid([keys[index] for index in page], area)
        root = tree.from_rects(rects) if len(page) == len(keys) else None
        lines = tuple(tree.borders(root, area)) if root is not None else ()
        return Shown(rects, paged=len(page) < len(keys), borders=lines)

    def _tree(self, tab: Tab, area: Rect, current: str | None) -> tree.Node | None:
        keys = tab.tiled
        if tab.arrangement == MANUAL:
            return tab.root
        if tab.arrangement in (COLUMNS, ROWS):
            return tree.in_line(keys, across=tab.arrangement == COLUMNS)
        if tab.arrangement == MAIN:
            return tree.one_large(keys, keys[0] if keys else "")
        return tree.from_rects(_grid(keys, area))


def gathered(keys: Sequence[str], area: Rect) -> Shown:
    """A grid of panes from whatever tabs, as many as can be seen."""
    capacity = grid_capacity(area.width, area.height)
    return Shown(_grid(keys[:capacity], area), paged=len(keys) > capacity)


def _grid(keys: Sequence[str], area: Rect) -> dict[str, Rect]:
    rects = grid(len(keys), area.width, area.height)
    return {
        key: Rect(area.x + rect.x, area.y + rect.y, rect.width, rect.height)
        for key, rect in zip(keys, rects, strict=True)
    }


def _stacked(keys: Sequence[str], current: str, area: Rect) -> dict[str, Rect]:
    """Only the current pane is open; of the others one sees the titles."""
    rects: dict[str, Rect] = {}
    y = area.y
    for key in keys:
        height = area.height - len(keys) + 1 if key == current else 1
        rects[key] = Rect(area.x, y, area.width, height)
        y += height
    return rects
