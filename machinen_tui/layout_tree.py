"""Panes side by side and one above the other, as a tree. Pure: every edit gives a new tree.

A leaf is a pane, named by its key; a split shares its length among its parts by weight. Nobody
else decides where panes of a tree go: `place` gives rectangles, `borders` what can be dragged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from machinen_tui.layout import MIN_PANE_HEIGHT, MIN_PANE_WIDTH, Rect

LEAST_WIDTH, LEAST_HEIGHT = 8, 3
"""No border is moved so far that a pane has fewer cells than these, frame included."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """One pane."""

    key: str


@dataclass(frozen=True, slots=True)
class Split:
    """Parts beside each other (`across`) or one below the other."""

    across: bool
    parts: tuple[Node, ...]
    weights: tuple[int, ...]


Node = Leaf | Split
Path = tuple[int, ...]
"""Which part of which part: from the root down."""


@dataclass(frozen=True, slots=True)
class Border:
    """The line between part `index` and the next one of the split at `path`."""

    path: Path
    index: int
    across: bool
    at: int
    """Its first cell after the border: x of a vertical one, y of a horizontal one."""
    start: int
    end: int
    """The cells along it, `end` excluded."""
    length: int
    """Cells the whole split shares."""

    def touches(self, x: int, y: int) -> bool:
        """The frames on both its sides count as the border."""
        along, off = (y, x) if self.across else (x, y)
        return self.start <= along < self.end and off - self.at in (-1, 0)


# -- reading --------------------------------------------------------------------------------------


def keys_of(node: Node | None) -> list[str]:
    """The panes, from left to right and from the top down."""
    if node is None:
        return []
    if isinstance(node, Leaf):
        return [node.key]
    return [key for part in node.parts for key in keys_of(part)]


def place(node: Node, area: Rect) -> dict[str, Rect]:
    """The rectangle of each pane; together they cover `area`."""
    if isinstance(node, Leaf):
        return {node.key: area}
    rects: dict[str, Rect] = {}
    for part, share in zip(node.parts, _areas(node, area), strict=True):
        rects |= place(part, share)
    return rects


def borders(node: Node, area: Rect, path: Path = ()) -> Iterator[Border]:
    """Every line between two parts, outer splits first."""
    if isinstance(node, Leaf):
        return
    areas = _areas(node, area)
    length = area.width if node.across else area.height
    for index, after in enumerate(areas[1:]):
        at = after.x if node.across else after.y
        start = area.y if node.across else area.x
        end = start + (area.height if node.across else area.width)
        yield Border(path, index, node.across, at, start, end, length)
    for index, (part, share) in enumerate(zip(node.parts, areas, strict=True)):
        yield from borders(part, share, (*path, index))


def fits(node: Node, area: Rect) -> bool:
    """Every pane has the cells it needs at least."""
    return all(
        rect.width >= LEAST_WIDTH and rect.height >= LEAST_HEIGHT
        for rect in place(node, area).values()
    )


# -- editing --------------------------------------------------------------------------------------


def beside(node: Node, key: str, new_key: str, *, across: bool, first: bool = False) -> Node:
    """`new_key` takes half of the place of `key`: right of it or below it, with `first` before."""

    def split(leaf: Leaf) -> Node:
        parts = (Leaf(new_key), leaf) if first else (leaf, Leaf(new_key))
        return Split(across, parts, (1, 1))

    return _flat(_mapped(node, lambda leaf: split(leaf) if leaf.key == key else leaf))


def without(node: Node | None, keys: set[str]) -> Node | None:
    """The tree without these panes; their neighbours take the place."""
    if node is None or isinstance(node, Leaf):
        return None if node is None or node.key in keys else node
    left = [
        (part, weight)
        for old, weight in zip(node.parts, node.weights, strict=True)
        if (part := without(old, keys)) is not None
    ]
    if len(left) < 2:
        return left[0][0] if left else None
    parts, weights = zip(*left, strict=True)
    return _flat(Split(node.across, parts, weights))


def renamed(node: Node, names: Mapping[str, str]) -> Node:
    """Each pane under another key; one that has none keeps its own."""
    return _mapped(node, lambda leaf: Leaf(names.get(leaf.key, leaf.key)))


def swapped(node: Node, one: str, other: str) -> Node:
    """Two panes in each other's place."""
    return renamed(node, {one: other, other: one})


def moved(root: Node, border: Border, to: int) -> Node:
    """The border at cell `to`; the parts on its two sides change, as far as they can."""

    def edit(split: Split) -> Split:
        sizes = [size for _, size in shares(border.length, split.weights)]
        index = border.index
        room = sizes[index] + sizes[index + 1]
        least = LEAST_WIDTH if split.across else LEAST_HEIGHT
        first, second = (  # a part that is smaller than it should be must not push the border back
            min(size, _least(part, split.across, least))
            for size, part in zip(sizes[index:], split.parts[index : index + 2], strict=False)
        )
        wanted = sizes[index] + to - border.at
        sizes[index] = min(max(wanted, first), room - second)
        sizes[index + 1] = room - sizes[index]
        return replace(split, weights=tuple(sizes))

    return _edited(root, border.path, edit)


