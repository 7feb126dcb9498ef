"""A terminal for one pane: bytes in, rows out. Knows nothing of Textual, sockets or time.

`feed` takes what the guest wrote; `take_dirty` says which rows changed; `runs` gives a row as
(text, style) pairs. Floods are skipped: of a large piece of plain text only the last screenful is
drawn, the rest goes to the scrollback as text. `bench/terminal.py` measures it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from operator import itemgetter

import pyte.modes as modes

from machinen_tui.prompt_marks import Mark, PromptMarks
from machinen_tui.terminal_cells import Cell, Style
from machinen_tui.terminal_colors import TerminalColors
from machinen_tui.terminal_history import DEFAULT_BUDGET_BYTES, Scrollback
from machinen_tui.terminal_modes import REVERSE_SCREEN
from machinen_tui.terminal_osc import Terminal
from machinen_tui.terminal_rows import Grid, reflow, used_columns
from machinen_tui.terminal_stream import SGR_PARAMS, TerminalStream

Run = tuple[str, Style]
"""Text and its style."""

FLOOD_SCREENS = 3
"""Pieces with fewer screenfuls of lines are drawn whole: they are what a person watches."""
MAX_FIRST_LINE = 8192

TEXT_AND_TABS = r"[^\x00-\x08\x0a-\x1f\x7f-\x9f]*+"
FLOOD = re.compile(rf"(?:{TEXT_AND_TABS}(?:\x1b\[{SGR_PARAMS}+m{TEXT_AND_TABS})*+\r\n)*+")
"""Whole lines of text, tabs and SGR. Possessive: giving nothing back saves a third of the time."""
BACKGROUND = re.compile(rf"\x1b\[{SGR_PARAMS}(?:4|10)[0-8]")
"""What every SGR that sets a background looks like, and some others."""

_data_of: Callable[[Cell], str] = itemgetter(0)
_style_of: Callable[[Cell], Style] = itemgetter(9)


class TerminalModel:
    """One terminal with its scrollback. In live output `on_reply` receives the answers to
    questions, `on_clipboard` what OSC 52 writes; `clipboard` and `colors` are asked for what the
    terminal tells of them."""

    def __init__(
        self,
        columns: int,
        lines: int,
        *,
        on_reply: Callable[[bytes], None] | None = None,
        on_clipboard: Callable[[bytes], None] | None = None,
        clipboard: Callable[[], bytes | None] | None = None,
        colors: Callable[[], TerminalColors] = TerminalColors,
        history_bytes: int = DEFAULT_BUDGET_BYTES,
    ) -> None:
        self._on_reply = on_reply
        self._on_clipboard = on_clipboard
        self._clipboard = clipboard
        self.prompts = PromptMarks()
        """Where the guest's shell marked prompts and output."""
        self.terminal = Terminal(columns, lines)
        self.terminal.colors = colors
        self.terminal.on_prompt = self._mark_prompt
        self.scrollback = Scrollback(self.terminal.styles, columns, history_bytes)
        self.terminal.on_scroll_out = self.scrollback.append
        self.terminal.on_erase_history = self.scrollback.clear
        self.terminal.on_resize = self._reflow
        self._stream = TerminalStream(self.terminal)

    # -- bytes in ---------------------------------------------------------------------------------

    def feed(self, data: bytes, *, live: bool = True) -> None:
        """Act on what the guest wrote. Never raises. With `live=False` (a replay) no question is
        answered again and no clipboard written."""
        terminal, cursor_row = self.terminal, self.terminal.cursor.y
        terminal.on_reply = self._on_reply if live else None
        terminal.on_clipboard = self._on_clipboard if live else None
        terminal.clipboard = self._clipboard if live else None
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
        """Change the size: lines wrap anew, rows come back from the scrollback when a full main
        screen grows."""
        self.terminal.resize(lines, columns)
        self.scrollback.columns = self.terminal.columns

    def _reflow(self, grid: Grid, columns: int, lines: int) -> Grid:
        return reflow(grid, columns, lines, self.scrollback)

    def _mark_prompt(self, state: str) -> None:
        terminal = self.terminal
        if terminal.alternate:
            return
        joined = self.scrollback.goes_on
        line, start = self.scrollback.end - joined, int(joined)
        for row in terminal.buffer[: terminal.cursor.y]:
            line, start = (line, start + row.wrapped) if row.wrapped else (line + 1, 0)
        at = Mark(line, start + terminal.column())
        self.prompts.mark(state, at, terminal.exit_status)

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
        return runs_of(self.cells(y, back))

    def cells(self, y: int, back: int = 0) -> Sequence[Cell]:
        """The cells behind `runs`, without the blank end of the row."""
        if back > y:
            return self.scrollback.row(back - y)
        row = self.terminal.buffer[y - back]
        if self.terminal.has_mode(REVERSE_SCREEN):
            return [cell.with_look(reverse=not cell.reverse) for cell in row]
        return row[: used_columns(row)]

    def text(self, y: int, back: int = 0) -> str:
        """A row as plain text, its blank end cut."""
        return "".join(map(_data_of, self.cells(y, back))).rstrip()

    def screen_text(self) -> str:
        """The whole screen as plain text, one line a row."""
        return "\n".join(self.text(y) for y in range(self.lines)).rstrip("\n")

    def lines_text(self) -> str:
        """The screen as plain text, one line a logical line: wrapped rows are joined."""
        parts: list[str] = []
        for row in self.terminal.buffer:
            end = row.wrapped or used_columns(row)
            parts.append("".join(map(_data_of, row[:end])) + ("" if row.wrapped else "\n"))
        return "".join(parts).rstrip("\n")

    # -- floods -----------------------------------------------------------------------------------

    def _may_skip(self) -> bool:
        terminal = self.terminal
        return (
            self._stream.in_ground
            and terminal.margins is None
            and terminal.draws_plainly
            and modes.LNM not in terminal.mode
            and not terminal.style.style.link
            and terminal.style.style.bg == "default"
        )

    def _skip_flood(self, text: str) -> str:
        """Draw or file all but the last screenful of the plain text at the start of `text`; returns
        what is still to be drawn."""
        terminal = self.terminal
        found = FLOOD.match(text)
        end = max(found.end() - len("\r\n"), 0) if found else 0
        lines = text[:end].split("\r\n")
        if BACKGROUND.search(text, 0, end) and any(map(self._colors_below, lines)):
            return text
        # after these the cursor is on a fresh bottom row
        head = terminal.lines - terminal.cursor.y + 1
        if len(lines) <= head + terminal.lines:
            return text
        skipped = lines[head : -terminal.lines]
        if text.find("\t", 0, end) >= 0:
            expanded = self._expanded(skipped)
            if expanded is None:
                return text
            skipped = expanded
        self._stream.feed_text("\r\n".join(lines[:head]) + "\r\n")
        terminal.restart_at_top()
        if not terminal.alternate:
            self.scrollback.extend_with_text(skipped, terminal.style)
        terminal.style = terminal.styles.after_text(terminal.style, "\n".join(skipped))
        return "\r\n".join(lines[-terminal.lines :]) + text[end:]

    def _expanded(self, lines: Sequence[str]) -> list[str] | None:
        """Lines with blanks for tabs; None if that cannot be told without drawing them."""
        terminal = self.terminal
        if terminal.tabstops != set(range(8, terminal.columns, 8)):
            return None
        expanded = [line.expandtabs() if "\t" in line else line for line in lines]
        for line, wide in zip(lines, expanded, strict=True):
            tabbed = line is not wide
            if tabbed and (len(wide) > terminal.columns or not line.isascii() or "\x1b" in line):
                return None
        return expanded

    def _colors_below(self, line: str) -> bool:
        """The background is still on where `line` ends: the row below takes it on, so such floods
        are drawn."""
        last = line.rfind("\x1b[")
        if last < 0 or line.startswith(("0m", "m"), last + 2):
            return False
        styles = self.terminal.styles
        return styles.after_text(styles.plain, line).style.bg != "default"


def runs_of(cells: Iterable[Cell]) -> list[Run]:
    """Cells as text in one style after another."""
    return [("".join(map(_data_of, group)), style) for style, group in groupby(cells, _style_of)]
