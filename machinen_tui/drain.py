"""Feeds terminals with what arrived, a little at a time, so that no flood gets in the way of the
keys.

Woken by readers, never by a clock: with nothing to show there are no wake-ups. The pane in front
goes first, each turn ends
when its time is used up, and turns come no more often than a person can see or the machine can
draw.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from machinen_tui.session import PaneSession

TURN_S = 0.008
"""How long one turn may parse."""
FRAME_S, FRONT_FRAME_S = 1 / 15, 1 / 40
"""The shortest time from one turn to the next: of all sessions, and of the one in front."""
REST = 1.0
"""After a turn the loop is left alone at least this many times as long as the turn took."""


class Drain:
    """Calls `on_fed` for each session whose terminal was fed in a turn.

    `in_order` gives the sessions, the one in front first: what it says is shown at once, even while
    the others rest
    after a long turn.
    """

    def __init__(
        self,
        in_order: Callable[[], Iterable[PaneSession]],
        on_fed: Callable[[PaneSession], None],
    ) -> None:
        self._in_order = in_order
        self._on_fed = on_fed
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._next_turn = 0.0
        self._next_front_turn = 0.0
        self.turns = 0

    def wake(self, session: PaneSession) -> None:
        """`session` has output. Called by readers, any number of times."""
        if self._timer is not None and self._due <= self._next_front_turn:
            return
        in_front = session is next(iter(self._in_order()), None)
        self._schedule(self._next_front_turn if in_front else self._next_turn)

    def stop(self) -> None:
        """No more turns."""
        if self._timer is not None:
            self._timer.cancel()

    def _schedule(self, due: float) -> None:
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        delay = max(due - time.monotonic(), 0)
        self._timer = asyncio.get_running_loop().call_later(delay, self._turn)

    def _turn(self) -> None:
        self._timer = None
        self.turns += 1
        started = time.monotonic()
        sessions = list(self._in_order())
        resting = started < self._next_turn
        fed = self._feed(sessions[:1] if resting else sessions, started)
        for session in fed:
            self._on_fed(session)
        took = time.monotonic() - started
        if not resting:
            self._next_turn = started + took + max(FRAME_S - took, REST * took)
        if fed and fed[0] is sessions[0]:
            self._next_front_turn = started + took + max(FRONT_FRAME_S - took, REST * took)
        for session in sessions:
            if session.has_output:
                self.wake(session)

    def _feed(self, sessions: list[PaneSession], started: float) -> list[PaneSession]:
        """Feed those with output in turns until the time is used up; each gets at least one
        piece."""
        waiting = [session for session in sessions if session.has_output]
        fed = list(waiting)
        while waiting:
            waiting = [session for session in waiting if session.drain()]
            if time.monotonic() - started >= TURN_S:
                break
        return fed
