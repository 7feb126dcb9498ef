"""Copy mode: a cursor that goes through a pane's text by keys, and what it selects. Pure.

Keys are vi's, the arrows work as well. Nothing here draws: the pane shows `cursor`, `selection`
and the matches of `pattern`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from machinen_tui.pane_search import Match, next_match
from machinen_tui.pane_text import PaneText, Place
from machinen_tui.prompt_marks import Mark
from machinen_tui.selection import BLOCK, CHARS, LINES, Selection

KEYS = {
    "h": "left", "left": "left", "l": "right", "right": "right", "j": "down", "down": "down",
    "k": "up", "up": "up", "w": "next_word", "b": "previous_word", "e": "end_of_word",
    "0": "line_start", "home": "line_start", "dollar_sign": "line_end", "end": "line_end",
    "circumflex_accent": "first_text", "g": "top", "G": "bottom", "H": "screen_top",
    "M": "screen_middle", "L": "screen_bottom", "pageup": "page_up", "ctrl+b": "page_up",
    "pagedown": "page_down", "ctrl+f": "page_down", "ctrl+u": "half_up", "ctrl+d": "half_down",
    "left_curly_bracket": "paragraph_up", "right_curly_bracket": "paragraph_down",
    "v": "chars", "space": "chars", "V": "lines", "ctrl+v": "block", "o": "other_end",
    "n": "next", "N": "previous", "left_square_bracket": "prompt_up",
    "right_square_bracket": "prompt_down", "a": "output",
}  # fmt: skip
"""Textual's name of a key → what it does here."""
KINDS = {"chars": CHARS, "lines": LINES, "block": BLOCK}


