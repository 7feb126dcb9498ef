"""Selecting with the mouse in one pane: drag by character, with alt as a block; it never leaves the
pane, and scrolls at its edges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import events

from machinen_tui.pane_text import PaneText, Place
from machinen_tui.selection import BLOCK, CHARS, LINES, Selection, word_at

if TYPE_CHECKING:
    from machinen_tui.widgets.terminal_pane import TerminalPane


class MouseSelection:
    """What the left button does in `pane` while no guest asked for the mouse."""

    def __init__(self, pane: TerminalPane) -> None:
        self._pane = pane
        self._from: Place | None = None
        self._kind = CHARS
        self.dragged = False
        """The button went down here and moved: what follows is no click."""

    def press(self, event: events.MouseDown) -> None:
        """The button went down: what was selected before is not any more."""
        offset = event.get_content_offset(self._pane)
        self._pane.select_text(None)
        if event.button != 1 or offset is None or self._pane.model is None:
            return
        self._from = self._place(offset.x, offset.y)
        self._kind = BLOCK if event.meta else CHARS
        self._pane.capture_mouse()

    def move(self, event: events.MouseMove) -> bool:
        """Drag on; whether a selection is being made."""
        pane = self._pane
        if self._from is None or pane.model is None:
            return False
        x, y = self._cell(event)
        if y < 0:
            pane.scroll_back(1)
        elif y >= pane.size.height:
            pane.scroll_back(-1)
        to = self._place(min(max(x, 0), pane.size.width - 1), min(max(y, 0), pane.size.height - 1))
        if to != self._from or self.dragged:
            self.dragged = True
            pane.select_text(Selection(self._from, to, self._kind))
        return True

    def release(self) -> str:
        """The button went up: what is selected, as text."""
        self._from = None
        self._pane.release_mouse()
        selected, model = self._pane.marks.selected, self._pane.model
        if not self.dragged or selected is None or model is None:
            return ""
        return selected.text(PaneText(model))

    def lost(self) -> None:
        """The button went up unseen: what is selected so far stays marked, and is not copied."""
        self._from = None

    @property
    def holds(self) -> bool:
        """The button is down."""
        return self._from is not None

    def click(self, event: events.Click) -> str:
        """A double click takes the word, a triple one the line; the text."""
        offset, model = event.get_content_offset(self._pane), self._pane.model
        if event.chain < 2 or offset is None or model is None:
            return ""
        text, place = PaneText(model), self._place(offset.x, offset.y)
        selection = word_at(text, place) if event.chain == 2 else Selection(place, place, LINES)
        self._pane.select_text(selection)
        return selection.text(text)

    def _cell(self, event: events.MouseEvent) -> tuple[int, int]:
        region = self._pane.content_region
        return int(event.screen_x) - region.x, int(event.screen_y) - region.y

    def _place(self, x: int, y: int) -> Place:
        assert self._pane.model is not None
        text = PaneText(self._pane.model)
        start = text.place_at(self._pane.row_at(y))
        return Place(start.line, start.column + x)
