"""The frame of every question, and the two that are no forms: are you sure, which snapshot."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar, cast

from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from machinen_tui.gateway import SnapshotInfo

Answer = TypeVar("Answer")
KeyHint = tuple[str, str]
"""Textual's name of a key, and what is shown for it."""


class Dialog(ModalScreen[Answer | None], Generic[Answer]):
    """A frame in the middle. Escape answers None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", show=False),
        Binding("tab", "focus_next_field", show=False, priority=True),
        Binding("shift+tab", "focus_previous_field", show=False, priority=True),
    ]
    TITLE_TEXT = ""
    SHAPE = "dialog"
    """Its classes in app.tcss."""

    def compose(self) -> ComposeResult:
        with Vertical(classes=self.SHAPE) as box:
            box.border_title = self.title_text()
            box.border_subtitle = clickable(self.keys())
            yield from self.fields()
            yield Static("", id="problem", classes="-empty", markup=False)

    def action_focus_next_field(self) -> None:
        """At once, so that what is typed right after it goes into the next field."""
        self.focus_next()

    def action_focus_previous_field(self) -> None:
        self.focus_previous()

    def action_press(self, key: str) -> None:
        """A click on a key in the frame is as good as the key."""
        app = cast("App[object]", self.app)  # pyright: ignore[reportUnknownMemberType]
        app.simulate_key(key)

    def title_text(self) -> str:
        """What stands in the frame."""
        return self.TITLE_TEXT

    def keys(self) -> Sequence[KeyHint]:
        """The keys that work, for the frame; each can be clicked."""
        return (("enter", "enter accept"), ("tab", "tab next"), ("escape", "esc cancel"))

    def fields(self) -> ComposeResult:
        """What stands between the frame's title and its last line."""
        raise NotImplementedError

    def say(self, text: str, *, wrong: bool = False) -> None:
        """A line at the bottom: what a field takes, or why the answer cannot be taken."""
        line = self.query_one("#problem", Static)
        if text != line.content:
            line.update(text)
        line.update_classes({"-empty": False, "-calm": not wrong})


class FilteredDialog(Dialog[Answer]):
    """A dialog over a list that the field `#filter` narrows."""

    def action_leave(self) -> None:
        """Drop the filter, or close."""
        field = self.query_one("#filter", Input)
        if field.value:
            field.value = ""
        else:
            self.dismiss(None)


class TextDialog(Dialog[Answer]):
    """A title and a text, nothing to fill in."""

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._title, self._text = title, text

    def title_text(self) -> str:
        return plain(self._title)

    def fields(self) -> ComposeResult:
        yield Static(self._text, markup=False)


class ConfirmDialog(TextDialog[bool]):
    """Yes or no; Enter alone means no harm."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", show=False),
        Binding("n,enter", "dismiss(False)", show=False),
    ]

    def keys(self) -> Sequence[KeyHint]:
        return (("y", "y does it"), ("n", "n or esc does not"))


class NoteDialog(TextDialog[None]):
    """A text to read, such as what the keys of a screen do."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,enter,question_mark", "dismiss(None)", show=False)
    ]

    def keys(self) -> Sequence[KeyHint]:
        return (("escape", "esc closes"),)


class SnapshotDialog(Dialog[SnapshotInfo]):
    """Which snapshot to restore; it is the last answer."""

    TITLE_TEXT = "restore a snapshot"

    def __init__(self, snapshots: Sequence[SnapshotInfo]) -> None:
        super().__init__()
        self._snapshots = list(snapshots)

    def fields(self) -> ComposeResult:
        width = max((len(info.name) for info in self._snapshots), default=0)
        rows = [
            Option(plain(f"{info.name.ljust(width)}   {when(info.taken_at_ms)}"))
            for info in self._snapshots
        ]
        yield OptionList(*rows, compact=True)

    def keys(self) -> Sequence[KeyHint]:
        return (("enter", "enter restore"), ("escape", "esc cancel"))

    @on(OptionList.OptionSelected)
    def accept(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._snapshots[event.option_index])


def clickable(hints: Sequence[KeyHint]) -> str:
    """Markup for a frame: each hint presses its key when it is clicked (the screen's `press`). Its
    first word is the key."""
    return "  ".join(f"[@click=screen.press('{key}')]{_key_first(text)}[/]" for key, text in hints)


def _key_first(text: str) -> str:
    word, _, rest = text.partition(" ")
    return f"[bold $accent]{word}[/] {rest}"


def plain(text: str) -> str:
    """`text` for a place that reads markup: none of it is taken for such."""
    return text.replace("[", "\\[")


def when(taken_at_ms: float) -> str:
    """A moment as a day and a time of day."""
    return time.strftime("%d %b %H:%M:%S", time.localtime(taken_at_ms / 1000))
