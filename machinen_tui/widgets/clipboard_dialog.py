"""What a guest wants to copy: seen, then decided."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Static

from machinen_tui.clipboard import ALLOW, DENY, counted
from machinen_tui.terminal_text import safe_to_draw
from machinen_tui.widgets.dialogs import Dialog, KeyHint, plain

SHOWN_LINES, SHOWN_COLUMNS = 8, 66


class ClipboardDialog(Dialog[tuple[bool, str]]):
    """Answers whether it is copied, and the policy for this sandbox from now on, or empty."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "decide(True, '')", show=False),
        Binding("n,enter", "decide(False, '')", show=False),
        Binding("a", f"decide(True, '{ALLOW}')", show=False),
        Binding("d", f"decide(False, '{DENY}')", show=False),
    ]

    def __init__(self, name: str, text: str) -> None:
        super().__init__()
        self._name, self._text = name, text

    def title_text(self) -> str:
        return plain(f"{self._name} wants to copy {counted(self._text)}")

    def fields(self) -> ComposeResult:
        lines = self._text.expandtabs().split("\n")
        shown = [safe_to_draw(line[:SHOWN_COLUMNS]) for line in lines[:SHOWN_LINES]]
        more = ["…"] if len(lines) > SHOWN_LINES else []
        yield Static("\n".join([*shown, *more]), markup=False)

    def keys(self) -> Sequence[KeyHint]:
        return (("y", "y copy"), ("a", "a always"), ("n", "n no"), ("d", "d never"))

    def action_decide(self, yes: bool, policy: str) -> None:
        self.dismiss((yes, policy))
