"""What stands in a pane as logical lines: its history, then its screen. Wrapped rows are one line.

A place is a line and a column of it, so it stays the same while text arrives above or below and
while widths change. Lines are numbered as the history numbers them; those on screen follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from machinen_tui.terminal_model import TerminalModel
from machinen_tui.terminal_rows import used_columns


class Place(NamedTuple):
    """Column `column` (in cells) of logical line `line`."""

    line: int
    column: int


class _Row(NamedTuple):
    """A row of the screen: which line it is part of, and where in it."""

    line: int
    start: int
    used: int


class PaneText:
    """The text of a terminal as it is now; made anew whenever it is looked at."""

    def __init__(self, model: TerminalModel) -> None:
        self._model = model
        self._history = model.scrollback
        self.columns = model.columns
        self.prompts = model.prompts
        """Where the shell marked its prompts."""
        self._joins = self._history.goes_on and not model.terminal.alternate
        self._rows = self._screen_rows()

    @property
    def first(self) -> int:
        """The oldest line."""
        return min(self._history.first, self._rows[0].line)

    @property
    def last(self) -> int:
        """The newest line that is not blank below everything else."""
        return self._rows[-1].line

    def cells(self, line: int) -> Sequence[str]:
        """The text of each cell of a line; empty for the second half of a wide one."""
        here = [y for y, row in enumerate(self._rows) if row.line == line]
        cells: list[str] = []
        if not here or (self._joins and line == self._rows[0].line):
            cells = [cell.data for cell in self._history.cells_of(line)]
        for y in here:
            row = self._model.terminal.buffer[y]
            cells += [cell.data for cell in row[: self._rows[y].used]]
        return cells

    def row_starts(self, line: int) -> list[int]:
        """At which columns the rows of a line begin at this width."""
        return row_starts(self.cells(line), self.columns)

    # -- rows of the view -------------------------------------------------------------------------

    def place_at(self, row: int) -> Place:
        """Where a row begins: 0 is the top one of the screen, -1 the newest of the history."""
        if row >= 0:
            found = self._rows[min(row, len(self._rows) - 1)]
            return Place(found.line, found.start)
        line, part = self._history.locate(-row)
        starts = self.row_starts(line)
        return Place(line, starts[min(part, len(starts) - 1)])

    def row_of(self, place: Place) -> int:
        """The row a place is on, as `place_at` counts."""
        at = [y for y, row in enumerate(self._rows)
              if row.line == place.line and row.start <= place.column]  # fmt: skip
        if at:
            return at[-1]
        if place.line > self._rows[-1].line:
            return len(self._rows) - 1
        part = sum(start <= place.column for start in self.row_starts(place.line)) - 1
        return -self._history.back_of((place.line, max(part, 0)))

    # -- searching --------------------------------------------------------------------------------

    def texts(self) -> Iterator[tuple[int, str]]:
        """Newest first: the number of the first of some lines, and the lines joined by line
        feeds."""
        start = self._rows[0].line
        lines = dict.fromkeys(row.line for row in self._rows)
        yield start, "\n".join("".join(self.cells(line)) for line in lines)
        for number, text in self._history.texts():
            count = text.count("\n") + 1
            if number + count > start:  # its last line goes on on the screen
                text = "\n".join(text.split("\n")[: start - number])
            if number < start:
                yield number, text

    def _screen_rows(self) -> list[_Row]:
        terminal, rows = self._model.terminal, list[_Row]()
        line, start = self._history.end, 0
        if self._joins:
            line -= 1
            start = len(self._history.cells_of(line))
        for row in terminal.buffer:
            used = row.wrapped or used_columns(row)
            rows.append(_Row(line, start, used))
            line, start = (line, start + used) if row.wrapped else (line + 1, 0)
        while len(rows) > 1 and not rows[-1].used and len(rows) - 1 > terminal.cursor.y:
            rows.pop()
        return rows


def row_starts(cells: Sequence[str], columns: int) -> list[int]:
    """Where the rows of a line begin; a wide character never splits."""
    starts, start = [0], 0
    while len(cells) - start > columns:
        end = start + columns
        start = end - 1 if not cells[end] and columns > 1 else end
        starts.append(start)
    return starts
