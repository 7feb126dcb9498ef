"""The questions the application asks: a new sandbox, how many forks, which snapshot, are you
sure."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, TypeVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Label, OptionList, Static
from textual.widgets.option_list import Option

from machinen_tui.runtime_gateway import NewSandbox, SnapshotInfo

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """How many siblings, and what they are called (empty: after the source)."""

    count: int
    name: str


class Dialog(ModalScreen[Answer | None], Generic[Answer]):
    """A frame in the middle. Escape answers None."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", show=False),
        Binding("tab", "focus_next_field", show=False, priority=True),
        Binding("shift+tab", "focus_previous_field", show=False, priority=True),
    ]
    TITLE_TEXT = ""
    HINT = "enter accepts · tab next · esc cancels"

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog") as box:
            box.border_title = self.title_text()
            box.border_subtitle = self.HINT
            yield from self.fields()
            yield Static("", id="problem", markup=False)

    def action_focus_next_field(self) -> None:
        """At once, so that what is typed right after it goes into the next field."""
        self.focus_next()

    def action_focus_previous_field(self) -> None:
        self.focus_previous()

    def title_text(self) -> str:
        """What stands in the frame."""
        return self.TITLE_TEXT

    def fields(self) -> ComposeResult:
        """The inputs, top to bottom."""
        raise NotImplementedError

    def problem(self, text: str) -> None:
        """Say why the answer cannot be taken."""
        self.query_one("#problem", Static).update(text)

    def value(self, name: str) -> str:
        """What was typed into field `name`."""
        return self.query_one(f"#{name}", Input).value.strip()


def _field(name: str, label: str, placeholder: str, value: str = "") -> ComposeResult:
    with Vertical(classes="field"):
        yield Label(label)
        yield Input(value, placeholder=placeholder, id=name, compact=True)


class NewSandboxDialog(Dialog[NewSandbox]):
    """Name, command, memory, ports, image; all may stay empty."""

    TITLE_TEXT = "new sandbox"

    def fields(self) -> ComposeResult:
        yield from _field("name", "name", "chosen for you")
        yield from _field("cmd", "command", "a login shell")
        yield from _field("memory", "memory MiB", "by the size of this machine")
        yield from _field("ports", "ports", "8080:80 2222:22")
        yield from _field("image", "image", "the base, Debian 13")

    @on(Input.Submitted)
    def accept(self) -> None:
        try:
            self.dismiss(self._answer())
        except ValueError as error:
            self.problem(str(error))

    def _answer(self) -> NewSandbox:
        memory = self.value("memory")
        if memory and not memory.isdecimal():
            raise ValueError("memory is a number of MiB")
        return NewSandbox(
            name=self.value("name"),
            image=self.value("image"),
            cmd=shlex.split(self.value("cmd")),
            memory_mib=int(memory) if memory else None,
            ports=[parse_port(text) for text in self.value("ports").replace(",", " ").split()],
        )


class ForkDialog(Dialog[ForkRequest]):
    """How many, and under which name."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self._source = source

    def title_text(self) -> str:
        return f"fork {self._source}".replace("[", "\\[")

    def fields(self) -> ComposeResult:
        yield from _field("count", "how many", "1 to 64", "3")
        yield from _field("name", "names start", f"{self._source}-fork")

    @on(Input.Submitted)
    def accept(self) -> None:
        count = self.value("count")
        if not count.isdecimal() or not 1 <= int(count) <= 64:
            self.problem("a fork makes 1 to 64 siblings")
            return
        self.dismiss(ForkRequest(int(count), self.value("name")))


class ConfirmDialog(Dialog[bool]):
    """Yes or no; Enter alone means no harm."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "dismiss(True)", show=False),
        Binding("n,enter", "dismiss(False)", show=False),
    ]
    HINT = "y does it · n or esc does not"

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._title, self._text = title, text

    def title_text(self) -> str:
        return self._title.replace("[", "\\[")

    def fields(self) -> ComposeResult:
        yield Static(self._text, markup=False)


class SnapshotDialog(Dialog[SnapshotInfo]):
    """Which snapshot to restore; it is the last answer."""

    TITLE_TEXT = "restore a snapshot"
    HINT = "enter restores · esc cancels"

    def __init__(self, snapshots: Sequence[SnapshotInfo]) -> None:
        super().__init__()
        self._snapshots = list(snapshots)

    def fields(self) -> ComposeResult:
        width = max((len(info.name) for info in self._snapshots), default=0)
        rows = [
            Option(f"{info.name.ljust(width)}   {_when(info.taken_at_ms)}".replace("[", "\\["))
            for info in self._snapshots
        ]
        yield OptionList(*rows, compact=True)

    @on(OptionList.OptionSelected)
    def accept(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(self._snapshots[event.option_index])


def parse_port(text: str) -> tuple[int, int]:
    """`8080:80` → (8080, 80); `80` → (80, 80)."""
    host, _, guest = text.partition(":")
    if not host.isdecimal() or not (guest or host).isdecimal():
        raise ValueError(f"a port is HOST:GUEST, not {text}")
    return int(host), int(guest or host)


def _when(taken_at_ms: float) -> str:
    return time.strftime("%d %b %H:%M:%S", time.localtime(taken_at_ms / 1000))
