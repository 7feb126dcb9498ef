"""The scrollback of one terminal: logical lines under a byte budget.

Lines are kept as their text, colours as SGR within it, in blocks of UTF-8: a line costs its bytes.
Nothing in it depends on a width, so a resize costs nothing; lines are wrapped when someone looks.
A flood is filed as it came. Only the newest lines wait as cells until a block's worth is there.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter

from machinen_tui.terminal_cells import DEFAULT_STYLE, Cell, Style, StyleTable, StyleTables
from machinen_tui.terminal_rows import MAX_LINE_CELLS, Row, used_columns, wrap
from machinen_tui.terminal_sgr import sgr_params
from machinen_tui.terminal_text import columns_of, lay

DEFAULT_BUDGET_BYTES = 8 * 1024 * 1024
LINES_PER_BLOCK = 256
BLOCK_BYTES = 400
"""What a block costs besides its text."""
MAX_WRAPPED_BLOCKS = 8
"""Blocks whose rows are kept while someone looks."""

MARKUP = re.compile(r"\x1b\[([0-9;:]*)m|\x1b\]8;;([^\x1b]*)\x1b\\")
"""What text in the history may hold besides text: a style, a link."""
LINE_END = Cell("\n")
_data_of: Callable[[Cell], str] = itemgetter(0)
_style_of: Callable[[Cell], Style] = itemgetter(9)


LookedAt = tuple[list[Sequence[Cell]], list[int]]


class Block:
    """Consecutive lines as text; `table` is the style at its start."""

    __slots__ = ("count", "data", "row_count", "table")

    def __init__(self, text: str, count: int, table: StyleTable) -> None:
        self.data = text.encode("utf-8", "replace")
        self.count = count
        self.table = table
        self.row_count: tuple[int, int] = (0, 0)
        """A width and how many rows the lines take there."""

    @property
    def size_bytes(self) -> int:
        return len(self.data) + BLOCK_BYTES

    def lines(self) -> list[str]:
        """Its lines with their markup."""
        return self.data.decode().split("\n")

    def plain_text(self) -> str:
        """Its lines, joined by line feeds, without markup."""
        text = self.data.decode()
        return MARKUP.sub("", text) if "\x1b" in text else text


class Scrollback:
    """Lines that left the screen, oldest first. The oldest block goes when the budget is exceeded.

    `columns` is the width rows are counted and made at. Lines are numbered from the first one ever
    received: `first` to `end - 1` are there.
    """

    def __init__(
        self, styles: StyleTables, columns: int, budget_bytes: int = DEFAULT_BUDGET_BYTES
    ) -> None:
        self.columns = columns
        self.end = 0
        self._styles = styles
        self._budget_bytes = budget_bytes
        self._blocks: deque[Block] = deque()
        self._blocks_bytes = 0
        self._blocks_lines = 0
        self._fresh: list[list[Cell]] = []
        self._fresh_cells = 0
        self._open = False
        self._wrapped: OrderedDict[tuple[Block, int], LookedAt] = OrderedDict()

    # -- what is there ----------------------------------------------------------------------------

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, about."""
        return self._blocks_bytes + 8 * self._fresh_cells + 56 * len(self._fresh)

    @property
    def first(self) -> int:
        """The number of the oldest line."""
        return self.end - self._blocks_lines - len(self._fresh)

    @property
    def goes_on(self) -> bool:
        """The newest line goes on at the top of the screen."""
        return self._open

    def __len__(self) -> int:
        """Rows at this width; counts them all."""
        return self.rows_since(self.first)

    def rows_since(self, line: int, at_most: int | None = None) -> int:
        """How many rows the lines from number `line` on take; stops counting beyond `at_most`."""
        rows, number = 0, self.end
        for cells in reversed(self._fresh):
            if number <= line or (at_most is not None and rows >= at_most):
                return rows
            rows += len(wrap(cells, self.columns))
            number -= 1
        for block in reversed(self._blocks):
            if number <= line or (at_most is not None and rows >= at_most):
                return rows
            number -= block.count
            rows += self._row_count(block)
            if number < line:  # the line is within this block
                rows -= self._looked_at(block)[1][line - number]
        return rows

    def row(self, back: int) -> Sequence[Cell]:
        """The row `back` rows above the screen (1: the newest); empty beyond the oldest."""
        found = self._find(back)
        return () if found is None else found[0][found[1]]

    def locate(self, back: int) -> tuple[int, int]:
        """The number of the line the row `back` rows above the screen is part of, and which row of
        it: a place that stays the same while text arrives and widths change."""
        found = self._find(back)
        if found is None:
            return self.first, 0
        _, index, starts, number = found
        line = bisect_right(starts, index) - 1
        return number + line, index - starts[line]

    def back_of(self, place: tuple[int, int]) -> int:
        """The `back` of a place, as `locate` told it; of one that is gone: the oldest row."""
        line, row = place
        if line < self.first:
            return len(self)
        below = self.rows_since(line + 1)
        return below + max(self.rows_since(line) - below - row, 1)

    def _find(self, back: int) -> tuple[Sequence[Sequence[Cell]], int, list[int], int] | None:
        """Rows among which is the wanted one, its index, where lines start, and the first line's
        number."""
        number = self.end
        for cells in reversed(self._fresh):
            number -= 1
            parts = wrap(cells, self.columns)
            if back <= len(parts):
                return parts, len(parts) - back, [0], number
            back -= len(parts)
        for block in reversed(self._blocks):
            number -= block.count
            count = self._row_count(block)
            if back <= count:
                rows, starts = self._looked_at(block)
                return rows, count - back, starts, number
            back -= count
        return None

    def cells_of(self, line: int) -> Sequence[Cell]:
        """The cells of a line by its number; empty if it is gone or not yet there."""
        number = self.end - len(self._fresh)
        if line >= number:
            return self._fresh[line - number] if line < self.end else ()
        for block in reversed(self._blocks):
            number -= block.count
            if line >= number:
                rows, starts = self._looked_at(block)
                at = line - number
                end = starts[at + 1] if at + 1 < len(starts) else len(rows)
                return [cell for row in rows[starts[at] : end] for cell in row]
        return ()

    def texts(self) -> Iterator[tuple[int, str]]:
        """Newest first: the number of a block's first line, and its plain lines joined by line
        feeds."""
        number = self.end - len(self._fresh)
        if self._fresh:
            lines = ("".join(cell.data for cell in cells) for cells in self._fresh)
            yield number, "\n".join(lines)
        for block in reversed(list(self._blocks)):
            number -= block.count
            if number < self.first:
                return  # dropped while the caller was looking
            yield number, block.plain_text()

    # -- receiving --------------------------------------------------------------------------------

    def clear(self) -> None:
        """ED 3."""
        self._fresh, self._fresh_cells, self._open = [], 0, False
        self._blocks.clear()
        self._wrapped.clear()
        self._blocks_bytes = self._blocks_lines = 0

    def append(self, row: Row) -> None:
        """Keep one row that left the screen."""
        wrapped = row.wrapped
        cells = row[: wrapped or used_columns(row)]
        if self._open:
            self._fresh[-1].extend(cells)
        else:
            if len(self._fresh) >= LINES_PER_BLOCK or self._fresh_cells >= MAX_LINE_CELLS:
                self._fold()
            self._fresh.append(cells)
            self.end += 1
        self._fresh_cells += len(cells)
        self._open = wrapped > 0 and len(self._fresh[-1]) < MAX_LINE_CELLS

    def extend_with_text(self, lines: Sequence[str], table: StyleTable) -> None:
        """Keep lines (text and SGR only) that were never drawn; `table` is the style at their
        start."""
        self._fold()
        for start in range(0, len(lines), LINES_PER_BLOCK):
            part = lines[start : start + LINES_PER_BLOCK]
            text = "\n".join(part)
            self._file(Block(text, len(part), table))
            self.end += len(part)
            table = self._styles.after_text(table, text)

    def take_open_line(self) -> list[Cell] | None:
        """Take back the newest line if it goes on at the top of the screen."""
        return self.pop_line() if self._open else None

    def pop_line(self) -> list[Cell] | None:
        """Take the newest line back; None if there is none."""
        if not self._fresh and self._blocks:
            block = self._blocks.pop()
            self._blocks_bytes -= block.size_bytes
            self._blocks_lines -= block.count
            self._fresh = self._cells(block)
            self._fresh_cells = sum(map(len, self._fresh))
        if not self._fresh:
            return None
        self._open = False
        self.end -= 1
        cells = self._fresh.pop()
        self._fresh_cells -= len(cells)
        return cells

    def _fold(self) -> None:
        """File the newest lines as text. An open line stays open only among cells: it ends here."""
        if self._fresh:
            self._file(Block(marked_up(self._fresh), len(self._fresh), self._styles.plain))
            self._fresh, self._fresh_cells, self._open = [], 0, False

    def _file(self, block: Block) -> None:
        self._blocks.append(block)
        self._blocks_bytes += block.size_bytes
        self._blocks_lines += block.count
        while self.size_bytes > self._budget_bytes and len(self._blocks) > 1:
            oldest = self._blocks.popleft()
            self._blocks_bytes -= oldest.size_bytes
            self._blocks_lines -= oldest.count

    # -- looking ----------------------------------------------------------------------------------

    def _row_count(self, block: Block) -> int:
        """Rows of a block at this width, counted once."""
        columns, rows = block.row_count
        if columns != self.columns:
            rows = self._count_rows(block)
            block.row_count = (self.columns, rows)
        return rows

    def _count_rows(self, block: Block) -> int:
        columns = self.columns
        if not block.data.isascii():
            return sum(len(wrap(cells, columns)) for cells in self._cells(block))
        lines = block.plain_text().split("\n")
        if max(map(len, lines)) <= columns:
            return len(lines)
        return sum(max(1, -(-len(line) // columns)) for line in lines)

    def _looked_at(self, block: Block) -> LookedAt:
        """A block's rows, and at which of them its lines start; the last few looked at are kept."""
        key = (block, self.columns)
        looked_at = self._wrapped.get(key)
        if looked_at is None:
            rows, starts = list[Sequence[Cell]](), list[int]()
            for cells in self._cells(block):
                starts.append(len(rows))
                rows.extend(wrap(cells, self.columns))
            looked_at = self._wrapped[key] = (rows, starts)
            if len(self._wrapped) > MAX_WRAPPED_BLOCKS:
                self._wrapped.popitem(last=False)
        self._wrapped.move_to_end(key)
        return looked_at

    def _cells(self, block: Block) -> list[list[Cell]]:
        """A block's lines as cells."""
        painter = Painter(block.table, self._styles)
        return [painter.cells(line) for line in block.lines()]


class Painter:
    """Turns marked-up text back into cells; the style goes on from line to line."""

    def __init__(self, table: StyleTable, styles: StyleTables) -> None:
        self._table = table
        self._styles = styles

    def cells(self, line: str) -> list[Cell]:
        """The cells of one line."""
        cells: list[Cell] = []
        position = 0
        for found in MARKUP.finditer(line):
            self._paint(cells, line[position : found.start()])
            position = found.end()
            self._follow(found[1], found[2])
        self._paint(cells, line[position:])
        return cells

    def _paint(self, cells: list[Cell], text: str) -> None:
        if text:
            cells.extend(map(self._table.__getitem__, text if text.isascii() else _columns(text)))

    def _follow(self, params: str | None, link: str | None) -> None:
        if params is not None:
            self._table = self._styles.after_sgr(self._table, params)
        else:
            self._table = self._styles.table(self._table.style._replace(link=link or ""))


def _columns(text: str) -> Sequence[str]:
    """Text laid out; a mark at its start has nothing to join and is left out."""
    laid = lay(text)
    return laid.cells[1:] if laid.joins and columns_of(laid.cells[0]) == 0 else laid.cells


def marked_up(lines: Iterable[Sequence[Cell]]) -> str:
    """Lines of cells as text that holds their styles; each starts and ends in the default style."""
    cells: list[Cell] = []
    for line in lines:
        cells += line
        cells.append(LINE_END)
    parts: list[str] = []
    shown = DEFAULT_STYLE
    for style, group in groupby(cells, _style_of):
        if style != shown:
            parts.append(f"\x1b[{sgr_params(style)}m")
            if style.link != shown.link:
                parts.append(f"\x1b]8;;{style.link}\x1b\\")
            shown = style
        parts.extend(map(_data_of, group))
    return "".join(parts)[:-1]
