"""The grid of cells and every edit of it: shifting, filling, erasing, scrolling.

Kept from pyte: `buffer[y][x] -> Char`, `dirty`, `margins`. Rows are lists as long as the screen is
wide, so runs are copied by slices. A wide character whose half is overwritten leaves a blank.
Left and right margins are DECSLRM's (DEC STD 070, 5.4): with them only columns between move.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pyte
from pyte.screens import Margins

from machinen_tui.terminal_cells import Cell, StyleTable, StyleTables
from machinen_tui.terminal_rows import Row


class CellGrid(pyte.Screen):
    """The cells of one terminal. `on_scroll_out` receives every row that leaves the top of the main
    screen."""

    buffer: list[Row]
    tabstops: set[int]

    def __init__(self, columns: int, lines: int) -> None:
        self.styles = StyleTables()
        self.style: StyleTable = self.styles.plain
        """What is drawn next looks like this."""
        self.on_scroll_out: Callable[[Row], None] | None = None
        self.side_margins: Margins | None = None
        """DECSLRM: first and last column that scrolls and wraps."""
        super().__init__(columns, lines)

    def reset(self) -> None:
        """RIS: an empty screen, no margins, the default style."""
        self.buffer = []
        super().reset()
        self.side_margins = None
        self.style = self.styles.plain
        rows = [self.blank_row() for _ in range(self.lines)]
        self.buffer = rows  # pyright: ignore[reportIncompatibleVariableOverride]

    # -- where edits happen -----------------------------------------------------------------------

    def region(self) -> tuple[int, int]:
        """First and last row of the scroll region."""
        return (self.margins.top, self.margins.bottom) if self.margins else (0, self.lines - 1)

    def sides(self) -> tuple[int, int]:
        """First and last column of the scroll region."""
        if self.side_margins is None:
            return 0, self.columns - 1
        return self.side_margins.top, self.side_margins.bottom

    def column(self) -> int:
        """The cursor's column; a pending wrap stands on the last one."""
        return min(self.cursor.x, self.columns - 1)

    def in_region(self) -> bool:
        """The cursor is inside all four margins."""
        top, bottom = self.region()
        return top <= self.cursor.y <= bottom and self.in_sides()

    def in_sides(self) -> bool:
        """The cursor is between the left and right margins."""
        left, right = self.sides()
        return left <= self.column() <= right

    def blank_row(self) -> Row:
        """A row as erasing leaves it."""
        return Row([self.style.erased] * self.columns)

    # -- rows -------------------------------------------------------------------------------------

    def scroll_up(self, count: int = 1) -> None:
        """SU: rows leave at the top of the region; from the top of the main screen they go to the
        scrollback."""
        top, bottom = self.region()
        self.shift_up(top, bottom, count or 1, keep=top == 0)

    def scroll_down(self, count: int = 1) -> None:
        """SD."""
        self.shift_down(*self.region(), count or 1)

    def shift_up(self, top: int, bottom: int, count: int, *, keep: bool = False) -> None:
        """Move the rows of a region up; what enters below is blank."""
        if self.side_margins is not None:
            self._shift_box(top, bottom, count)
            return
        buffer, count = self.buffer, min(count, bottom - top + 1)
        if keep and self.on_scroll_out is not None:
            for row in buffer[top : top + count]:
                self.on_scroll_out(row)
        elif top > 0:
            buffer[top - 1].wrapped = 0
        del buffer[top : top + count]
        at = bottom + 1 - count
        buffer[at:at] = [self.blank_row() for _ in range(count)]
        if len(self.dirty) < self.lines:
            self.dirty.update(range(top, bottom + 1))

    def shift_down(self, top: int, bottom: int, count: int) -> None:
        """Move the rows of a region down; what enters above is blank."""
        if self.side_margins is not None:
            self._shift_box(top, bottom, -count)
            return
        buffer, count = self.buffer, min(count, bottom - top + 1)
        del buffer[bottom + 1 - count : bottom + 1]
        buffer[top:top] = [self.blank_row() for _ in range(count)]
        if top > 0:
            buffer[top - 1].wrapped = 0
        buffer[bottom].wrapped = 0
        self.dirty.update(range(top, bottom + 1))

    def _shift_box(self, top: int, bottom: int, count: int) -> None:
        """Move the cells between the side margins by `count` rows up (negative: down)."""
        left, right = self.sides()
        for y in range(top, bottom + 1):
            self.split_wide(y, left, right + 1)
            self.buffer[y].wrapped = 0
        parts = [self.buffer[y][left : right + 1] for y in range(top, bottom + 1)]
        wide = any(self.buffer[y].wide for y in range(top, bottom + 1))
        blank = [self.style.erased] * (right + 1 - left)
        for y in range(top, bottom + 1):
            source = y - top + count
            row = self.buffer[y]
            row[left : right + 1] = parts[source] if 0 <= source < len(parts) else blank
            row.wide = wide
        self.dirty.update(range(top, bottom + 1))

    def insert_lines(self, count: int | None = None) -> None:
        """IL."""
        if self.in_region():
            self.shift_down(self.cursor.y, self.region()[1], count or 1)
            self.cursor.x = self.sides()[0]

    def delete_lines(self, count: int | None = None) -> None:
        """DL."""
        if self.in_region():
            self.shift_up(self.cursor.y, self.region()[1], count or 1)
            self.cursor.x = self.sides()[0]

    # -- columns ----------------------------------------------------------------------------------

    def insert_characters(self, count: int | None = None) -> None:
        """ICH."""
        if self.in_sides():
            self.insert_columns((self.cursor.y,), self.column(), count or 1)

    def delete_characters(self, count: int | None = None) -> None:
        """DCH."""
        if self.in_sides():
            self.delete_columns((self.cursor.y,), self.column(), count or 1)

    def insert_columns(self, rows: Iterable[int], x: int, count: int) -> None:
        """Push the cells of some rows right from column `x` on; those at the margin are lost."""
        right = self._right_of(x)
        count = min(count, right + 1 - x)
        for y in rows:
            row = self.buffer[y]
            self.split_wide(y, x, x)
            self.split_wide(y, right + 1 - count, right + 1)
            del row[right + 1 - count : right + 1]
            row[x:x] = [self.style.erased] * count
            row.wrapped = 0
            self.dirty.add(y)

    def _right_of(self, x: int) -> int:
        """The last column that moves with column `x`."""
        right = self.sides()[1]
        return right if x <= right else self.columns - 1

    def delete_columns(self, rows: Iterable[int], x: int, count: int) -> None:
        """Pull the cells of some rows left to column `x`; blanks enter at the margin."""
        right = self._right_of(x)
        count = min(count, right + 1 - x)
        for y in rows:
            row = self.buffer[y]
            self.split_wide(y, x, x + count)
            self.split_wide(y, right + 1, right + 1)
            del row[x : x + count]
            at = right + 1 - count
            row[at:at] = [self.style.erased] * count
            row.wrapped = 0
            self.dirty.add(y)

    def scroll_left(self, count: int = 1) -> None:
        """SL: all columns of the region go left."""
        if self.in_region():
            self.delete_columns(self._region_rows(), self.sides()[0], count or 1)

    def scroll_right(self, count: int = 1) -> None:
        """SR."""
        if self.in_region():
            self.insert_columns(self._region_rows(), self.sides()[0], count or 1)

    def insert_column_here(self, count: int = 1) -> None:
        """DECIC."""
        if self.in_region():
            self.insert_columns(self._region_rows(), self.column(), count or 1)

    def delete_column_here(self, count: int = 1) -> None:
        """DECDC."""
        if self.in_region():
            self.delete_columns(self._region_rows(), self.column(), count or 1)

    def _region_rows(self) -> range:
        top, bottom = self.region()
        return range(top, bottom + 1)

    # -- erasing ----------------------------------------------------------------------------------

    def erase_characters(self, count: int | None = None) -> None:
        """ECH."""
        x = self.column()
        self.fill(self.cursor.y, x, min(x + (count or 1), self.columns))

    def erase_in_line(self, how: int = 0, private: bool = False) -> None:
        """EL; `private` (DECSEL) leaves protected cells."""
        if how == 0:
            self.fill(self.cursor.y, self.column(), self.columns, private)
        elif how == 1:
            self.fill(self.cursor.y, 0, self.column() + 1, private)
        elif how == 2:
            self.fill(self.cursor.y, 0, self.columns, private)

    def erase_in_display(
        self, how: int = 0, *args: int, private: bool = False, **kwargs: bool
    ) -> None:
        """ED; `private` (DECSED) leaves protected cells."""
        if how == 0:
            self.erase_in_line(0, private)
            rows = range(self.cursor.y + 1, self.lines)
        elif how == 1:
            self.erase_in_line(1, private)
            rows = range(self.cursor.y)
        else:
            rows = range(self.lines if how == 2 else 0)
        for y in rows:
            if private:
                self.fill(y, 0, self.columns, private)
            else:
                self.buffer[y] = self.blank_row()
        self.dirty.update(rows)

    def fill(self, y: int, start: int, end: int, selective: bool = False) -> None:
        """Erase columns `start` to `end` - 1 of a row."""
        row, blank = self.buffer[y], self.style.erased
        if row.wide:
            self.split_wide(y, start, end)
        if selective:
            for x in range(start, end):
                if not row[x].style.protected:
                    row[x] = blank
        else:
            row[start:end] = [blank] * (end - start)
        if end >= self.columns:
            row.wrapped = 0
        self.dirty.add(y)

    def split_wide(self, y: int, start: int, end: int) -> None:
        """Blank the halves of wide characters that an edit of columns `start` to `end` - 1 would
        leave behind."""
        row = self.buffer[y]
        if not row.wide:
            return
        if 0 < start < self.columns and not row[start].data:
            row[start - 1] = self._blanked(row[start - 1])
            row[start] = self._blanked(row[start])
        if end < self.columns and not row[end].data:
            row[end - 1] = self._blanked(row[end - 1])
            row[end] = self._blanked(row[end])

    def _blanked(self, cell: Cell) -> Cell:
        """A blank in the style of `cell`."""
        return self.styles.table(cell.style)[" "]

    def alignment_display(self) -> None:
        """DECALN: a screen full of E, no margins, the cursor home."""
        cell = self.styles.plain["E"]
        self.margins = self.side_margins = None
        self.buffer[:] = [Row([cell] * self.columns) for _ in range(self.lines)]
        self.cursor.x = self.cursor.y = 0
        self.dirty.update(range(self.lines))

    @property
    def display(self) -> list[str]:
        """The rows as text, each as wide as the screen."""
        return ["".join(cell.data for cell in row) for row in self.buffer]
