"""A dialog drawn from a form: checked while somebody types, accepted when nothing is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, TypeVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import Input, Label

from machinen_tui.forms import Field, Form, Problem
from machinen_tui.widgets.choice import Choice
from machinen_tui.widgets.dialogs import Dialog, KeyHint, plain

Answer = TypeVar("Answer")


class FormDialog(Dialog[Answer]):
    """Answers with the form's record, or None."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+r", "reset", show=False, priority=True)]

    def __init__(self, form: Form[Answer], blank: dict[str, str] | None = None) -> None:
        super().__init__()
        self._form = form
        self.answered: dict[str, str] = {}
        """What was typed, once it was accepted."""
        self._tried = False
        """Whether it was to be accepted: until something is typed, nobody is blamed."""
        self._blank = blank
        """What Ctrl-R puts into the fields, if they were filled with earlier answers."""

    def title_text(self) -> str:
        return plain(self._form.title)

    def keys(self) -> Sequence[KeyHint]:
        empties = [("ctrl+r", "ctrl-r empties")] if self._blank is not None else []
        accept = ("enter", f"enter {self._form.accept}")
        return (accept, ("tab", "tab next"), *empties, ("escape", "esc cancel"))

    def fields(self) -> ComposeResult:
        with VerticalScroll(id="fields", can_focus=False):
            for each in self._form.fields:
                with Horizontal(classes="field"):
                    yield Label(each.label)
                    yield _widget(each)

    def on_mount(self) -> None:
        self.query_one(f"#{self._form.fields[0].name}").focus()
        self._judge()

    def values(self) -> dict[str, str]:
        """What the fields hold now."""
        return {each.name: self._value(each) for each in self._form.fields}

    def _value(self, each: Field) -> str:
        if each.choices:
            return self.query_one(f"#{each.name}", Choice).value
        return self.query_one(f"#{each.name}", Input).value.strip()

    @on(Input.Changed)
    @on(Choice.Changed)
    def _typed(self) -> None:
        self._judge()

    def on_descendant_focus(self) -> None:
        self._judge()

    def _judge(self) -> Problem | None:
        """Say what is wrong, or else what the field at the cursor takes."""
        answer = self._form.answer(self.values())
        problem = answer if isinstance(answer, Problem) else None
        blamed = problem is not None and (self._tried or self.values() != self._form.defaults())
        for each in self._form.fields:
            wrong = blamed and problem is not None and problem.field == each.name
            self.query_one(f"#{each.name}").set_class(wrong, "-wrong")
        self.say(problem.text if problem else self._hint(), wrong=blamed)
        return problem

    def _hint(self) -> str:
        focused = self.focused.id if self.focused is not None else ""
        return next((each.hint for each in self._form.fields if each.name == focused), "")

    @on(Input.Submitted)
    @on(Choice.Submitted)
    def accept(self) -> None:
        """Answer, unless something is wrong: then go where it is."""
        self._tried = True
        problem = self._judge()
        if problem is not None:
            if problem.field:
                self.query_one(f"#{problem.field}").focus()
            return
        self.answered = self.values()
        answer: Any = self._form.answer(self.answered)
        self.dismiss(answer)

    def action_reset(self) -> None:
        """Empty every field."""
        for name, value in (self._blank or {}).items():
            widget: Any = self.query_one(f"#{name}")
            widget.value = value


def _widget(each: Field) -> Input | Choice:
    if each.choices:
        return Choice(each.choices, each.value, id=each.name)
    return Input(each.value, placeholder=each.placeholder, id=each.name, compact=True)