class CopyMode:
    """The state of one pane in copy mode. `text` gives its text as it is now."""

    def __init__(self, text: Callable[[], PaneText], cursor: Place, height: int) -> None:
        self._text = text
        self.cursor = cursor
        self.anchor: Place | None = None
        self.kind = CHARS
        self.height = height
        """Rows of the pane."""
        self.top = 0
        """The first row shown, as `PaneText` counts: 0 is the screen's, less is history."""
        self.pattern: re.Pattern[str] | None = None
        self.backwards = True
        self.note = ""
        """Said in the frame: a search that found nothing, or went round."""
        self._wanted_x = 0
        self._top_place = cursor
        self.keep_in_view()

    @property
    def selection(self) -> Selection | None:
        """What would be copied."""
        return None if self.anchor is None else Selection(self.anchor, self.cursor, self.kind)

    def take_key(self, key: str) -> bool:
        """Do what `key` does here; False if it is none of ours."""
        if (name := KEYS.get(key)) is None:
            return False
        self.note = ""
        if name in KINDS:
            self._select(KINDS[name])
        else:
            getattr(self, f"_{name}")(self._text())
        self.keep_in_view()
        return True

    def go_to(self, place: Place) -> None:
        """Put the cursor there."""
        self.cursor = place
        self._wanted_x = self._x(self._text())
        self.keep_in_view()

    def search(self, pattern: re.Pattern[str], *, backwards: bool) -> bool:
        """Go to the first match; whether there is one. `n` and `N` go on from there."""
        self.pattern, self.backwards = pattern, backwards
        return self._go_to_match(self._text(), backwards=backwards)

    def keep_in_view(self) -> None:
        """Scroll so far that the cursor is seen."""
        text = self._text()
        first, last = text.first, text.last
        if not first <= self.cursor.line <= last:
            self.cursor = Place(min(max(self.cursor.line, first), last), 0)
        row = text.row_of(self.cursor)
        self.top = max(min(self.top, row, 0), row - self.height + 1)
        self._top_place = text.place_at(self.top)

    def follow(self) -> None:
        """Text arrived or its width changed: show the same text as before."""
        text = self._text()
        if text.first <= self._top_place.line <= text.last:
            self.top = text.row_of(self._top_place)
        self.keep_in_view()

    def scroll(self, rows: int) -> None:
        """Move the view (negative: into the past); the cursor comes along."""
        self._by_rows(self._text(), rows)
        self.keep_in_view()

    def _select(self, kind: str) -> None:
        """Begin, change the kind, or with the same key again end the selection."""
        if self.anchor is None:
            self.anchor, self.kind = self.cursor, kind
        elif self.kind == kind:
            self.anchor = None
        else:
            self.kind = kind

    # -- moving -----------------------------------------------------------------------------------

    def _x(self, text: PaneText) -> int:
        """The column as one sees it, within its row."""
        return self.cursor.column - _row_start(text, self.cursor)

    def _to(self, text: PaneText, line: int, column: int) -> None:
        end = max(len(text.cells(line)) - 1, 0)
        self.cursor = Place(line, min(max(column, 0), end))
        self._wanted_x = self._x(text)

    def _left(self, text: PaneText) -> None:
        cells, column = text.cells(self.cursor.line), self.cursor.column - 1
        while 0 < column < len(cells) and not cells[column]:
            column -= 1
        self._to(text, self.cursor.line, column)

    def _right(self, text: PaneText) -> None:
        cells, column = text.cells(self.cursor.line), self.cursor.column + 1
        while column < len(cells) - 1 and not cells[column]:
            column += 1
        self._to(text, self.cursor.line, column)

    def _by_rows(self, text: PaneText, rows: int) -> None:
        row = text.row_of(self.cursor) + rows
        lowest = text.row_of(Place(text.last, 1 << 30))
        highest = text.row_of(Place(text.first, 0))
        place = text.place_at(min(max(row, highest), lowest))
        starts = [*text.row_starts(place.line), 1 << 30]
        length = len(text.cells(place.line))
        end = min(next(s for s in starts if s > place.column) - 1, max(length - 1, place.column))
        self.cursor = Place(place.line, min(place.column + self._wanted_x, end))

    def _down(self, text: PaneText) -> None:
        self._by_rows(text, 1)

    def _up(self, text: PaneText) -> None:
        self._by_rows(text, -1)

    def _page_down(self, text: PaneText) -> None:
        self._by_rows(text, max(self.height - 1, 1))

    def _page_up(self, text: PaneText) -> None:
        self._by_rows(text, -max(self.height - 1, 1))

    def _half_down(self, text: PaneText) -> None:
        self._by_rows(text, max(self.height // 2, 1))

    def _half_up(self, text: PaneText) -> None:
        self._by_rows(text, -max(self.height // 2, 1))

    def _top(self, text: PaneText) -> None:
        self._to(text, text.first, 0)

    def _bottom(self, text: PaneText) -> None:
        self._to(text, text.last, 0)

    def _screen_top(self, text: PaneText) -> None:
        self._to_row(text, 0)

    def _screen_middle(self, text: PaneText) -> None:
        self._to_row(text, self.height // 2)

    def _screen_bottom(self, text: PaneText) -> None:
        self._to_row(text, self.height - 1)

    def _to_row(self, text: PaneText, y: int) -> None:
        place = text.place_at(self.top + y)
        self._to(text, place.line, place.column)

    def _line_start(self, text: PaneText) -> None:
        self._to(text, self.cursor.line, 0)

    def _line_end(self, text: PaneText) -> None:
        cells = text.cells(self.cursor.line)
        written = [at for at, cell in enumerate(cells) if cell and not cell.isspace()]
        self._to(text, self.cursor.line, written[-1] if written else 0)

    def _first_text(self, text: PaneText) -> None:
        cells = text.cells(self.cursor.line)
        written = (at for at, cell in enumerate(cells) if not cell.isspace())
        self._to(text, self.cursor.line, next(written, 0))

    def _next_word(self, text: PaneText) -> None:
        self._by_word(text, lambda cells, at: _is_word(cells, at) and not _is_word(cells, at - 1))

    def _end_of_word(self, text: PaneText) -> None:
        self._by_word(text, lambda cells, at: _is_word(cells, at) and not _is_word(cells, at + 1))

    def _by_word(self, text: PaneText, stops: Callable[[list[str], int], bool]) -> None:
        line, column = self.cursor
        while line <= text.last:
            cells = list(text.cells(line))
            for at in range(column + 1, len(cells)):
                if stops(cells, at):
                    self._to(text, line, at)
                    return
            line, column = line + 1, -1
        self._to(text, text.last, 1 << 30)

    def _previous_word(self, text: PaneText) -> None:
        line, column = self.cursor
        while line >= text.first:
            cells = list(text.cells(line))
            for at in range(min(column, len(cells)) - 1, -1, -1):
                if _is_word(cells, at) and not _is_word(cells, at - 1):
                    self._to(text, line, at)
                    return
            line, column = line - 1, 1 << 30
        self._to(text, text.first, 0)

    def _paragraph_up(self, text: PaneText) -> None:
        self._paragraph(text, -1)

    def _paragraph_down(self, text: PaneText) -> None:
        self._paragraph(text, 1)

    def _paragraph(self, text: PaneText, step: int) -> None:
        """To the next empty line."""
        line = self.cursor.line + step
        while text.first < line < text.last and "".join(text.cells(line)).strip():
            line += step
        self._to(text, min(max(line, text.first), text.last), 0)

    def _prompt_up(self, text: PaneText) -> None:
        self._to_prompt(text, text.prompts.before(self.cursor.line))

    def _prompt_down(self, text: PaneText) -> None:
        self._to_prompt(text, text.prompts.after(self.cursor.line))

    def _to_prompt(self, text: PaneText, mark: Mark | None) -> None:
        if mark is None or not text.first <= mark.line <= text.last:
            self.note = "no prompt there; shells mark theirs with OSC 133"
        else:
            self._to(text, mark.line, mark.column)

    def _output(self, text: PaneText) -> None:
        """Select what the command here, or the one before, has written."""
        command = text.prompts.done(self.cursor.line)
        lines = command.output_lines if command is not None else None
        if lines is None or not text.first <= lines[1] <= text.last:
            self.note = "no command's output here; shells mark it with OSC 133"
            return
        self.anchor, self.kind = Place(max(lines[0], text.first), 0), LINES
        self._to(text, lines[1], 0)

    def _other_end(self, text: PaneText) -> None:
        if self.anchor is not None:
            self.anchor, self.cursor = self.cursor, self.anchor

    # -- searching --------------------------------------------------------------------------------

    def _next(self, text: PaneText) -> None:
        self._go_to_match(text, backwards=self.backwards)

    def _previous(self, text: PaneText) -> None:
        self._go_to_match(text, backwards=not self.backwards)

    def _go_to_match(self, text: PaneText, *, backwards: bool) -> bool:
        if self.pattern is None:
            self.note = "nothing was searched for; / searches"
            return False
        found = next_match(text, self.pattern, self.cursor, backwards=backwards)
        if found is None:
            self.note = f"not found: {self.pattern.pattern}"
            return False
        before = (found.line, found.start) < self.cursor
        self.note = "" if before == backwards else "the search went round"
        self._show(text, found)
        return True

    def _show(self, text: PaneText, found: Match) -> None:
        self._to(text, found.line, found.start)
        self.keep_in_view()


def _row_start(text: PaneText, place: Place) -> int:
    return max(start for start in text.row_starts(place.line) if start <= place.column)


def _is_word(cells: list[str], at: int) -> bool:
    return 0 <= at < len(cells) and not cells[at].isspace()
