"""Pairs of name and value for a guest. Values are drawn as dots, and go nowhere but there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widgets import Input, Label, Static

from machinen_tui.widgets.dialogs import Dialog, KeyHint, plain

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
"""What the guest takes: names a shell knows, docs/protocol.md 3.4."""


class SecretsDialog(Dialog[dict[str, str]]):
    """Enter after a value takes the pair, Enter in an empty form sends all."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+s", "send", show=False, priority=True),
        Binding("ctrl+x", "drop", show=False, priority=True),
    ]

    def __init__(self, name: str) -> None:
        super().__init__()
        self._subject = name
        self._pairs: dict[str, str] = {}

    def title_text(self) -> str:
        return plain(f"secrets for {self._subject}")

    def keys(self) -> Sequence[KeyHint]:
        return (("enter", "enter takes it"), ("ctrl+s", "ctrl-s sends"),
                ("ctrl+x", "ctrl-x drops one"), ("escape", "esc cancel"))  # fmt: skip

    def fields(self) -> ComposeResult:
        text = "They become /etc/machinen.env there and replace earlier ones."
        yield Static(text, id="about", markup=False)
        yield Static("", id="pairs", markup=False)
        with Horizontal(classes="field"):
            yield Label("name")
            yield Input(placeholder="API_KEY", id="key", compact=True)
        with Horizontal(classes="field"):
            yield Label("value")
            yield Input(placeholder="never shown, never kept", password=True, id="secret",
                        compact=True)  # fmt: skip

    def on_mount(self) -> None:
        self.query_one("#key").focus()
        self._show_pairs()

    @on(Input.Changed, "#key")
    def _typed(self, event: Input.Changed) -> None:
        """What follows an `=` belongs to the value, where it cannot be seen."""
        name, separator, value = event.value.partition("=")
        if separator:
            event.input.value = name
            secret = self.query_one("#secret", Input)
            secret.value = value
            secret.focus()
        self.say("")

    @on(Input.Submitted, "#key")
    def _named(self, event: Input.Submitted) -> None:
        if event.value.strip():
            self.query_one("#secret").focus()
        else:
            self.action_send()

    @on(Input.Submitted, "#secret")
    def _take(self) -> None:
        self._take_pair()

    def _take_pair(self) -> bool:
        """Move what is typed to the pairs. False if it cannot be taken."""
        key, secret = self.query_one("#key", Input), self.query_one("#secret", Input)
        name = key.value.strip()
        if not NAME.match(name):
            self.say("a name is letters, digits and _, and begins with no digit", wrong=True)
            key.focus()
            return False
        self._pairs[name] = secret.value
        key.value = secret.value = ""
        key.focus()
        self._show_pairs()
        return True

    def action_send(self) -> None:
        """Send the pairs, the one being typed among them."""
        typed = (
            self.query_one("#key", Input).value.strip() or self.query_one("#secret", Input).value
        )
        if typed and not self._take_pair():
            return
        if not self._pairs:
            self.say("type a name and a value first", wrong=True)
            return
        pairs, self._pairs = self._pairs, {}
        self.dismiss(pairs)

    def action_drop(self) -> None:
        if self._pairs:
            self._pairs.popitem()
            self._show_pairs()

    def _show_pairs(self) -> None:
        rows = [f"  {name} = ••••••" for name in self._pairs]
        self.query_one("#pairs", Static).update("\n".join(rows) or "  none yet")
