"""Looks for garbage when nobody waits for the screen.

Reference counts free nearly everything at once; what is left are cycles, and finding those means to
look at every object there is: 50 to 90 ms in which no key is taken. Python does so whenever enough
is new, which is in the midst of floods. Here the young are looked at seldom, the rest when the
guests were silent for a moment.
"""

from __future__ import annotations

import gc
import time

YOUNG = (10_000, 20, 1000)
"""`gc.set_threshold`: so many new objects, so many looks at those, so many at what outlived them.
The last is out of reach: that is `Sweeper`'s."""
SWEEP_S, LATEST_S = 120.0, 600.0
"""From one look at everything to the next: if there is a quiet moment, and if there is none."""


def collect_seldom() -> None:
    """From now on only the young are looked at unasked."""
    gc.set_threshold(*YOUNG)


class Sweeper:
    """Looks at everything now and then; told once a second how often output was shown so far."""

    def __init__(self) -> None:
        self._turns = 0
        self._swept_at = time.monotonic()

    def tick(self, turns: int) -> bool:
        """Sweep if it is time; whether it was."""
        quiet, self._turns = turns == self._turns, turns
        since = time.monotonic() - self._swept_at
        if since < (SWEEP_S if quiet else LATEST_S):
            return False
        gc.collect()
        self._swept_at = time.monotonic()
        return True
