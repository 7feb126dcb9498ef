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
FRAME_S = 1 / 40
REST = 2.0
"""After a turn the loop is left alone at least this many times as long as the turn took."""


class Drain:
    """Calls `on_fed` for each session whose terminal was fed in a turn."""

    def __init__(
        self,
        in_order: Callable[[], Iterable[PaneSession]],
        on_fed: Callable[[PaneSession], None],
    ) -> None:
        self._in_order = in_order
        self._on_fed = on_fed
        self._timer: asyncio.TimerHandle | None = None
        self._next_turn = 0.0
        self.turns = 0

    def wake(self, session: PaneSession) -> None:
        """`session` has output. Called by readers, any number of times."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(self._next_turn - time.monotonic(), 0), self._turn)

    def stop(self) -> None:
        """No more turns."""
        if self._timer is not None:
            self._timer.cancel()

    def _turn(self) -> None:
        self._timer = None
        self.turns += 1
        started = time.monotonic()
        waiting = [session for session in self._in_order() if session.has_output]
        fed: list[PaneSession] = []
        while waiting and (not fed or time.monotonic() - started < TURN_S):
            for session in list(waiting):
                if session not in fed:
                    fed.append(session)
                if not session.drain():
                    waiting.remove(session)
                if time.monotonic() - started >= TURN_S:
                    break
        for session in fed:
            self._on_fed(session)
        ended = time.monotonic()
        self._next_turn = ended + max(FRAME_S - (ended - started), REST * (ended - started))
        if waiting:
            self.wake(waiting[0])
