"""The screen: drawing text, the way xterm does it, fast for plain text.

Text in ASCII that fits into its row is one slice; the rest wraps, joins marks to the character they
belong to, and never leaves half a wide character.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyte.charsets as charsets
import pyte.modes as modes
from pyte.screens import Margins

from machinen_tui.terminal_cells import Cell
from machinen_tui.terminal_cursor import CursorGrid
from machinen_tui.terminal_rows import Row
from machinen_tui.terminal_text import MAX_CLUSTER, ZWJ, Laid, columns_of, is_one_cluster, lay

UK_MAP = "".join("£" if chr(i) == "#" else chr(i) for i in range(256))
SPECIAL_MAP = (
    charsets.LAT1_MAP[:0x5F]
    + charsets.VT100_MAP[0x5F:0x7F].replace("\xa0", " ").replace("\u2591", "\u2424")
    + charsets.LAT1_MAP[0x7F:]
)
"""DEC special graphics, as VT510 and xterm have it: only `_` to `~` differ. pyte's blank cannot be
copied as one, and its sign for a new line is another."""
CHARSETS = {"B": charsets.LAT1_MAP, "0": SPECIAL_MAP, "A": UK_MAP, "U": charsets.IBMPC_MAP}
"""Finals of `ESC ( …`: ASCII, DEC special graphics, United Kingdom, Linux's IBM set."""


