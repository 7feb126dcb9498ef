"""Where panes go: pure geometry, in cells."""

from __future__ import annotations

from dataclasses import dataclass

MIN_PANE_WIDTH, MIN_PANE_HEIGHT = 20, 5
"""Frame included; smaller than this a terminal shows nothing of use."""

CELL_ASPECT = 2.1
"""A cell is about this much taller than wide."""
IDEAL_SHAPE = 1.6
"""Width to height of a pane that reads well."""

MIN_APP_WIDTH, MIN_APP_HEIGHT = 60, 15
LOW, TALL = 22, 32
"""Windows of fewer rows have no graph, of as many a taller one (app.tcss)."""
WIDE_SIDEBAR, NARROW_SIDEBAR = 36, 28


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle of cells."""

    x: int
    y: int
    width: int
    height: int


def grid_capacity(width: int, height: int) -> int:
    """How many panes of the least size fit."""
    return max(width // MIN_PANE_WIDTH, 1) * max(height // MIN_PANE_HEIGHT, 1)


def grid(count: int, width: int, height: int) -> list[Rect]:
    """Tile `count` panes over the whole area: rows of equal height, panes of a row of equal width.

    The number of columns is the one whose panes come closest to the ideal shape. A last row that is
    not full spreads its panes over the whole width.
    """
    if count <= 0 or width <= 0 or height <= 0:
        return []
    columns = min(range(1, count + 1), key=lambda tried: _penalty(count, tried, width, height))
    rows = -(-count // columns)
    rects: list[Rect] = []
    for row, (y, row_height) in enumerate(_shares(height, rows)):
        in_row = min(columns, count - row * columns)
        rects += [Rect(x, y, pane, row_height) for x, pane in _shares(width, in_row)]
    return rects


def page_of(index: int, count: int, capacity: int) -> range:
    """Which of `count` panes are on the page that shows number `index`."""
    start = index // max(capacity, 1) * max(capacity, 1)
    return range(start, min(start + capacity, count))


def neighbour(rects: list[Rect], index: int, direction: str) -> int:
    """The pane next to `index` to the `left`, `right`, `up` or `down`; itself if there is none."""
    here = rects[index]
    x, y = here.x + here.width / 2, here.y + here.height / 2
    best, best_distance = index, float("inf")
    for other, rect in enumerate(rects):
        dx, dy = rect.x + rect.width / 2 - x, (rect.y + rect.height / 2 - y) * CELL_ASPECT
        ahead, aside = {
            "left": (-dx, dy),
            "right": (dx, dy),
            "up": (-dy, dx),
            "down": (dy, dx),
        }[direction]
        distance = ahead + 3 * abs(aside)
        if other != index and ahead > 0.5 and distance < best_distance:
            best, best_distance = other, distance
    return best


def sidebar_width(width: int) -> int:
    """How wide the list of sandboxes is in a window of `width` columns."""
    return WIDE_SIDEBAR if width >= 110 else NARROW_SIDEBAR


def size_classes(width: int, height: int) -> dict[str, bool]:
    """The style classes of a window of that size, each with whether it holds."""
    small = width < MIN_APP_WIDTH or height < MIN_APP_HEIGHT
    return {"-small": small, "-low": height < LOW, "-tall": height >= TALL}


def _penalty(count: int, columns: int, width: int, height: int) -> float:
    rows = -(-count // columns)
    pane_width, pane_height = width / columns, height / rows
    too_small = pane_width < MIN_PANE_WIDTH or pane_height < MIN_PANE_HEIGHT
    shape = pane_width / (pane_height * CELL_ASPECT)
    ragged = rows * columns - count
    return 100 * too_small + max(shape / IDEAL_SHAPE, IDEAL_SHAPE / shape) + 0.15 * ragged


def _shares(total: int, parts: int) -> list[tuple[int, int]]:
    """Split `total` cells into `parts` of (start, size), the larger ones first."""
    size, extra = divmod(total, parts)
    starts = [part * size + min(part, extra) for part in range(parts)]
    return [(start, size + (part < extra)) for part, start in enumerate(starts)]
