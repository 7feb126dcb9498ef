"""Verbs about what stands in panes: copy mode, searching one or all."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from machinen_tui.layout_verbs import LayoutVerbs
from machinen_tui.pane_text import PaneText, Place
from machinen_tui.selection import LINES, Selection

if TYPE_CHECKING:
    from machinen_tui.find_all import Hit
    from machinen_tui.roster import SandboxView


class TextVerbs(LayoutVerbs):
    """The part of `Verbs` that copies and searches."""

    def copy_mode(self) -> None:
        """Go through the selected pane by keys, select, copy."""
        if (view := self.selected_any()) is not None:
            self._app.copying.start(view)

    def step_prompt(self, by: int) -> None:
        """Scroll the selected pane to the prompt before or after."""
        view = self.selected_any()
        pane = self._app.grid.pane(view.key) if view is not None else None
        if pane is not None and not pane.step_prompt(by) and by < 0:
            self._app.say("no prompt further up; shells mark theirs with OSC 133", "warning")

    def copy_output(self, view: SandboxView) -> None:
        """Copy what the last command of a sandbox wrote."""
        model = view.session.model if view.session is not None else None
        command = model.prompts.done() if model is not None else None
        lines = command.output_lines if command is not None else None
        if model is None or lines is None:
            self._app.say(f"{view.name} has marked no command's output (OSC 133)", "warning")
            return
        text = PaneText(model)
        chosen = Selection(Place(max(lines[0], text.first), 0), Place(lines[1], 0), LINES)
        self._app.copying.copy_text(chosen.text(text))

    # -- the clipboard and guests -----------------------------------------------------------------

    def clipboard(self) -> None:
        """Decide on what the selected sandbox, or the first that asks, wants to copy."""
        views = self._app.roster.shown()
        asking = [view for view in views if view.clipboard_offer]
        selected = self._app.selected_view
        view = selected if selected in asking else next(iter(asking), None)
        if view is None:
            self._app.say("no sandbox wants to copy anything")
        else:
            self._app.clipboard_door.decide(view)

    def clipboard_policy(self, view: SandboxView, policy: str) -> None:
        """What a sandbox may do with the clipboard until this application ends."""
        self._app.clipboard_door.set_policy(view, policy)

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
