"""Feeds terminals with what arrived, a little at a time, so that no flood gets in the way of the
keys.

Woken by readers, never by a clock: with nothing to show there are no wake-ups. The pane in front
goes first, each turn ends when its time is used up, who got nothing is first in the next one, and
turns come no more often than a person can see or the machine can draw.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from machinen_tui.session import PaneSession

TURN_S = 0.008
"""How long one turn may parse."""
FRAME_S, FRONT_FRAME_S = 1 / 64, 1 / 120
"""From one feeding to the next, of all behind together and of the one in front. Behind it is a
clock: the next frame is counted from when this one was due, not from when it came, or sixty a
second would be fifty-eight."""
FLOOD_FRAME_S = 1 / 15
"""The same behind, for one that writes more than is taken in: nobody reads that."""
ECHO_S, LONGEST_WAIT_S = 0.04, 0.15
"""After a key those behind wait so long for its echo, if they were fed within the longest wait."""
LAG_S = 0.005
"""How soon after a frame that the terminal had no time for it is asked again."""
REST = 0.4
"""After a turn the loop is left alone at least this many times as long as the turn took."""


class Drain:
    """Calls `on_fed` for each session whose terminal was fed in a turn, and `on_turn` after all.
    While the user's terminal `lags` terminals are fed all the same, and what came of it is shown
    later in one: no frame waits behind another, and no flood waits for a slow line.

    `in_order` gives the sessions, the one in front first: what it says is shown at once, even while
    the others rest after a long turn.
    """

    def __init__(
        self,
        in_order: Callable[[], Iterable[PaneSession]],
        on_fed: Callable[[PaneSession], None],
        on_turn: Callable[[], None] = lambda: None,
        lags: Callable[[], bool] = lambda: False,
    ) -> None:
        self._in_order = in_order
        self._on_fed = on_fed
        self._on_turn = on_turn
        self._lags = lags
        self._unshown: dict[PaneSession, None] = {}
        """Fed, in this order, and not yet shown."""
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._tick = 0.0
        """When the next frame of those behind is due; one that is long past was of another time,
        and who speaks then is fed at once."""
        self._rests_until = 0.0
        """When those behind may be fed again after a long turn."""
        self._gives_way_until = 0.0
        self._fed_behind_at = 0.0
        self.turns = 0

    def wake(self, session: PaneSession) -> None:
        """`session` has output. Called by readers, any number of times."""
        if self._timer is not None and self._due <= session.rests_until:
            return
        in_front = session is next(iter(self._in_order()), None)
        self._schedule(self._due_of(session, in_front))

    def give_way(self) -> None:
        """A key went to the session in front: its echo is next, those behind wait for it. Not for
        long, whoever types how fast."""
        now = time.monotonic()
        if now - self._fed_behind_at < LONGEST_WAIT_S:
            self._gives_way_until = now + ECHO_S

    def stop(self) -> None:
        """No more turns."""
        if self._timer is not None:
            self._timer.cancel()

    def _due_of(self, session: PaneSession, in_front: bool) -> float:
        if in_front:
            return session.rests_until
        return max(session.rests_until, self._tick, self._rests_until, self._gives_way_until)

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
        waiting = [
            (session, at == 0) for at, session in enumerate(self._in_order()) if session.has_output
        ]
        ready = [each for each in waiting if self._due_of(*each) <= started]
        fed = self._feed([session for session, _ in _by_need(ready)], started)
        self._unshown.update(dict.fromkeys(fed))
        if not self._lags():
            self._show()
        self._let_rest(fed, {session for session, in_front in ready if in_front}, started)
        for session, in_front in waiting:
            if session.has_output:
                self._schedule(self._due_of(session, in_front))
        if self._unshown:
            self._schedule(time.monotonic() + LAG_S)

    def _show(self) -> None:
        for session in self._unshown:
            self._on_fed(session)
        self._unshown.clear()
        self._on_turn()

    def _feed(self, ready: list[PaneSession], started: float) -> list[PaneSession]:
        """Feed in turns until the time is used up; the first two get a piece in any case."""
        fed: list[PaneSession] = []
        while ready:
            more: list[PaneSession] = []
            for session in ready:
                has_had = session in fed or len(fed) >= 2
                if has_had and time.monotonic() - started >= TURN_S:
                    return fed
                if session.drain():
                    more.append(session)
                if session not in fed:
                    fed.append(session)
            ready = more
        return fed

    def _let_rest(self, fed: list[PaneSession], in_front: set[PaneSession], started: float) -> None:
        """Say when each may be fed again: the longer the turn, the longer all rest."""
        ended = time.monotonic()
        rested = ended + REST * (ended - started)
        if any(session not in in_front for session in fed):
            late = started - self._tick
            self._tick = (self._tick if late < FRAME_S else started) + FRAME_S
            self._fed_behind_at, self._rests_until = started, rested
        for session in fed:
            if session in in_front:
                session.rests_until = max(started + FRONT_FRAME_S, rested)
                self._gives_way_until = 0.0
            else:
                floods = session.has_output
                session.rests_until = started + FLOOD_FRAME_S if floods else self._tick


def _by_need(ready: list[tuple[PaneSession, bool]]) -> list[tuple[PaneSession, bool]]:
    """The one in front, then who has waited longest."""
    return sorted(ready, key=lambda each: (not each[1], each[0].rests_until))
