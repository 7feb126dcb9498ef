"""Verbs about what is typed where: read-only, locked, one key as it is; and who wants attention."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machinen_tui import attention
from machinen_tui.layout_verbs import LayoutVerbs

if TYPE_CHECKING:
    from machinen_tui.roster import SandboxView

MAX_TITLE = 64


class TypingVerbs(LayoutVerbs):
    """The part of `Verbs` that guards what is typed, and watches what is written."""

    def read_only(self) -> None:
        """Refuse whatever is typed into the selected sandbox, or take it again."""
        if (view := self.selected_live()) is not None:
            view.read_only = not view.read_only
            said = "nothing can be typed into it" if view.read_only else "it takes keys again"
            self._app.say(f"{view.name}: {said}")
            self._app.sandboxes_changed()

    def lock(self) -> None:
        """Every key belongs to the guest, ours as well; three Ctrl-] get out."""
        if (view := self.selected_live()) is not None:
            view.locked = not view.locked
            said = "every key is the guest's; Ctrl-] three times leaves" if view.locked else (
                "Ctrl-] twice leaves again"
            )  # fmt: skip
            self._app.say(f"{view.name}: {said}")
            self._app.sandboxes_changed()

    def send_key(self) -> None:
        """The next key goes to the selected sandbox as it is."""
        if (view := self.selected_live()) is not None:
            self._app.attachment.send_next(view)

    def title(self, view: SandboxView, text: str) -> None:
        """A title of one's own in the frame; empty: the guest's again."""
        view.own_title = "".join(c for c in text if c.isprintable())[:MAX_TITLE]
        self._app.sandboxes_changed()

    # -- attention --------------------------------------------------------------------------------

    def next_attention(self) -> None:
        """Select the sandbox that wants attention most."""
        view = attention.next_wanting(self._app.roster.shown(), self._app.list.selected)
        if view is None:
            self._app.say("nothing wants attention")
            return
        reason = attention.WORDS[attention.why(view)]
        self._app.select(view.key)
        self._app.say(f"{view.name} {reason}")

    def watch_silence(self, view: SandboxView, seconds: int | None) -> None:
        """Say when it wrote nothing for `seconds`; None: the default, or off if it is on."""
        if seconds is None:
            seconds = 0 if view.news.silence_s else attention.DEFAULT_SILENCE_S
        view.news.silence_s = seconds
        said = f"a badge after {seconds} s without output" if seconds else "silence is not told"
        self._app.say(f"{view.name}: {said}")
