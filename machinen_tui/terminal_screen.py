"""The grid of cells: a `pyte.Screen` that edits cells the way xterm does, fast for plain text.

Kept from pyte: the API (`buffer[y][x] -> Char`, `cursor`, `mode`, `dirty`, `margins`, `display`,
`resize`). Made new: drawing whole runs,
wide characters that never split, erasing at a pending wrap, scrolling that feeds the scrollback,
line feeds below the scroll region,
one saved cursor, and a resize that keeps the text. No method raises for any count or position.
"""

from __future__ import annotations

from collections.abc import Callable

import pyte
import pyte.charsets as charsets
import pyte.modes as modes
from pyte.screens import Char, Margins, StaticDefaultDict, wcwidth

from machinen_tui.terminal_cells import PLAIN, StyleTable, StyleTables

Row = StaticDefaultDict[int, Char]

NEVER_DRAWN = frozenset("\u200b\u200c\u200d\u2060\ufe0e\ufe0f\ufeff")
"""Joiners and variation selectors: they would make the user's terminal draw a cell wider or
narrower than we count it."""

MAX_COMBINING = 8
"""Code points in one cell; a guest may send any number."""


class CellScreen(pyte.Screen):
    """The cells of one terminal. `on_scroll_out` receives every row that leaves the top of the main
    screen."""

    def __init__(self, columns: int, lines: int) -> None:
        self.styles = StyleTables()
        self.style: StyleTable = self.styles.plain
        self.on_scroll_out: Callable[[Row], None] | None = None
        self.wide_seen = False
        """A wide character may be on screen, so overwriting has to look for halves."""
        super().__init__(columns, lines)

    def reset(self) -> None:
        super().reset()
        self.style = self.styles.plain
        self.wide_seen = False

    # -- style ------------------------------------------------------------------------------------

    def sgr(self, params: str) -> None:
        """`CSI params m`: choose the style of what is drawn next."""
        self.style = self.styles.after_sgr(self._current_style(), params)
        self.cursor.attrs = self.style.attrs

    def _current_style(self) -> StyleTable:
        if self.style.attrs is not self.cursor.attrs:
            self.style = self.styles.table(self.cursor.attrs)
            self.cursor.attrs = self.style.attrs
        return self.style

    def _blank(self) -> Char:
        """What erasing leaves: the background colour stays (xterm's "bce")."""
        background = self.cursor.attrs.bg
        return (
            PLAIN if background == "default" else self.styles.table(Char(" ", bg=background)).attrs
        )

    # -- drawing ----------------------------------------------------------------------------------

    @property
    def draws_plainly(self) -> bool:
        """Text goes down as it comes: no line-drawing set, no insert mode, and wrapping is on."""
        return (
            (self.g1_charset if self.charset else self.g0_charset) is charsets.LAT1_MAP
            and modes.IRM not in self.mode
            and modes.DECAWM in self.mode
        )

    def draw(self, data: str) -> None:
        if data.isascii() and self.draws_plainly:
            self._draw_ascii(data)
        else:
            for character in data.translate(self.g1_charset if self.charset else self.g0_charset):
                self._draw_character(character)

    def _draw_ascii(self, data: str) -> None:
        cursor, columns, cell_of = self.cursor, self.columns, self._current_style().__getitem__
        start, count = 0, len(data)
        while start < count:
            x = cursor.x
            if x >= columns:
                self._wrap()
                x = 0
            fits = min(columns - x, count - start)
            if self.wide_seen:
                self._split_wide(cursor.y, x, x + fits)
            row = self.buffer[cursor.y]
            if fits == 1:
                row[x] = cell_of(data[start])
            else:
                row.update(
                    zip(range(x, x + fits), map(cell_of, data[start : start + fits]), strict=True)
                )
            self.dirty.add(cursor.y)
            cursor.x = x + fits
            start += fits

    def _draw_character(self, character: str) -> None:
        width = wcwidth(character)
        if width < 1 or width > self.columns:
            if width == 0 and character not in NEVER_DRAWN:
                self._combine(character)
            return
        cursor = self.cursor
        if cursor.x + width > self.columns:
            if modes.DECAWM in self.mode:
                self._wrap()
            else:
                cursor.x = self.columns - width
        if modes.IRM in self.mode:
            self.insert_characters(width)
        self._split_wide(cursor.y, cursor.x, cursor.x + width)
        row, style = self.buffer[cursor.y], self._current_style()
        row[cursor.x] = style[character]
        if width == 2:
            row[cursor.x + 1] = style[""]
            self.wide_seen = True
        last = self.columns if modes.DECAWM in self.mode else self.columns - 1
        cursor.x = min(cursor.x + width, last)
        self.dirty.add(cursor.y)

    def _combine(self, mark: str) -> None:
        """Put a combining mark onto the character before the cursor."""
        x, row = min(self.cursor.x, self.columns) - 1, self.buffer[self.cursor.y]
        if x > 0 and not row[x].data:
            x -= 1
        if x < 0 or len(row[x].data) >= MAX_COMBINING:
            return
        row[x] = row[x]._replace(data=row[x].data + mark)
        self.dirty.add(self.cursor.y)

    def _wrap(self) -> None:
        self.dirty.add(self.cursor.y)
        self.cursor.x = 0
        self.index()

    def _split_wide(self, y: int, start: int, end: int) -> None:
        """Blank the halves of wide characters that an edit of columns `start`..`end` would leave
        behind."""
        row = self.buffer[y]
        if start > 0 and not row[start].data:
            row[start - 1] = row[start - 1]._replace(data=" ")
        if end < self.columns and not row[end].data:
            row[end] = row[end]._replace(data=" ")

    def restart_at_top(self) -> None:
        """Hand every row above the cursor to the scrollback and go on at the top of an empty screen
        (a flood was skipped)."""
        if self.on_scroll_out is not None:
            for y in range(self.cursor.y):
                self.on_scroll_out(self.buffer[y])
        self.buffer.clear()
        self.cursor.x = self.cursor.y = 0
        self.dirty.update(range(self.lines))

    # -- scrolling --------------------------------------------------------------------------------

    def region(self) -> tuple[int, int]:
        """First and last row of the scroll region."""
        return (self.margins.top, self.margins.bottom) if self.margins else (0, self.lines - 1)

    def index(self) -> None:
        """Down one row, scrolling at the bottom of the region. Below the region the last row stops
        the cursor."""
        if self.cursor.y == self.region()[1]:
            self.scroll_up(1)
        elif self.cursor.y < self.lines - 1:
            self.cursor.y += 1

    def reverse_index(self) -> None:
        if self.cursor.y == self.region()[0]:
            self.scroll_down(1)
        elif self.cursor.y > 0:
            self.cursor.y -= 1

    def linefeed(self) -> None:
        """LF, VT, FF; in new-line mode (LNM) also a carriage return."""
        self.index()
        if modes.LNM in self.mode:
            self.cursor.x = 0

    def next_line(self) -> None:
        """NEL."""
        self.index()
        self.cursor.x = 0

    def scroll_up(self, count: int = 1) -> None:
        """SU: rows leave at the top of the region; from the top of the main screen they go to the
        scrollback."""
        top, bottom = self.region()
        self._shift_up(top, bottom, count or 1, keep=top == 0)

    def scroll_down(self, count: int = 1) -> None:
        """SD."""
        self._shift_down(*self.region(), count or 1)

    def _shift_up(self, top: int, bottom: int, count: int, *, keep: bool) -> None:
        buffer, count = self.buffer, min(count, bottom - top + 1)
        if keep and self.on_scroll_out is not None:
            for y in range(top, top + count):
                self.on_scroll_out(buffer[y])
        staying = [buffer[y] for y in range(top + count, bottom + 1)]
        buffer.update(enumerate(staying, top))
        for y in range(bottom + 1 - count, bottom + 1):
            buffer[y] = self._blank_row()
        if len(self.dirty) < self.lines:
            self.dirty.update(range(top, bottom + 1))

    def _shift_down(self, top: int, bottom: int, count: int) -> None:
        buffer, count = self.buffer, min(count, bottom - top + 1)
        for y in range(bottom, top + count - 1, -1):
            buffer[y] = buffer[y - count]
        for y in range(top, top + count):
            buffer[y] = self._blank_row()
        self.dirty.update(range(top, bottom + 1))

    def _blank_row(self) -> Row:
        row = Row(PLAIN)
        if (blank := self._blank()) is not PLAIN:
            row.update(dict.fromkeys(range(self.columns), blank))
        return row

    def insert_lines(self, count: int | None = None) -> None:
        top, bottom = self.region()
        if top <= self.cursor.y <= bottom:
            self._shift_down(self.cursor.y, bottom, count or 1)
            self.cursor.x = 0

    def delete_lines(self, count: int | None = None) -> None:
        top, bottom = self.region()
        if top <= self.cursor.y <= bottom:
            self._shift_up(self.cursor.y, bottom, count or 1, keep=False)
            self.cursor.x = 0

    # -- editing a row ----------------------------------------------------------------------------

    def insert_characters(self, count: int | None = None) -> None:
        x, y = self._column(), self.cursor.y
        count, row = min(count or 1, self.columns - x), self.buffer[y]
        self._split_wide(y, x, x)
        for column in range(self.columns - 1, x + count - 1, -1):
            row[column] = row[column - count]
        self._fill(y, x, x + count)
        self._mend_right_edge(row)

    def delete_characters(self, count: int | None = None) -> None:
        x, y = self._column(), self.cursor.y
        count, row = min(count or 1, self.columns - x), self.buffer[y]
        self._split_wide(y, x, x + count)
        for column in range(x, self.columns - count):
            row[column] = row[column + count]
        self._fill(y, self.columns - count, self.columns)

    def erase_characters(self, count: int | None = None) -> None:
        x = self._column()
        self._erase(self.cursor.y, x, min(x + (count or 1), self.columns))

    def erase_in_line(self, how: int = 0, private: bool = False) -> None:
        x, y = self._column(), self.cursor.y
        if how == 0:
            self._erase(y, x, self.columns)
        elif how == 1:
            self._erase(y, 0, x + 1)
        elif how == 2:
            self._erase(y, 0, self.columns)

    def erase_in_display(self, how: int = 0, *args: int, **kwargs: bool) -> None:
        if how == 0:
            self.erase_in_line(0)
            rows = range(self.cursor.y + 1, self.lines)
        elif how == 1:
            self.erase_in_line(1)
            rows = range(self.cursor.y)
        else:
            rows = range(self.lines if how == 2 else 0)
        for y in rows:
            self.buffer[y] = self._blank_row()
        self.dirty.update(rows)

    def _column(self) -> int:
        """The cursor's column; a pending wrap stands on the last one."""
        return min(self.cursor.x, self.columns - 1)

    def _erase(self, y: int, start: int, end: int) -> None:
        self._split_wide(y, start, end)
        self._fill(y, start, end)

    def _fill(self, y: int, start: int, end: int) -> None:
        row, blank = self.buffer[y], self._blank()
        for x in range(start, end):
            row[x] = blank
        if end >= self.columns:
            for x in [column for column in row if column >= end]:
                del row[x]  # what a narrowing had hidden
        self.dirty.add(y)

    def _mend_right_edge(self, row: Row) -> None:
        """A wide character whose second half was pushed out is gone."""
        last = row[self.columns - 1]
        if last.data and wcwidth(last.data[0]) == 2:
            row[self.columns - 1] = last._replace(data=" ")

    # -- the cursor -------------------------------------------------------------------------------

    def backspace(self) -> None:
        self.cursor.x = max(self._column() - 1, 0)

    def cursor_back(self, count: int | None = None) -> None:
        self.cursor.x = max(self._column() - (count or 1), 0)

    def cursor_forward(self, count: int | None = None) -> None:
        self.cursor.x = min(self._column() + (count or 1), self.columns - 1)

    def cursor_up(self, count: int | None = None) -> None:
        top = self.region()[0]
        self.cursor.y = max(self.cursor.y - (count or 1), top if self.cursor.y >= top else 0)

    def cursor_down(self, count: int | None = None) -> None:
        bottom = self.region()[1]
        self.cursor.y = min(
            self.cursor.y + (count or 1), bottom if self.cursor.y <= bottom else self.lines - 1
        )

    def cursor_to_line(self, line: int | None = None) -> None:
        top, bottom = self.region() if modes.DECOM in self.mode else (0, self.lines - 1)
        self.cursor.y = min(top + (line or 1) - 1, bottom)

    def cursor_position(self, line: int | None = None, column: int | None = None) -> None:
        """CUP. In origin mode rows count from the top of the region and stay inside it."""
        self.cursor_to_line(line)
        self.cursor.x = min((column or 1) - 1, self.columns - 1)

    def tab(self) -> None:
        x = self.cursor.x + 1
        while x < self.columns - 1 and x not in self.tabstops:
            x += 1
        self.cursor.x = min(x, self.columns - 1)

    def tab_forward(self, count: int = 1) -> None:
        """CHT."""
        for _ in range(min(count or 1, self.columns)):
            self.tab()

    def tab_backward(self, count: int = 1) -> None:
        """CBT."""
        for _ in range(min(count or 1, self.columns)):
            self.cursor.x = max(
                (stop for stop in self.tabstops if stop < self._column()), default=0
            )

    def set_margins(self, top: int | None = None, bottom: int | None = None) -> None:
        """DECSTBM. A region of less than two rows is ignored (VT510)."""
        first, last = (top or 1) - 1, min(bottom or self.lines, self.lines) - 1
        if first < last:
            self.margins = None if (first, last) == (0, self.lines - 1) else Margins(first, last)
            self.cursor_position()

    # -- size -------------------------------------------------------------------------------------

    def resize(self, lines: int | None = None, columns: int | None = None) -> None:
        """Change the size. Rows that no longer fit go to the scrollback; columns are hidden, not
        cut, and return when there is room."""
        lines, columns = max(lines or self.lines, 1), max(columns or self.columns, 1)
        if (lines, columns) == (self.lines, self.columns):
            return
        surplus = self.cursor.y + 1 - lines
        if surplus > 0:
            self._shift_up(0, self.lines - 1, surplus, keep=True)
            self.cursor.y -= surplus
        for y in [y for y in self.buffer if y >= lines]:
            del self.buffer[y]
        self.lines, self.columns, self.margins = lines, columns, None
        self.cursor.x = min(self.cursor.x, columns - 1)
        self.tabstops = set(range(8, columns, 8))
        self.dirty = set(range(lines))
