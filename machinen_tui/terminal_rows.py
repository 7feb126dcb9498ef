"""Rows of cells, the logical lines they are parts of, and how lines wrap.

A row is as long as the screen is wide. A line that was too long goes on in the next row, and the
row remembers it: so a line keeps its text at every width.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from machinen_tui.terminal_cells import PLAIN, Cell

if TYPE_CHECKING:
    from machinen_tui.terminal_history import Scrollback

SPAN = 16
BLANKS = [PLAIN] * SPAN
"""So many are compared at once."""
MAX_LINE_CELLS = 65_536
"""A longer line is broken in two."""


class Row(list[Cell]):
    """One row of the screen."""

    __slots__ = ("wide", "wrapped")

    def __init__(self, cells: Iterable[Cell]) -> None:
        super().__init__(cells)
        self.wrapped = 0
        """The line goes on in the next row: how many columns of this one it uses; else 0."""
        self.wide = False
        """There may be wide characters, so edits have to look for halves."""


def used_columns(row: Sequence[Cell]) -> int:
    """Columns up to the last one that shows something."""
    used = len(row)
    while used >= SPAN and row[used - SPAN : used] == BLANKS:
        used -= SPAN
    while used and row[used - 1] is PLAIN:
        used -= 1
    return used


def row_of(cells: Sequence[Cell], columns: int, *, goes_on: bool) -> Row:
    """A row holding `cells`, blank to its end."""
    row = Row(cells)
    row.wide = any(not cell.data for cell in cells)
    row.wrapped = len(cells) if goes_on else 0
    row.extend([PLAIN] * (columns - len(cells)))
    return row


def wrap(cells: Sequence[Cell], columns: int) -> list[Sequence[Cell]]:
    """The parts of a line at a width, at least one; a wide character never splits."""
    if len(cells) <= columns:
        return [cells]
    if all(cell.data for cell in cells):
        return [cells[start : start + columns] for start in range(0, len(cells), columns)]
    parts, start = list[Sequence[Cell]](), 0
    while start < len(cells):
        end = min(start + columns, len(cells))
        if end < len(cells) and not cells[end].data and end - start > 1:
            end -= 1
        parts.append(cells[start:end])
        start = end
    return parts


@dataclass(slots=True)
class Grid:
    """What a resize changes: the rows of a screen and the cursor on it."""

    rows: list[Row]
    x: int
    y: int


@dataclass(slots=True)
class _Line:
    """A logical line, and where in it the cursor is."""

    cells: list[Cell]
    cursor: int | None = None
    goes_on: bool = False
    """Its last row was full; what follows was lost or is not there yet."""


def reflow(grid: Grid, columns: int, lines: int, history: Scrollback) -> Grid:
    """The grid at another size: lines wrap anew, what no longer fits goes to the history, and if
    the screen was full and there is room, lines come back from it. No text is lost."""
    height = len(grid.rows)
    used = max(_used_rows(grid.rows), grid.y + 1)
    was_full = used == height
    logical = _lines_of(grid, used, history.take_open_line())
    rows, cursor = _wrapped(logical, columns)
    if len(rows) > lines:
        surplus = len(rows) - lines
        for row in rows[:surplus]:
            history.append(row)
        rows, cursor = rows[surplus:], (cursor[0], cursor[1] - surplus)
    elif was_full and len(rows) < lines:
        taken = _taken_back(history, columns, lines - len(rows))
        rows, cursor = taken + rows, (cursor[0], cursor[1] + len(taken))
    rows += [Row([PLAIN] * columns) for _ in range(lines - len(rows))]
    return Grid(rows, min(cursor[0], columns), max(cursor[1], 0))


def cropped(grid: Grid, columns: int, lines: int) -> Grid:
    """The grid of an alternate screen at another size: its program draws it anew."""
    surplus = max(grid.y + 1 - lines, 0)
    rows = grid.rows[surplus : surplus + lines]
    for row in rows:
        del row[columns:]
        if row.wide and row and len(row) == columns and _is_half(row[-1]):
            row[-1] = PLAIN
        row.extend([PLAIN] * (columns - len(row)))
        row.wrapped = 0
    rows += [Row([PLAIN] * columns) for _ in range(lines - len(rows))]
    return Grid(rows, min(grid.x, columns - 1), min(grid.y - surplus, lines - 1))


def _is_half(cell: Cell) -> bool:
    from machinen_tui.terminal_text import columns_of

    return columns_of(cell.data) == 2


def _used_rows(rows: Sequence[Row]) -> int:
    used = len(rows)
    while used and used_columns(rows[used - 1]) == 0:
        used -= 1
    return used


def _lines_of(grid: Grid, used: int, opened: list[Cell] | None) -> list[_Line]:
    """The logical lines on the first `used` rows; the first one goes on from `opened`."""
    lines: list[_Line] = []
    line = _Line(opened if opened is not None else [])
    for y, row in enumerate(grid.rows[:used]):
        if y == grid.y:
            line.cursor = len(line.cells) + grid.x
        end = row.wrapped or used_columns(row)
        line.cells.extend(row[:end])
        line.goes_on = bool(row.wrapped)
        if not row.wrapped or y == used - 1:
            lines.append(line)
            line = _Line([])
    return lines


def _wrapped(lines: Iterable[_Line], columns: int) -> tuple[list[Row], tuple[int, int]]:
    """The rows of all lines, and the cursor's (x, y) among them."""
    rows, cursor = list[Row](), (0, 0)
    for line in lines:
        if line.cursor is not None and line.cursor > len(line.cells):
            cells: list[Cell] = line.cells + [PLAIN] * (line.cursor - len(line.cells))
        else:
            cells = line.cells
        parts = wrap(cells, columns)
        if line.cursor is not None:
            cursor = _cursor_in(parts, line.cursor, len(rows))
        for part in parts[:-1]:
            rows.append(row_of(part, columns, goes_on=True))
        rows.append(row_of(parts[-1], columns, goes_on=line.goes_on))
    return rows, cursor


def _cursor_in(parts: Sequence[Sequence[Cell]], offset: int, first_row: int) -> tuple[int, int]:
    """Where offset `offset` of a line stands once it is wrapped; at its end it may wait to wrap."""
    for index, part in enumerate(parts):
        if offset < len(part) or index == len(parts) - 1:
            return offset, first_row + index
        offset -= len(part)
    return 0, first_row


def _taken_back(history: Scrollback, columns: int, count: int) -> list[Row]:
    """The newest lines of the history as `count` rows, or as many as there are."""
    rows: list[Row] = []
    while len(rows) < count and (cells := history.pop_line()) is not None:
        parts = wrap(cells, columns)
        made = [row_of(part, columns, goes_on=True) for part in parts]
        made[-1].wrapped = 0
        rows = made + rows
    for row in rows[: max(len(rows) - count, 0)]:
        history.append(row)
    return rows[-count:]
