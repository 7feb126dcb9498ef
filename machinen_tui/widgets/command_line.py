"""The command line at the bottom: an input, its completions above it; Tab takes one over."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.widgets import Input, Static

from machinen_tui.commands import BY_NAME, completions
from machinen_tui.messages import CommandClosed, CommandEntered
from machinen_tui.roster import Roster

SHOWN = 8


class CommandLine(Vertical):
    """Opened by `/`, closed by Enter or Escape."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "close", show=False),
        Binding("tab", "complete(1)", show=False, priority=True),
        Binding("shift+tab", "complete(-1)", show=False, priority=True),
    ]

    def __init__(self, roster: Roster) -> None:
        super().__init__(id="command")
        self._roster = roster
        self._offers: list[str] = []
        self._offered = -1
        self._taking = False

    def compose(self) -> ComposeResult:
        yield Static("", id="offers", markup=False)
        yield Input(id="command-input", compact=True, select_on_focus=False)

    def on_mount(self) -> None:
        field = self.query_one(Input)
        field.value = "/"
        field.cursor_position = 1

    def take_keys(self) -> None:
        """What is typed from now on goes into the line."""
        self.screen.set_focus(self.query_one(Input))

    def on_input_changed(self, event: Input.Changed) -> None:
        event.stop()
        if self._taking:
            self._taking = False
            return
        self._offers = completions(event.value, self._roster)
        self._offered = -1
        self._show_offers()

    def _show_offers(self) -> None:
        words = [offer.split(" ")[-1].removeprefix("/") for offer in self._offers[:SHOWN]]
        typed = self.query_one(Input).value.removeprefix("/").split(" ")[0]
        command = BY_NAME.get(typed)
        text = "  ".join(words)
        if command is not None and len(words) <= 1:
            text = f"{command.usage}   {command.help}"
        self.query_one("#offers", Static).update(text, layout=False)  # a row, whatever it says

    def action_complete(self, step: int) -> None:
        if not self._offers:
            return
        self._offered = (self._offered + step) % len(self._offers)
        field = self.query_one(Input)
        self._taking = field.value != self._offers[self._offered]
        field.value = self._offers[self._offered]
        field.cursor_position = len(field.value)
        if len(self._offers) == 1:
            self._taking = False
            field.value += " "
            field.cursor_position = len(field.value)

    def action_close(self) -> None:
        self.post_message(CommandClosed())

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        self.post_message(CommandEntered(event.value))

    def on_click(self, event: events.Click) -> None:
        event.stop()
