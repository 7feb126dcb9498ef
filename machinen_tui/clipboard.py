"""What guests write to the clipboard and read of it (OSC 52), as far as the user lets them.

`tui.toml` says for whom: asked, allowed or denied. A guest is never asked about in a way that takes
keys: a note stands in its frame until the user decides. Reading is answered with what was last
copied here, and only if that was allowed as well: the clipboard itself is never read.
"""

from __future__ import annotations

import unicodedata
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING

from textual import events

from machinen_tui.config import POLICIES

if TYPE_CHECKING:
    from textual.timer import Timer

    from machinen_tui.app import MachinenApp
    from machinen_tui.roster import SandboxView

ASK, ALLOW, DENY = POLICIES
WRITE_EVERY_S = 0.25
"""A guest that is allowed to may write so often; of more only the newest counts."""


class Clipboard:
    """The clipboard of `app` as guests see it."""

    def __init__(self, app: MachinenApp) -> None:
        self._app = app
        self._timer: Timer | None = None
        self._newest: tuple[SandboxView, str] | None = None

    def serve(self, view: SandboxView) -> None:
        """Listen to what the guest of `view` wants from now on."""
        if view.session is not None:
            view.session.on_clipboard = partial(self.written, view)
            view.session.clipboard = partial(self.read, view)

    def policy_of(self, view: SandboxView) -> str:
        """What a guest may do: as decided since the start, else as the settings have it."""
        config = self._app.habits.config
        if view.clipboard_policy:
            return view.clipboard_policy
        if _matches(view.name, config.clipboard_deny):
            return DENY
        return ALLOW if _matches(view.name, config.clipboard_allow) else config.clipboard

    # -- what guests do ---------------------------------------------------------------------------

    def written(self, view: SandboxView, data: bytes) -> None:
        """A guest writes to the clipboard."""
        policy = self.policy_of(view)
        if policy == DENY or not data:
            return
        if len(data) > self._app.habits.config.clipboard_kib * 1024:
            self._app.say(f"{view.name} wrote more to the clipboard than is allowed", "warning")
        elif policy == ALLOW:
            self._write_soon(view, as_text(data))
        else:
            self._offer(view, as_text(data))

    def read(self, view: SandboxView) -> bytes | None:
        """A guest reads the clipboard; None: it gets no answer."""
        if not self._app.habits.config.clipboard_read or self.policy_of(view) != ALLOW:
            return None
        return self._app.clipboard.encode()

    def _offer(self, view: SandboxView, text: str) -> None:
        """Keep it until the user decides; say so once."""
        told, view.clipboard_offer = bool(view.clipboard_offer), text
        if (pane := self._app.grid.pane(view.key)) is not None:
            pane.update_frame()
        if not told:
            key = self._app.habits.keymap.shown("clipboard") or "/clipboard"
            self._app.say(f"{view.name} wants to copy {counted(text)}: {key} decides", "warning")

    def _write_soon(self, view: SandboxView, text: str) -> None:
        if self._timer is not None:
            self._newest = view, text
            return
        self._write(view, text)
        self._timer = self._app.set_timer(WRITE_EVERY_S, self._write_newest)

    def _write_newest(self) -> None:
        newest, self._newest, self._timer = self._newest, None, None
        if newest is not None:
            self._write_soon(*newest)

    def _write(self, view: SandboxView, text: str) -> None:
        self._app.copy_to_clipboard(text)
        self._app.say(f"{view.name} copied {counted(text)}")

    def paste(self) -> None:
        """Type what was last copied here into the attached pane, as the settings have it."""
        view, text, policy = (
            self._app.attachment.view, self._app.clipboard, self._app.habits.config.middle_click
        )  # fmt: skip
        pane = self._app.grid.pane(view.key) if view is not None else None
        if pane is None or view is None or not text or policy == "nothing":
            return
        typed = events.Paste(text)
        if policy == "paste" or pane.brackets_pastes or "\n" not in text.rstrip("\n"):
            self._app.attachment.take(typed)
            return

        from machinen_tui.widgets.dialogs import ConfirmDialog

        question = f"{view.name} would run each of these {counted(text)} at once."
        dialog = ConfirmDialog(f"paste {counted(text)} into {view.name}?", question)

        def answered(yes: bool | None) -> None:
            if yes:
                self._app.attachment.take(typed)

        self._app.push_screen(dialog, answered)

    # -- what the user decides --------------------------------------------------------------------

    def decide(self, view: SandboxView) -> None:
        """Ask what becomes of what the guest of `view` wants to copy."""
        from machinen_tui.widgets.clipboard_dialog import ClipboardDialog

        text = view.clipboard_offer

        def answered(decided: tuple[bool, str] | None) -> None:
            if decided is not None:
                self._decided(view, text, *decided)

        self._app.push_screen(ClipboardDialog(view.name, text), answered)

    def _decided(self, view: SandboxView, text: str, yes: bool, policy: str) -> None:
        view.clipboard_offer = ""
        if policy:
            view.clipboard_policy = policy
        if yes:
            self._write(view, text)
        else:
            later = " from now on" if policy else ""
            self._app.say(f"{view.name} copies nothing{later}")
        self._app.sandboxes_changed()

    def set_policy(self, view: SandboxView, policy: str) -> None:
        """Decide for a sandbox, until this application ends."""
        view.clipboard_policy = policy
        if policy == DENY:
            view.clipboard_offer = ""
        words = {ASK: "is asked about", ALLOW: "may write to", DENY: "never writes to"}
        told = f"{words[policy]} the clipboard" if policy != ASK else "the clipboard: it asks"
        self._app.say(f"{view.name}: {told}")
        self._app.sandboxes_changed()


def as_text(data: bytes) -> str:
    """What a guest copied as text: no control characters but line feeds and tabs."""
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc")


def counted(text: str) -> str:
    """`3 lines` or `12 characters`."""
    lines = text.rstrip("\n").count("\n") + 1
    return f"{lines} lines" if lines > 1 else f"{len(text)} characters"


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
