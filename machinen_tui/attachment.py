"""Attached mode: which sandbox has the keys. Every key goes there in the order it came, before any
binding sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import events

from machinen_tui.keys import ESCAPE_KEY

if TYPE_CHECKING:
    from textual.screen import Screen

    from machinen_tui.app import MachinenApp
    from machinen_tui.roster import SandboxView


class Attachment:
    """The attached sandbox of one application, if there is one."""

    def __init__(self, app: MachinenApp) -> None:
        self._app = app
        self.key: str | None = None
        self.broadcasting = False

    @property
    def mode(self) -> str:
        """`navigate`, `attached` or `broadcast`."""
        if self.key is None:
            return "navigate"
        return "broadcast" if self.broadcasting else "attached"

    @property
    def view(self) -> SandboxView | None:
        """The attached sandbox."""
        return self._app.roster.sandboxes.get(self.key or "")

    @property
    def _base(self) -> Screen[object]:
        """The screen with the panes: a dialog or the palette may be above it."""
        return self._app.screen_stack[0]

    def attach(self, view: SandboxView, *, broadcast: bool = False) -> None:
        """Every key goes to `view` from now on; with `broadcast` to all marked ones."""
        pane = self._app.grid.pane(view.key)
        if pane is None or view.gone:
            self._app.say(f"{view.name} has ended", "warning")
            return
        self.leave()
        self.key, self.broadcasting = view.key, broadcast
        self._app.select(view.key)
        pane.set_attached(True)
        self._base.set_focus(pane)
        self._base.set_class(broadcast, "-broadcast")
        self._app.show_selected()

    def leave(self) -> None:
        """Give the keys back to the application."""
        if self.key is None:
            return
        pane = self._app.grid.pane(self.key)
        self.key, self.broadcasting = None, False
        if pane is not None:
            pane.set_attached(False)
        self._base.remove_class("-broadcast")
        self._base.set_focus(self._app.list)
        self._app.show_selected()

    def take(self, event: events.Event) -> bool:
        """Hand a key or a paste to the attached pane. Whether it was one and there is one."""
        if self.key is None or not isinstance(event, events.Key | events.Paste):
            return False
        pane = self._app.grid.pane(self.key)
        if pane is None or len(self._app.screen_stack) > 1:
            return False
        if isinstance(event, events.Key):
            if pane.view.gone:
                self._leave_ended(event.key)
            elif not pane.take_key(event):
                self.leave()
        elif not pane.view.gone:
            pane.take_paste(event.text)
        return True

    def _leave_ended(self, key: str) -> None:
        """What was still being typed when a sandbox ended must not become commands."""
        if key in ("enter", "escape", ESCAPE_KEY):
            self.leave()

    def type_into(self, view: SandboxView, data: bytes) -> None:
        """Input of an attached pane goes to its sandbox, or to all marked ones."""
        marked = [other for other in self._app.roster.live() if other.marked]
        for target in marked if self.broadcasting else [view]:
            if target.session is not None:
                target.session.type(data)
