"""Copy mode of an application: which pane is in it, its keys, and the line one searches with.

What is copied goes to the clipboard of the user's terminal (OSC 52), because the user asked for it;
for what guests write see `clipboard`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import events

if TYPE_CHECKING:
    from machinen_tui.app import MachinenApp
    from machinen_tui.copy_mode import CopyMode
    from machinen_tui.pane_text import PaneText, Place
    from machinen_tui.roster import SandboxView
    from machinen_tui.selection import Selection
    from machinen_tui.widgets.terminal_pane import TerminalPane

LEAVES = ("escape", "q", "ctrl+c")
COPIES = ("enter", "y")
SEARCHES = {"slash": False, "question_mark": True}
"""Key → whether it searches backwards."""


class Copying:
    """Copy mode in one pane of `app`, if one is in it."""

    def __init__(self, app: MachinenApp) -> None:
        self._app = app
        self.key: str | None = None
        self.prompt: str | None = None
        """The pattern while it is being typed."""
        self._backwards = True

    @property
    def pane(self) -> TerminalPane | None:
        """The pane in copy mode."""
        return self._app.grid.pane(self.key) if self.key else None

    @property
    def mode(self) -> CopyMode | None:
        """Its state."""
        pane = self.pane
        return pane.marks.copy if pane is not None else None

    @property
    def says(self) -> str:
        """The line at the bottom: the pattern being typed, what a search said, or the keys."""
        mode = self.mode
        if self.prompt is not None:
            return f"{'?' if self._backwards else '/'}{self.prompt}▏"
        return mode.note if mode is not None else ""

    def start(self, view: SandboxView, at: Place | None = None) -> CopyMode | None:
        """Begin in the pane of `view`: at the terminal's cursor, or at a place."""
        from machinen_tui.copy_mode import CopyMode

        pane = self._app.grid.pane(view.key)
        model = pane.model if pane is not None else None
        if pane is None or model is None or not pane.size.height:
            self._app.say(f"{view.name} has nothing to copy from yet", "warning")
            return None
        self._app.attachment.leave()
        self.leave()
        text = _text_of(pane)
        cursor = at if at is not None else text.place_at(model.terminal.cursor.y - pane.back)
        mode = CopyMode(lambda: _text_of(pane), cursor, pane.size.height)
        if at is None and pane.back:
            mode.go_to(text.place_at(-pane.back + pane.size.height - 1))
        self.key = view.key
        pane.show_copy_mode(mode)
        self._app.show_selected()
        return mode

    def leave(self) -> None:
        """Back to what the guest writes now."""
        pane, self.key, self.prompt = self.pane, None, None
        if pane is not None:
            pane.show_copy_mode(None)
        self._app.show_selected()

    def take(self, event: events.Event) -> bool:
        """Handle a key or a paste in copy mode. Whether it was one."""
        mode = self.mode
        if mode is None or len(self._app.screen_stack) > 1:
            return False
        if isinstance(event, events.Paste):
            if self.prompt is not None:
                self.prompt += event.text.split("\n")[0]
                self.refresh()
            return True
        if not isinstance(event, events.Key):
            return False
        if self.prompt is not None:
            self._take_prompt_key(mode, event)
        else:
            self._take_key(mode, event.key)
        return True

    def _take_key(self, mode: CopyMode, key: str) -> None:
        from machinen_tui.selection import Selection

        if key in LEAVES:
            self.leave()
        elif key in COPIES:
            self.copy(mode.selection, Selection(mode.cursor, mode.cursor, "lines"))
            self.leave()
        elif key in SEARCHES:
            self.ask(backwards=SEARCHES[key])
        else:
            if not mode.take_key(key):
                mode.note = f"{key} does nothing here; esc leaves"
            self.refresh()

    def _take_prompt_key(self, mode: CopyMode, event: events.Key) -> None:
        assert self.prompt is not None
        if event.key == "escape":
            self.prompt = None
        elif event.key == "enter":
            pattern, self.prompt = self.prompt, None
            self._search(mode, pattern)
        elif event.key == "backspace":
            self.prompt = self.prompt[:-1] if self.prompt else None
        elif event.character is not None and event.character.isprintable():
            self.prompt += event.character
        self.refresh()

    def _search(self, mode: CopyMode, pattern: str) -> None:
        from machinen_tui.pane_search import compiled

        if not pattern and mode.pattern is not None:
            mode.search(mode.pattern, backwards=self._backwards)
            return
        try:
            mode.search(compiled(pattern), backwards=self._backwards)
        except ValueError as error:
            mode.note = str(error)

    def ask(self, *, backwards: bool) -> None:
        """Ask for what to search for."""
        self.prompt, self._backwards = "", backwards
        self.refresh()

    def refresh(self) -> None:
        """Show what changed: the pane and the line at the bottom."""
        if (pane := self.pane) is not None:
            pane.show_copy_mode(pane.marks.copy)
        self._app.show_selected()

    def copy(self, selection: Selection | None, otherwise: Selection | None = None) -> None:
        """Copy what is selected in the pane that is in copy mode; nothing selected: its line."""
        pane = self.pane
        if pane is not None and pane.model is not None and (selection or otherwise):
            chosen = selection or otherwise
            assert chosen is not None
            self.copy_text(chosen.text(_text_of(pane)))

    def copy_text(self, text: str) -> None:
        """To the clipboard; says how much it was."""
        from machinen_tui.selection import MAX_COPIED

        if not text:
            self._app.say("nothing but blanks: not copied", "warning")
            return
        self._app.copy_to_clipboard(text)
        lines = text.rstrip("\n").count("\n") + 1
        cut = ", cut there" if len(text) >= MAX_COPIED else ""
        size = f"{lines} lines" if lines > 1 else f"{len(text)} characters"
        self._app.say(f"copied {size}{cut}, if the terminal takes OSC 52")


def _text_of(pane: TerminalPane) -> PaneText:
    from machinen_tui.pane_text import PaneText

    assert pane.model is not None  # a session that had a terminal keeps one
    return PaneText(pane.model)
