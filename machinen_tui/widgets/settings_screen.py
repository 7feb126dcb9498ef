"""The files of settings: where they are, what is wrong in them, what they change. Read again from
here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

from rich.console import Group, RenderableType
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from machinen_tui.config import FIELDS, toml_value
from machinen_tui.details import Row
from machinen_tui.habits import Habits
from machinen_tui.widgets.details_screen import table_of
from machinen_tui.widgets.dialogs import Dialog, KeyHint


class SettingsScreen(Dialog[None]):
    """Shows `habits`; `reload` reads the files again."""

    TITLE_TEXT = "settings"
    SHAPE = "dialog -wide"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "reload", show=False),
        Binding("q,K", "dismiss(None)", show=False),
    ]

    def __init__(self, habits: Habits, reload: Callable[[], None]) -> None:
        super().__init__()
        self._habits, self._reload = habits, reload

    def keys(self) -> Sequence[KeyHint]:
        return (("r", "r reads the files again"), ("escape", "esc closes"))

    def fields(self) -> ComposeResult:
        with VerticalScroll():
            yield Static(self._drawn(), id="facts")

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()

    def action_reload(self) -> None:
        """Read the files again and show what they say now."""
        self._reload()
        self.query_one("#facts", Static).update(self._drawn())
        self.say("read again")

    def _drawn(self) -> RenderableType:
        problems = [Text(f"{problem}", style="bold") for problem in self._habits.problems]
        none = [Text("nothing is wrong in them")]
        moved = [Text(line) for line in self._habits.keymap.moved()]
        return Group(table_of(file_rows(self._habits)), Text(""), *(problems or none), *moved,
                     Text(""), table_of(setting_rows(self._habits)))  # fmt: skip


def file_rows(habits: Habits) -> list[Row]:
    """Where the files are, and whether."""
    rows: list[Row] = []
    for label, path in (("settings", habits.config_path), ("keys", habits.keys_path)):
        if path is None:
            rows.append((label, "none is read"))
        else:
            rows.append((label, f"{path}" + ("" if path.exists() else "   (there is none)")))
    commands = "`machinen-tui config` and `machinen-tui config keys` print what to put there"
    return [*rows, ("", commands)]


def setting_rows(habits: Habits) -> list[Row]:
    """Every setting with its value, marked where it is not the default."""
    rows: list[Row] = []
    for key, each in FIELDS.items():
        value: object = getattr(habits.config, each.name)
        mark = "" if value == each.default else "   (changed)"
        rows.append((key, toml_value(value) + mark))
    return rows
