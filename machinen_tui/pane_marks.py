"""What is marked on a row of a pane: what is selected, found, and copy mode's cursor. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from machinen_tui.copy_mode import CopyMode
from machinen_tui.pane_search import matches_in
from machinen_tui.pane_text import PaneText, Place
from machinen_tui.selection import Selection

SELECTION, MATCH, CURSOR = "selection", "match", "cursor"


class Mark(NamedTuple):
    """Columns `start` to `end` (excluded) of a row on screen."""

    start: int
    end: int
    what: str


@dataclass(slots=True)
class PaneMarks:
    """What one pane marks; later marks lie above earlier ones."""

    copy: CopyMode | None = None
    selected: Selection | None = None
    """By the mouse."""
    pattern: re.Pattern[str] | None = None

    def __bool__(self) -> bool:
        return bool(self.copy or self.selected or self.pattern)

    @property
    def selection(self) -> Selection | None:
        """What would be copied."""
        return self.copy.selection if self.copy is not None else self.selected

    def of_row(self, text: PaneText, row: int, width: int) -> list[Mark]:
        """The marks on `row`, as `PaneText` counts rows."""
        place = text.place_at(row)
        if text.row_of(place) != row:
            return []  # below the last line
        marks = list(self._matches(text, place))
        if self.selection is not None:
            span = self.selection.span(place.line, place.column, width)
            marks += [Mark(*span, SELECTION)] if span[1] else []
        if self.copy is not None and text.row_of(self.copy.cursor) == row:
            at = self.copy.cursor.column - place.column
            marks.append(Mark(at, at + 1, CURSOR))
        return list(_within(marks, width))

    def _matches(self, text: PaneText, place: Place) -> Iterator[Mark]:
        pattern = self.copy.pattern if self.copy is not None else self.pattern
        if pattern is not None:
            line = "".join(text.cells(place.line))
            for start, end in matches_in(line, pattern):
                yield Mark(start - place.column, end - place.column, MATCH)


def _within(marks: Iterable[Mark], width: int) -> Iterator[Mark]:
    for mark in marks:
        start, end = max(mark.start, 0), min(mark.end, width)
        if start < end:
            yield Mark(start, end, mark.what)
