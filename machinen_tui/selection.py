"""What is selected in a pane and what it becomes as text. Pure.

Characters and whole lines are of logical lines: what the terminal wrapped comes out unwrapped.
A block is of rows, as one sees it. Blanks at the ends of lines are never part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from machinen_tui.pane_text import Place, row_starts

CHARS, LINES, BLOCK = "chars", "lines", "block"
MAX_COPIED = 512 * 1024
"""Characters that go to the clipboard at most; terminals take little more."""
WORD_BREAKS = frozenset(" \t\"'`()[]{}<>|,;")
"""What ends a word for a double click; paths and addresses stay whole."""


class Lines(Protocol):
    """Where text is selected from; see `PaneText`."""

    columns: int

    @property
    def first(self) -> int: ...
    @property
    def last(self) -> int: ...
    def cells(self, line: int) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class Selection:
    """From `anchor` to `head`, both included, in either order."""

    anchor: Place
    head: Place
    kind: str = CHARS

    @property
    def start(self) -> Place:
        """The earlier end."""
        return min(self.anchor, self.head)

    @property
    def end(self) -> Place:
        """The later end."""
        return max(self.anchor, self.head)

    def span(self, line: int, row_start: int, width: int) -> tuple[int, int]:
        """Which columns of a row are selected, counted from the row's first; (0, 0): none.

        Args:
            line: The logical line the row is part of.
            row_start: Its first column in that line.
            width: How many columns the row has.
        """
        start, end = self.start, self.end
        row_end = row_start + width
        if self.kind == BLOCK:
            inside = (start.line, start.column) < (line, row_end) and (line, row_start) <= end
            left, right = self._block_columns(width)
            return (left, right + 1) if inside else (0, 0)
        if not start.line <= line <= end.line:
            return 0, 0
        if self.kind == LINES:
            return 0, width
        left = max(start.column - row_start, 0) if line == start.line else 0
        right = min(end.column + 1 - row_start, width) if line == end.line else width
        return (left, right) if left < right else (0, 0)

    def _block_columns(self, columns: int) -> tuple[int, int]:
        xs = sorted((self.anchor.column % columns, self.head.column % columns))
        return xs[0], xs[1]

    def text(self, lines: Lines) -> str:
        """What is selected, without blanks at the ends of lines."""
        first, last = max(self.start.line, lines.first), min(self.end.line, lines.last)
        taken: list[str] = []
        size = 0
        for line in range(first, last + 1):
            parts = self._parts(line, lines)
            taken += parts
            size += sum(map(len, parts)) + len(parts)
            if size > MAX_COPIED:
                break
        text = "\n".join(taken).rstrip("\n")
        return (text + "\n" if self.kind == LINES and text else text)[:MAX_COPIED]

    def _parts(self, line: int, lines: Lines) -> list[str]:
        """What a line gives: one text, or of a block one for each of its rows."""
        cells = lines.cells(line)
        if self.kind != BLOCK:
            start, end = self.span(line, 0, max(len(cells), 1))
            return ["".join(cells[start:end]).rstrip()]
        parts: list[str] = []
        starts = row_starts(cells, lines.columns)
        for start, end in zip(starts, [*starts[1:], len(cells)], strict=True):
            left, right = self.span(line, start, lines.columns)
            if right:
                parts.append("".join(cells[start + left : min(start + right, end)]).rstrip())
        return parts


def word_at(lines: Lines, place: Place) -> Selection:
    """The word under a place; of a blank only that."""
    cells = lines.cells(place.line)
    column = min(place.column, max(len(cells) - 1, 0))
    start = end = column
    if column < len(cells) and not _breaks(cells[column]):
        while start > 0 and not _breaks(cells[start - 1]):
            start -= 1
        while end + 1 < len(cells) and not _breaks(cells[end + 1]):
            end += 1
    return Selection(Place(place.line, start), Place(place.line, end))


def _breaks(cell: str) -> bool:
    return cell in WORD_BREAKS
