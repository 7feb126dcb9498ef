"""A terminal for one pane: bytes in, rows out. Knows nothing of Textual, sockets or time.

`feed` takes what the guest wrote; `take_dirty` says which rows changed; `runs` gives a row as
(text, style) pairs. Floods are skipped: of a large
piece of plain text only the last screenful is drawn, the rest goes to the scrollback as text.
Measured here, 80x24: ASCII logs 30 MB/s, coloured 15, full-screen 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from itertools import groupby
from operator import itemgetter

import pyte.modes as modes
from pyte.screens import Char

from machinen_tui.terminal_cells import PLAIN
from machinen_tui.terminal_device import REVERSE_SCREEN, Terminal
from machinen_tui.terminal_history import DEFAULT_BUDGET_BYTES, SGR, Scrollback
from machinen_tui.terminal_screen import Row
from machinen_tui.terminal_stream import TEXT, TerminalStream

Run = tuple[str, Char]
"""Text and its style (a `Char` whose own data is meaningless)."""

FLOOD_SCREENS = 3
"""Pieces with fewer screenfuls of lines are drawn whole: they are what a person watches."""
MAX_FIRST_LINE = 8192

FLOOD = re.compile(rf"(?:{TEXT}|\r\n|\x1b\[[0-9;:]*m)*")
BACKGROUND = re.compile(r"\x1b\[(?:[0-9:;]*;)?(?:4[0-8]|10[0-7]|7)\b")
"""Backgrounds colour the blank cells of later rows; such floods are drawn."""

_style_of = itemgetter(slice(1, None))


class TerminalModel:
    """One terminal with its scrollback. `on_reply` receives the answers to questions in live
    output."""

    def __init__(
        self,
        columns: int,
        lines: int,
        *,
        on_reply: Callable[[bytes], None] | None = None,
        history_bytes: int = DEFAULT_BUDGET_BYTES,
    ) -> None:
        self._on_reply = on_reply
        self.terminal = Terminal(columns, lines)
        self.scrollback = Scrollback(self.terminal.styles, history_bytes)
        self.terminal.on_scroll_out = self.scrollback.append
        self.terminal.on_erase_history = self.scrollback.clear
        self._stream = TerminalStream(self.terminal)

    # -- bytes in ---------------------------------------------------------------------------------

    def feed(self, data: bytes, *, live: bool = True) -> None:
        """Act on what the guest wrote. Never raises. With `live=False` (a replay) no question is
        answered again."""
        terminal, cursor_row = self.terminal, self.terminal.cursor.y
        terminal.on_reply = self._on_reply if live else None
        text = self._stream.decode(data)
        if text.count("\n") > FLOOD_SCREENS * terminal.lines:
            start = text.find("\n", 0, MAX_FIRST_LINE) + 1
            self._stream.feed_text(text[:start])  # the rest of a line that came in two pieces
            text = text[start:]
            if self._may_skip():
                text = self._skip_flood(text)
        self._stream.feed_text(text)
        terminal.dirty.update((cursor_row, terminal.cursor.y))

    def resize(self, columns: int, lines: int) -> None:
        """Change the size; rows come back from the scrollback when the main screen grows."""
        terminal = self.terminal
        if (columns, lines) == (terminal.columns, terminal.lines):
            return
        grown = lines - terminal.lines
        full = terminal.cursor.y == terminal.lines - 1
        terminal.resize(lines, columns)
        if grown > 0 and full and not terminal.alternate:
            self._pull_back(grown)

    def _pull_back(self, count: int) -> None:
        terminal = self.terminal
        rows = [row for _ in range(count) if (row := self.scrollback.pop_newest()) is not None]
        moved = {y + len(rows): row for y, row in terminal.buffer.items()}
        terminal.buffer.clear()
        terminal.buffer.update(moved)
        for y, cells in enumerate(reversed(rows)):
            terminal.buffer[y] = Row(PLAIN)
            terminal.buffer[y].update(enumerate(cells))
        terminal.cursor.y += len(rows)

    # -- rows out ---------------------------------------------------------------------------------

    @property
    def columns(self) -> int:
        return self.terminal.columns

    @property
    def lines(self) -> int:
        return self.terminal.lines

    def take_dirty(self) -> set[int]:
        """The screen rows that changed since the last call."""
        dirty, self.terminal.dirty = self.terminal.dirty, set()
        return dirty

    def runs(self, y: int, back: int = 0) -> list[Run]:
        """Row `y` of the view scrolled `back` rows into the past, as text in one style after
        another, `columns` cells wide at most."""
        cells = self.cells(y, back)
        return [
            ("".join(cell.data for cell in group), style_cell(key))
            for key, group in groupby(cells, _style_of)
        ]

    def cells(self, y: int, back: int = 0) -> list[Char]:
        """The cells behind `runs`, without the blank end of the row."""
        index = len(self.scrollback) + y - back
        if index < len(self.scrollback):
            return list(self.scrollback[index][: self.columns]) if index >= 0 else []
        row = self.terminal.buffer[index - len(self.scrollback)]
        width = min(max(row, default=-1) + 1, self.columns)
        cells = [row[x] for x in range(width)]
        if self.terminal.has_mode(REVERSE_SCREEN):
            cells = [
                cell._replace(reverse=not cell.reverse)
                for cell in [*cells, *[PLAIN] * (self.columns - width)]
            ]
        return cells

    def text(self, y: int, back: int = 0) -> str:
        """A row as plain text, its blank end cut."""
        return "".join(cell.data for cell in self.cells(y, back)).rstrip()

    def screen_text(self) -> str:
        """The whole screen as plain text, one line a row."""
        return "\n".join(self.text(y) for y in range(self.lines)).rstrip("\n")

    # -- floods -----------------------------------------------------------------------------------

    def _may_skip(self) -> bool:
        terminal = self.terminal
        return (
            self._stream.in_ground
            and terminal.margins is None
            and terminal.draws_plainly
            and modes.LNM not in terminal.mode
            and terminal.cursor.attrs.bg == "default"
        )

    def _skip_flood(self, text: str) -> str:
        """Draw or file all but the last screenful of the plain text at the start of `text`; returns
        what is still to be drawn."""
        terminal = self.terminal
        found = FLOOD.match(text)
        end = text.rfind("\r\n", 0, found.end() if found else 0)
        if end < 0 or BACKGROUND.search(text, 0, end):
            return text
        lines = text[:end].split("\r\n")
        head = (
            terminal.lines - terminal.cursor.y + 1
        )  # after these the cursor is on a fresh bottom row
        if len(lines) <= head + terminal.lines:
            return text
        self._stream.feed_text("\r\n".join(lines[:head]) + "\r\n")
        skipped = lines[head : -terminal.lines]
        terminal.restart_at_top()
        if not terminal.alternate:
            self.scrollback.extend_with_text(
                skipped, terminal.styles.table(terminal.cursor.attrs), terminal.columns
            )
        self._follow_styles(skipped)
        return "\r\n".join(lines[-terminal.lines :]) + text[end:]

    def _follow_styles(self, lines: Iterable[str]) -> None:
        """Take over the style that holds after `lines`."""
        text = "\n".join(lines)
        start = max(text.rfind("\x1b[0m"), text.rfind("\x1b[m"), 0)
        for params in SGR.findall(text, start) if "\x1b" in text else ():
            self.terminal.sgr(params)


def style_cell(key: tuple[str | bool, ...]) -> Char:
    """A blank cell in the style of `key` (the fields of `Char` after its text)."""
    return Char(" ", *key)  # pyright: ignore[reportArgumentType]
