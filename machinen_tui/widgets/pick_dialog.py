"""One of several lines: typing narrows them, Enter takes the highlighted one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from machinen_tui.widgets.dialogs import Dialog, KeyHint, plain


@dataclass(frozen=True, slots=True)
class Choice:
    """One line, and what choosing it answers."""

    value: str
    label: str


class PickDialog(Dialog[str]):
    """Answers the value of the chosen line."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "step(1)", show=False, priority=True),
        Binding("up", "step(-1)", show=False, priority=True),
    ]

    def __init__(self, title: str, choices: Sequence[Choice], verb: str) -> None:
        super().__init__()
        self._title, self._verb = title, verb
        self._choices = list(choices)
        self._offered = list(choices)

    def title_text(self) -> str:
        return plain(self._title)

    def keys(self) -> Sequence[KeyHint]:
        return (("enter", f"enter {self._verb}"), ("escape", "esc cancel"))

    def fields(self) -> ComposeResult:
        yield Input(id="pick", placeholder="type to narrow", compact=True)
        yield OptionList(*self._options(), compact=True)

    def on_mount(self) -> None:
        self.query_one(OptionList).highlighted = 0
        self.query_one(Input).focus()

    def _options(self) -> list[Option]:
        return [Option(plain(choice.label)) for choice in self._offered]

    @on(Input.Changed)
    def narrow(self, event: Input.Changed) -> None:
        event.stop()
        wanted = event.value.lower()
        self._offered = [each for each in self._choices if wanted in each.label.lower()]
        rows = self.query_one(OptionList)
        rows.clear_options()
        rows.add_options(self._options())
        rows.highlighted = 0 if self._offered else None
        self.say("" if self._offered else "nothing of that name", wrong=not self._offered)

    def action_step(self, by: int) -> None:
        rows = self.query_one(OptionList)
        if self._offered:
            rows.highlighted = ((rows.highlighted or 0) + by) % len(self._offered)

    @on(Input.Submitted)
    def accept(self) -> None:
        highlighted = self.query_one(OptionList).highlighted
        if highlighted is not None and highlighted < len(self._offered):
            self.dismiss(self._offered[highlighted].value)

    @on(OptionList.OptionSelected)
    def accept_clicked(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._offered[event.option_index].value)
