"""The cursor: moving it by rows, columns and tabs, inside margins and out, the way xterm does.

A pending wrap is the cursor standing one column beyond the last, as in pyte; beyond a right margin
`_waiting` tells it from a cursor put there. No method raises for any count or position.
"""

from __future__ import annotations

import pyte.modes as modes
from pyte.screens import Margins

from machinen_tui.terminal_grid import CellGrid

REVERSE_WRAP = 45 << 5


class CursorGrid(CellGrid):
    """The cells of one terminal and a cursor among them."""

    def __init__(self, columns: int, lines: int) -> None:
        self._waiting: tuple[int, int] | None = None
        super().__init__(columns, lines)

    def reset(self) -> None:
        super().reset()
        self._waiting = None

    # -- the cursor: rows -------------------------------------------------------------------------

    def index(self) -> None:
        """IND: down one row, scrolling at the bottom of the region. Below the region the last row
        stops the cursor. A pending wrap ends, as in xterm."""
        cursor = self.cursor
        if cursor.x >= self.columns or self._waiting is not None:
            self._leave_wrap()
        if cursor.y == self.region()[1]:
            if self.side_margins is None or self.in_region():
                self.scroll_up(1)
        elif cursor.y < self.lines - 1:
            cursor.y += 1

    def reverse_index(self) -> None:
        """RI."""
        self._leave_wrap()
        if self.cursor.y == self.region()[0]:
            if self.side_margins is None or self.in_region():
                self.scroll_down(1)
        elif self.cursor.y > 0:
            self.cursor.y -= 1

    def linefeed(self) -> None:
        """LF, VT, FF; in new-line mode (LNM) also a carriage return. The line ends here."""
        self.buffer[self.cursor.y].wrapped = 0
        self.index()
        if modes.LNM in self.mode:
            self.carriage_return()

    def next_line(self) -> None:
        """NEL."""
        self.linefeed()
        self.carriage_return()

    def new_line(self) -> None:
        """CR LF, as most lines end: both at once where no side margin matters."""
        if self.side_margins is not None:
            self.carriage_return()
            self.linefeed()
            return
        cursor = self.cursor
        y, cursor.x, self._waiting = cursor.y, 0, None
        self.buffer[y].wrapped = 0
        if y == (self.margins.bottom if self.margins else self.lines - 1):
            self.scroll_up(1)
        elif y < self.lines - 1:
            cursor.y = y + 1

    def cursor_up(self, count: int | None = None) -> None:
        top = self.region()[0]
        self.cursor.y = max(self.cursor.y - (count or 1), top if self.cursor.y >= top else 0)
        self._leave_wrap()

    def cursor_down(self, count: int | None = None) -> None:
        bottom = self.region()[1]
        self.cursor.y = min(
            self.cursor.y + (count or 1), bottom if self.cursor.y <= bottom else self.lines - 1
        )
        self._leave_wrap()

    def cursor_up1(self, count: int | None = None) -> None:
        """CPL."""
        self.cursor_up(count)
        self.carriage_return()

    def cursor_down1(self, count: int | None = None) -> None:
        """CNL."""
        self.cursor_down(count)
        self.carriage_return()

    def cursor_to_line(self, line: int | None = None) -> None:
        """VPA; in origin mode rows count from the top of the region and stay inside it."""
        top, bottom = self.region() if modes.DECOM in self.mode else (0, self.lines - 1)
        self.cursor.y = min(top + (line or 1) - 1, bottom)
        self._leave_wrap()

    # -- the cursor: columns ----------------------------------------------------------------------

    def _leave_wrap(self) -> None:
        """A movement ends a pending wrap."""
        self.cursor.x = self.column()
        self._waiting = None

    def column(self) -> int:
        """The cursor's column; a pending wrap stands on the last one, or on the right margin."""
        if self._waiting is not None and self._waiting == (self.cursor.x, self.cursor.y):
            return self.cursor.x - 1
        return min(self.cursor.x, self.columns - 1)

    def carriage_return(self) -> None:
        """CR: to the left margin, or from left of it to the first column."""
        left = self.sides()[0]
        self.cursor.x = left if self.column() >= left or modes.DECOM in self.mode else 0
        self._waiting = None

    def backspace(self) -> None:
        self.cursor_back(1)

    def cursor_back(self, count: int | None = None) -> None:
        """CUB; with reverse wrap (mode 45) on into the row above."""
        x, left = self.column(), self.sides()[0]
        first = left if x >= left else 0
        wanted = x - (count or 1)
        if wanted < first and REVERSE_WRAP in self.mode and modes.DECAWM in self.mode:
            self._back_over_rows(first - wanted)
        else:
            self.cursor.x = max(wanted, first)
            self._waiting = None

    def _back_over_rows(self, beyond: int) -> None:
        left, right = self.sides()
        rows, rest = divmod(beyond - 1, right + 1 - left)
        top = self.region()[0] if self.cursor.y >= self.region()[0] else 0
        y = self.cursor.y - 1 - rows
        self.cursor.x, self.cursor.y = (right - rest, y) if y >= top else (left, top)
        self._waiting = None

    def cursor_forward(self, count: int | None = None) -> None:
        """CUF."""
        x, right = self.column(), self.sides()[1]
        self.cursor.x = min(x + (count or 1), right if x <= right else self.columns - 1)
        self._waiting = None

    def cursor_to_column(self, column: int | None = None) -> None:
        """CHA, HPA; in origin mode columns count from the left margin and stay inside."""
        left, right = self.sides() if modes.DECOM in self.mode else (0, self.columns - 1)
        self.cursor.x = min(left + (column or 1) - 1, right)
        self._waiting = None

    def cursor_position(self, line: int | None = None, column: int | None = None) -> None:
        """CUP."""
        if modes.DECOM in self.mode:
            self.cursor_to_line(line)
            self.cursor_to_column(column)
            return
        cursor = self.cursor
        cursor.y = min(line or 1, self.lines) - 1
        cursor.x = min(column or 1, self.columns) - 1
        self._waiting = None

    def back_index(self) -> None:
        """DECBI."""
        if self.column() == self.sides()[0] and self.in_region():
            self.scroll_right(1)
        else:
            self.cursor_back(1)

    def forward_index(self) -> None:
        """DECFI."""
        if self.column() == self.sides()[1] and self.in_region():
            self.scroll_left(1)
        else:
            self.cursor_forward(1)

    # -- tabs -------------------------------------------------------------------------------------

    def tab(self) -> None:
        """HT: to the next stop, at most the right margin. It does not end a pending wrap."""
        x, right = self.column(), self.sides()[1]
        last = right if x <= right else self.columns - 1
        if x == last:
            return
        stops = self.tabstops
        x += 1
        while x < last and x not in stops:
            x += 1
        self.cursor.x = min(x, last)
        self._waiting = None

    def tab_forward(self, count: int = 1) -> None:
        """CHT."""
        for _ in range(min(count or 1, self.columns)):
            self.tab()

    def tab_backward(self, count: int = 1) -> None:
        """CBT."""
        self._leave_wrap()
        for _ in range(min(count or 1, self.columns)):
            before = (stop for stop in self.tabstops if stop < self.cursor.x)
            self.cursor.x = max(before, default=0)

    def set_tab_stop(self) -> None:
        """HTS."""
        self.tabstops.add(self.column())

    def clear_tab_stop(self, how: int = 0) -> None:
        """TBC: here, or all of them."""
        if how == 0:
            self.tabstops.discard(self.column())
        elif how == 3:
            self.tabstops.clear()

    # -- margins ----------------------------------------------------------------------------------

    def set_margins(self, top: int | None = None, bottom: int | None = None) -> None:
        """DECSTBM. A region of less than two rows is ignored (VT510)."""
        first, last = (top or 1) - 1, min(bottom or self.lines, self.lines) - 1
        if first < last:
            self.margins = None if (first, last) == (0, self.lines - 1) else Margins(first, last)
            self.cursor_position()
