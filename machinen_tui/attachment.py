"""Attached mode: which sandbox has the keys. Every key goes there in the order it came, before any
binding sees it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from textual import events

from machinen_tui.keys import ESCAPE_KEY, ESCAPE_KEY_WAIT_S

if TYPE_CHECKING:
    from textual.screen import Screen
    from textual.timer import Timer

    from machinen_tui.app import MachinenApp
    from machinen_tui.roster import SandboxView
    from machinen_tui.widgets.terminal_pane import TerminalPane

REFUSAL_S = 4.0
"""As long as a message stays."""
SLOW_PAIR_S = 3.0
"""Escape keys this close may have been meant as one pair."""


class Attachment:
    """The attached sandbox of one application, if there is one."""

    def __init__(self, app: MachinenApp) -> None:
        self._app = app
        self.key: str | None = None
        self._next_to: str | None = None
        self._event: events.Event | None = None
        """The key or paste that is being taken."""
        self._escaped_at_s: float | None = None
        """When the escape key was pressed last, with no other key since."""
        self._idle_timer: Timer | None = None
        self.broadcasting = False
        self._refused, self._refused_until_s = "", 0.0
        """The read-only sandbox whose refusal was said last, and until when it can be read."""

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
        self._escaped_at_s = None
        self.key, self.broadcasting = view.key, broadcast
        self._app.select(view.key)
        if broadcast:
            self._show_everybody()
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
        self._stop_idle_timer()
        self._gather([])
        self.frame_members()
        if pane is not None:
            pane.set_attached(False)
        self._base.remove_class("-broadcast")
        self._base.set_focus(self._app.list)
        self._app.show_selected()

    def take(self, event: events.Event) -> bool:
        """Hand a key or a paste to the attached pane. Whether it was one and there is one."""
        if self._take_one(event):
            return True
        if self.key is None or not isinstance(event, events.Key | events.Paste):
            return False
        pane = self._app.grid.pane(self.key)
        if pane is None or len(self._app.screen_stack) > 1:
            return False
        self._event = event
        if isinstance(event, events.Key):
            if pane.view.gone:
                self._leave_ended(event.key)
            else:
                self._notice_slow_pair(event.key, pane)
                if not pane.take_key(event):
                    self.leave()
        elif not pane.view.gone:
            pane.take_paste(event.text)
        return True

    def _leave_ended(self, key: str) -> None:
        """What was still being typed when a sandbox ended must not become commands."""
        if key in ("enter", "escape", ESCAPE_KEY):
            self.leave()

    def _notice_slow_pair(self, key: str, pane: TerminalPane) -> None:
        """Of two escape keys too far apart each goes to the guest: say what would have left."""
        before, self._escaped_at_s = self._escaped_at_s, None
        if key != ESCAPE_KEY:
            return
        now = self._escaped_at_s = time.monotonic()
        if before is not None and now - before < SLOW_PAIR_S and not pane.holds_escape:
            times = "three times" if pane.view.locked else "twice"
            self._app.say(f"Ctrl-] {times} within {ESCAPE_KEY_WAIT_S} s leaves {pane.view.name}")

    def type_into(self, view: SandboxView, data: bytes) -> None:
        """Input of an attached pane goes to its sandbox, or to all marked ones."""
        if self.broadcasting:
            self._restart_idle_timer()
        elif view.read_only:
            self._refuse(view)
        else:
            self._app.feed.drain.give_way()
        if b"\r" in data:
            self._app.tour.noticed("typed")
        for target in self.members() if self.broadcasting else [view]:
            if target.session is not None and not target.read_only:
                target.session.type(data if target is view else self._as_wanted(view, target, data))

    def _refuse(self, view: SandboxView) -> None:
        """Say why nothing happens: once, not for every key."""
        now = time.monotonic()
        if self._refused != view.key or now >= self._refused_until_s:
            self._app.say(f"{view.name} is read-only; R lets keys in again", "warning")
            self._refused, self._refused_until_s = view.key, now + REFUSAL_S

    def _as_wanted(self, view: SandboxView, target: SandboxView, data: bytes) -> bytes:
        """`data` of `view`'s pane as the modes of `target`'s guest want the same key or paste."""
        own, other = self._app.grid.pane(view.key), self._app.grid.pane(target.key)
        if own is None or other is None:
            return data
        match self._event:
            case events.Key() as key if data == own.encoded(key):
                return other.encoded(key)
            case events.Paste(text=text) if data == own.encoded_paste(text):
                return other.encoded_paste(text)
            case _:
                return data

    # -- several at once --------------------------------------------------------------------------

    def members(self) -> list[SandboxView]:
        """Who gets what is typed into all marked ones."""
        return [each for each in self._app.roster.live() if each.marked and not each.read_only]

    def frame_members(self) -> None:
        """Frame everybody who is typed into, and bring all of them on screen."""
        keys = {view.key for view in self.members()} if self.broadcasting else set[str]()
        for pane in self._app.grid.panes():
            pane.set_class(pane.view.key in keys, "-member")

    def _show_everybody(self) -> None:
        """Nobody is typed into unseen."""
        grid, keys = self._app.grid, [view.key for view in self.members()]
        grid.zoomed = grid.single = False
        shown = {pane.view.key for pane in grid.shown_panes()}
        self._gather(keys if set(keys) - shown else [])
        self.frame_members()
        self._restart_idle_timer()

    def _gather(self, keys: list[str]) -> None:
        """Show just these panes; none: what the tab has."""
        if self._app.grid.gathered != keys:
            self._app.grid.gathered = keys
            self._app.grid.show_workspace()

    def _restart_idle_timer(self) -> None:
        self._stop_idle_timer()
        seconds = self._app.habits.config.broadcast_idle_s
        self._idle_timer = self._app.set_timer(seconds, self._end_idle)

    def _stop_idle_timer(self) -> None:
        if self._idle_timer is not None:
            self._idle_timer.stop()
            self._idle_timer = None

    def _end_idle(self) -> None:
        if self.broadcasting:
            self.leave()
            self._app.say("nothing was typed for a while: typing into all marked is off", "warning")

    # -- one key ----------------------------------------------------------------------------------

    def send_next(self, view: SandboxView) -> None:
        """The next key goes to `view`, whatever it means here."""
        self._next_to = view.key
        self._app.say(f"the next key goes to {view.name}", seconds=20)

    def _take_one(self, event: events.Event) -> bool:
        """Hand on the one key that was asked for."""
        if self._next_to is None or not isinstance(event, events.Key):
            return False
        pane, self._next_to = self._app.grid.pane(self._next_to), None
        if pane is None or pane.view.gone:
            return False
        pane.send_key(event)
        self._app.say(f"{event.key} went to {pane.view.name}")
        return True