def evened(node: Node) -> Node:
    """The same tree, every split shared equally."""
    if isinstance(node, Leaf):
        return node
    return Split(node.across, tuple(map(evened, node.parts)), (1,) * len(node.parts))


# -- making ---------------------------------------------------------------------------------------


def in_line(keys: Sequence[str], *, across: bool) -> Node | None:
    """All panes in one row or one column."""
    if len(keys) < 2:
        return Leaf(keys[0]) if keys else None
    return Split(across, tuple(map(Leaf, keys)), (1,) * len(keys))


def one_large(keys: Sequence[str], main: str) -> Node | None:
    """`main` on the left over more than half, the others in a column beside it."""
    others = [key for key in keys if key != main]
    column = in_line(others, across=False)
    if column is None or main not in keys:
        return in_line(keys, across=True)
    return Split(True, (Leaf(main), column), (3, 2))


def from_rects(rects: Mapping[str, Rect]) -> Node | None:
    """The tree of a grid: rows of panes."""
    rows: dict[int, list[tuple[str, Rect]]] = {}
    for key, rect in rects.items():
        rows.setdefault(rect.y, []).append((key, rect))
    if not rows:
        return None
    made: list[Node] = []
    for row in rows.values():
        leaves = [Leaf(key) for key, _ in row]
        widths = tuple(rect.width for _, rect in row)
        made.append(Split(True, tuple(leaves), widths) if len(leaves) > 1 else leaves[0])
    heights = tuple(row[0][1].height for row in rows.values())
    return Split(False, tuple(made), heights) if len(made) > 1 else made[0]


def added(root: Node | None, key: str, area: Rect, near: str | None = None) -> Node:
    """The tree with one pane more: it shares the place of `near`, or of the largest pane."""
    if root is None:
        return Leaf(key)
    rects = place(root, area)
    if near not in rects:
        near = max(rects, key=lambda each: rects[each].width * rects[each].height)
    rect = rects[near]
    across = rect.width >= 2 * MIN_PANE_WIDTH and rect.width > 2 * rect.height
    if not across and rect.height < 2 * MIN_PANE_HEIGHT <= rect.width // 2:
        across = True
    return beside(root, near, key, across=across)


def shares(total: int, weights: Sequence[int]) -> list[tuple[int, int]]:
    """Split `total` cells by weight into (start, size)."""
    whole, before, parts = max(sum(weights), 1), 0, list[tuple[int, int]]()
    for weight in weights:
        start, end = total * before // whole, total * (before + weight) // whole
        parts.append((start, end - start))
        before += weight
    return parts


# -- inside ---------------------------------------------------------------------------------------


def _areas(split: Split, area: Rect) -> list[Rect]:
    if split.across:
        return [
            Rect(area.x + start, area.y, size, area.height)
            for start, size in shares(area.width, split.weights)
        ]
    return [
        Rect(area.x, area.y + start, area.width, size)
        for start, size in shares(area.height, split.weights)
    ]


def _least(node: Node, across: bool, least: int) -> int:
    """Cells a part needs in one direction, for each pane in it to have `least` when it is shared
    out by weight."""
    if isinstance(node, Leaf):
        return least
    needs = [_least(part, across, least) for part in node.parts]
    if node.across != across:
        return max(needs)
    whole = sum(node.weights)
    return max(
        -(-need * whole // max(weight, 1)) for need, weight in zip(needs, node.weights, strict=True)
    )


def _mapped(node: Node, change: Callable[[Leaf], Node]) -> Node:
    if isinstance(node, Leaf):
        return change(node)
    return replace(node, parts=tuple(_mapped(part, change) for part in node.parts))


def _edited(node: Node, path: Path, edit: Callable[[Split], Split]) -> Node:
    if isinstance(node, Leaf):
        return node
    if not path:
        return edit(node)
    parts = list(node.parts)
    parts[path[0]] = _edited(parts[path[0]], path[1:], edit)
    return replace(node, parts=tuple(parts))


def _flat(node: Node) -> Node:
    """A split within a split of the same direction becomes part of it, its size kept."""
    if isinstance(node, Leaf):
        return node
    parts, weights = list[Node](), list[int]()
    inner = [_flat(part) for part in node.parts]
    scale = 1
    for part in inner:
        if isinstance(part, Split) and part.across == node.across:
            scale *= sum(part.weights)
    for part, weight in zip(inner, node.weights, strict=True):
        if isinstance(part, Split) and part.across == node.across:
            parts += part.parts
            weights += [weight * each * scale // sum(part.weights) for each in part.weights]
        else:
            parts.append(part)
            weights.append(weight * scale)
    return Split(node.across, tuple(parts), _reduced(weights))


def _reduced(weights: list[int]) -> tuple[int, ...]:
    """Smaller numbers of the same proportion, so that they do not grow with every edit."""
    largest = max(weights)
    if largest <= 1000:
        return tuple(weights)
    return tuple(max(weight * 1000 // largest, 1) for weight in weights)