class CellScreen(CursorGrid):
    """The screen of one terminal: text in, cells changed."""

    def __init__(self, columns: int, lines: int) -> None:
        self._direct = True
        self._joiner = False
        """What was drawn last ended in a joiner: the next character belongs to it."""
        super().__init__(columns, lines)

    def reset(self) -> None:
        super().reset()
        self.reset_charsets()

    # -- what decides how text goes down ----------------------------------------------------------

    def mode_changed(self) -> None:
        """Work out anew whether text goes down as it comes: no line-drawing set, no insert mode, no
        side margins, and wrapping is on."""
        self._direct = (
            self.charset_slots[self.charset] is charsets.LAT1_MAP
            and not self.single_shift
            and self.side_margins is None
            and modes.IRM not in self.mode
            and modes.DECAWM in self.mode
        )

    @property
    def draws_plainly(self) -> bool:
        """Text goes down as it comes."""
        return self._direct

    def reset_charsets(self) -> None:
        """ASCII in all slots, G0 in use."""
        self.charset_slots: list[str] = [charsets.LAT1_MAP] * 4
        self.charset = self.single_shift = 0
        self.mode_changed()

    def define_charset(self, code: str, mode: str) -> None:
        """SCS: slot `(` G0 to `+` G3."""
        if mode in "()*+" and code in CHARSETS:
            self.charset_slots["()*+".index(mode)] = CHARSETS[code]
            self.mode_changed()

    def lock_shift(self, slot: int) -> None:
        """SI, SO, LS2, LS3: use slot `slot` from now on."""
        self.charset = slot
        self.mode_changed()

    def shift_in(self) -> None:
        self.lock_shift(0)

    def shift_out(self) -> None:
        self.lock_shift(1)

    def shift_once(self, slot: int) -> None:
        """SS2, SS3: slot `slot` for one character."""
        self.single_shift = slot
        self.mode_changed()

    def sgr(self, params: str) -> None:
        """`CSI params m`: choose the style of what is drawn next."""
        self.style = self.styles.after_sgr(self.style, params)

    def select_graphic_rendition(self, *attrs: int, private: bool = False) -> None:
        if not private:
            self.sgr(";".join(map(str, attrs)))

    # -- drawing ----------------------------------------------------------------------------------

    def draw(self, data: str) -> None:
        """Put text down at the cursor."""
        if not self._direct:
            self._draw_translated(data)
            return
        cells: Sequence[str] = data
        wide = False
        if not data.isascii():
            laid = lay(data)
            if laid.joins or self._joiner:
                self._draw_joining(laid)
                return
            cells, wide = laid.cells, laid.wide
            self._joiner = data[-1] == ZWJ
        cursor = self.cursor
        x = cursor.x
        end = x + len(cells)
        row = self.buffer[cursor.y]
        if end <= self.columns and not row.wide:
            row[x:end] = map(self.style.__getitem__, cells)
            row.wide = wide
            self.dirty.add(cursor.y)
            cursor.x = end
        else:
            self._place(cells, wide)

    def _draw_translated(self, data: str) -> None:
        if self.single_shift:
            table, self.single_shift = self.charset_slots[self.single_shift], 0
            data = data[:1].translate(table) + data[1:].translate(self.charset_slots[self.charset])
            self.mode_changed()
        else:
            data = data.translate(self.charset_slots[self.charset])
        self._draw_joining(lay(data))

    def _draw_joining(self, laid: Laid) -> None:
        """Text whose start may belong to the character before the cursor."""
        cells: Sequence[str] = laid.cells
        self._joiner = False
        while cells and self._joins(laid, cells[0]):
            taken = columns_of(cells[0])
            self._join(cells[0])
            cells = cells[max(taken, 1) :]
        if cells and columns_of(cells[0]) == 0:
            cells = cells[1:]  # a mark with nothing to join
        if cells:
            self._place(cells, laid.wide)
        before = self._before_cursor()
        self._joiner = before is not None and before[0].data.endswith(ZWJ)

    def _place(self, cells: Sequence[str], wide: bool = False) -> None:
        """Put down one text per column, wrapping (or not) at the right margin."""
        if modes.DECAWM not in self.mode:
            self._place_in_row(cells, wide)
            return
        start, count = 0, len(cells)
        while start < count:
            if self.cursor.x >= self._limit():
                self._wrap()
            x, limit = self.cursor.x, self._limit()
            fits = min(limit - x, count - start)
            if wide and start + fits < count and not cells[start + fits]:
                fits -= 1  # never half a wide character
            if fits > 0:
                self._put(cells[start : start + fits], wide)
                self._after_placing(limit)
                start += fits
            elif x in (0, self.sides()[0]):
                start += 2  # a single column has no place for it
            else:
                self._wrap()

    def _place_in_row(self, cells: Sequence[str], wide: bool) -> None:
        """Without DECAWM: what does not fit overwrites the last column, so its end stays."""
        limit = self._limit()
        x = min(self.cursor.x, limit - 1)
        last = 2 if wide and not cells[-1] else 1
        if x + len(cells) > limit:
            first = cells[: max(limit - x - last, 0)]
            if wide and len(first) < len(cells) and not cells[len(first)]:
                first = [*first[:-1], " "]
            cells = [*first, *cells[-last:]]
            x = min(x, limit - last)
        if x >= 0:
            self.cursor.x = x
            self._put(cells, wide)
        self._after_placing(limit)

    def _after_placing(self, limit: int) -> None:
        """Text was put down up to `limit` at most: at the margin it waits to wrap, or stays."""
        if self.cursor.x >= limit and modes.DECAWM not in self.mode:
            self.cursor.x = limit - 1
        elif self.cursor.x == limit < self.columns:
            self._waiting = (self.cursor.x, self.cursor.y)

    def _put(self, cells: Sequence[str], wide: bool) -> None:
        """Put down what fits into the row at the cursor."""
        cursor = self.cursor
        x, y = cursor.x, cursor.y
        end = x + len(cells)
        if modes.IRM in self.mode:
            self.insert_columns((y,), x, len(cells))
        row = self.buffer[y]
        if row.wide:
            self.split_wide(y, x, end)
        row[x:end] = map(self.style.__getitem__, cells)
        if wide:
            row.wide = True
        self.dirty.add(y)
        cursor.x = end

    def _limit(self) -> int:
        """The column text may not reach: the end of the screen, or of the margins it stands in."""
        if self.side_margins is None:
            return self.columns
        right = self.side_margins.bottom
        inside = self.cursor.x <= right or self._waiting == (self.cursor.x, self.cursor.y)
        return right + 1 if inside else self.columns

    def _wrap(self) -> None:
        """Go on in the next row; the row remembers that its line does."""
        cursor = self.cursor
        row = self.buffer[cursor.y]
        self.dirty.add(cursor.y)
        if self.side_margins is None:
            row.wrapped = min(cursor.x, self.columns)
            cursor.x = 0
            self.index()
        else:
            self.index()
            cursor.x = self.side_margins.top
        self._waiting = None

    # -- marks that join --------------------------------------------------------------------------

    def _joins(self, laid: Laid, text: str) -> bool:
        """Whether `text` belongs to the character before the cursor."""
        before = self._before_cursor()
        if before is None:
            return False
        data = before[0].data
        may_join = laid.joins or data.endswith(ZWJ)
        return (
            may_join
            and data != " "
            and len(data) + len(text) <= MAX_CLUSTER
            and is_one_cluster(data + text)
        )

    def _before_cursor(self) -> tuple[Cell, int] | None:
        """The character before the cursor and its column."""
        x, row = min(self.cursor.x, self.columns) - 1, self.buffer[self.cursor.y]
        if x > 0 and not row[x].data:
            x -= 1
        return (row[x], x) if x >= 0 else None

    def _join(self, text: str) -> None:
        """Add `text` to the character before the cursor; it may become two columns wide."""
        before = self._before_cursor()
        assert before is not None
        cell, x = before
        row = self.buffer[self.cursor.y]
        joined = cell.with_text(cell.data + text)
        was_wide = x + 1 < self.columns and not row[x + 1].data
        if columns_of(joined.data) == 2 and not was_wide:
            limit = self._limit()
            if x + 2 > limit:
                return  # VS16 at the margin: the character stays narrow
            self.split_wide(self.cursor.y, x + 1, x + 2)
            row[x + 1] = joined.with_text("")
            row.wide = True
            self.cursor.x = x + 2
            self._after_placing(limit)
        row[x] = joined
        self.dirty.add(self.cursor.y)

    # -- margins and floods ------------------------------------------------------------------------

    def set_side_margins(self, left: int = 0, right: int = 0) -> None:
        """DECSLRM."""
        first, last = (left or 1) - 1, min(right or self.columns, self.columns) - 1
        if first < last:
            whole = (first, last) == (0, self.columns - 1)
            self.side_margins = None if whole else Margins(first, last)
            self.mode_changed()
            self.cursor_position()

    def restart_at_top(self) -> None:
        """Hand every row above the cursor to the scrollback and go on at the top of an empty screen
        (a flood was skipped)."""
        if self.on_scroll_out is not None:
            for row in self.buffer[: self.cursor.y]:
                self.on_scroll_out(row)
        self.buffer = [Row([self.styles.plain.attrs] * self.columns) for _ in range(self.lines)]
        self.cursor.x = self.cursor.y = 0
        self.dirty.update(range(self.lines))
