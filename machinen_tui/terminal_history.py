"""The scrollback of one terminal: rows that left the screen, under a byte budget.

Rows drawn one by one are kept as tuples of interned cells. Rows of a flood, which nobody saw, are
kept as the text itself and become cells only
when somebody scrolls there, so a flood costs what its text costs.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Sequence

from pyte.screens import Char, wcwidth

from machinen_tui.terminal_cells import StyleTable, StyleTables
from machinen_tui.terminal_screen import NEVER_DRAWN, Row

HistoryRow = tuple[Char, ...]

DEFAULT_BUDGET_BYTES = 4 * 1024 * 1024
ROWS_PER_BLOCK = 256
ROW_BYTES = 72
"""What a row costs besides its cells (tuple header, its place in a list)."""

SGR = re.compile(r"\x1b\[([0-9;:]*)m")


class Block:
    """Consecutive rows, either as cells or still as the lines of text a flood brought."""

    __slots__ = ("columns", "count", "lines", "rows", "size_bytes", "style")

    def __init__(self) -> None:
        self.rows: list[HistoryRow] = []
        self.lines: Sequence[str] = ()
        self.style: StyleTable | None = None
        self.columns = 0
        self.count = 0
        self.size_bytes = 0


class Scrollback:
    """Rows 0 (oldest) to `len() - 1`. The oldest block goes when the budget is exceeded."""

    def __init__(self, styles: StyleTables, budget_bytes: int = DEFAULT_BUDGET_BYTES) -> None:
        self._styles = styles
        self._budget_bytes = budget_bytes
        self._blocks: deque[Block] = deque()
        self._count = 0
        self.size_bytes = 0
        self.total = 0
        """Rows ever received; grows while the oldest are dropped, so a reader can tell how far the
        text has moved."""

    def __len__(self) -> int:
        return self._count

    def clear(self) -> None:
        self._blocks.clear()
        self._count = self.size_bytes = 0

    def append(self, row: Row) -> None:
        """Keep one row of the screen."""
        cells = tuple(map(row.__getitem__, range(max(row, default=-1) + 1)))
        if (
            not self._blocks
            or self._blocks[-1].style is not None
            or self._blocks[-1].count >= ROWS_PER_BLOCK
        ):
            self._blocks.append(Block())
        block = self._blocks[-1]
        block.rows.append(cells)
        self._account(block, 1, ROW_BYTES + 8 * len(cells))

    def extend_with_text(self, lines: Sequence[str], style: StyleTable, columns: int) -> None:
        """Keep lines (text and SGR only) that were never drawn; `style` holds at their start,
        `columns` is where they wrap."""
        if not lines:
            return
        block = Block()
        block.lines, block.style, block.columns = lines, style, columns
        joined = "\n".join(lines)
        plain = SGR.sub("", joined).split("\n") if "\x1b" in joined else lines
        longest = max(map(len, plain))
        if longest <= (columns if joined.isascii() else columns // 2):
            rows = len(lines)
        elif joined.isascii():
            rows = sum(max(1, -(-len(line) // columns)) for line in plain)
        else:
            rows = len(self._materialise(block))
        self._blocks.append(block)
        self._account(block, rows, len(joined) + ROW_BYTES * len(lines))

    def __getitem__(self, index: int) -> HistoryRow:
        if not 0 <= index < self._count:
            raise IndexError(index)
        for block in self._blocks:
            if index < block.count:
                return (block.rows or self._materialise(block))[index]
            index -= block.count
        raise IndexError(index)

    def pop_newest(self) -> HistoryRow | None:
        """Take the newest row back (the screen grew)."""
        if not self._blocks:
            return None
        block = self._blocks[-1]
        rows = block.rows or self._materialise(block)
        row = rows.pop()
        cost = min(ROW_BYTES + 8 * len(row), block.size_bytes)
        self._account(block, -1, -cost)
        self.total += 1  # a row taken back was still received
        if block.count == 0:
            self.size_bytes -= block.size_bytes
            self._blocks.pop()
        return row

    def _account(self, block: Block, rows: int, size_bytes: int) -> None:
        block.count += rows
        block.size_bytes += size_bytes
        self._count += rows
        self.total += rows
        self.size_bytes += size_bytes
        while self.size_bytes > self._budget_bytes and len(self._blocks) > 1:
            oldest = self._blocks.popleft()
            self._count -= oldest.count
            self.size_bytes -= oldest.size_bytes

    def _materialise(self, block: Block) -> list[HistoryRow]:
        """Turn a block's text into cells, once."""
        style = block.style or self._styles.plain
        for line in block.lines:
            cells: list[Char] = []
            parts = SGR.split(line)
            for index, part in enumerate(parts):
                if index % 2:
                    style = self._styles.after_sgr(style, part)
                else:
                    cells.extend(map(style.__getitem__, part))
            block.rows.extend(wrap(cells, block.columns))
        block.lines = ()
        return block.rows


def wrap(cells: Sequence[Char], columns: int) -> Iterable[HistoryRow]:
    """The rows a line of cells makes at a width: wide characters take two cells and never split,
    marks join the cell before."""
    if all(cell.data.isascii() for cell in cells):
        return [
            tuple(cells[start : start + columns]) for start in range(0, max(len(cells), 1), columns)
        ]
    rows: list[list[Char]] = [[]]
    for cell in cells:
        width = wcwidth(cell.data)
        if width < 1 or width > columns:
            if width == 0 and rows[-1] and cell.data not in NEVER_DRAWN:
                _join(rows[-1], cell.data)
            continue
        if len(rows[-1]) + width > columns:
            rows.append([])
        rows[-1].append(cell)
        if width == 2:
            rows[-1].append(cell._replace(data=""))
    return [tuple(row) for row in rows]


def _join(row: list[Char], mark: str) -> None:
    at = len(row) - 1 if row[-1].data else len(row) - 2
    if len(row[at].data) < 8:
        row[at] = row[at]._replace(data=row[at].data + mark)
