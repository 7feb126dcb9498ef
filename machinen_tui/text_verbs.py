"""Verbs about what stands in panes: copy mode, searching one or all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from machinen_tui.layout_verbs import LayoutVerbs
from machinen_tui.pane_text import Place

if TYPE_CHECKING:
    from machinen_tui.find_all import Hit


class TextVerbs(LayoutVerbs):
    """The part of `Verbs` that copies and searches."""

    def copy_mode(self) -> None:
        """Go through the selected pane by keys, select, copy."""
        if (view := self.selected_any()) is not None:
            self._app.copying.start(view)

    def search_pane(self) -> None:
        """Search the selected pane; the pattern is typed at the bottom."""
        if (view := self.selected_any()) is not None and self._app.copying.start(view):
            self._app.copying.ask(backwards=True)

    def search_all(self, typed: str = "") -> None:
        """Search every pane."""
        from machinen_tui.widgets.find_screen import FindScreen

        def answered(found: tuple[Hit, re.Pattern[str]] | None) -> None:
            if found is not None:
                self.go_to_hit(*found)

        self._app.push_screen(FindScreen(self._app.roster.shown(), typed), answered)

    def go_to_hit(self, hit: Hit, pattern: re.Pattern[str]) -> None:
        """Show the line a search found, in copy mode."""
        self._app.select(hit.view.key)

        def show() -> None:
            place = Place(hit.match.line, hit.match.start)
            if (mode := self._app.copying.start(hit.view, place)) is not None:
                mode.pattern = pattern
                self._app.copying.refresh()

        self._app.call_after_refresh(show)  # its pane may come on screen only now
