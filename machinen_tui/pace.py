"""How often each sandbox is asked for its figures: every second while somebody sees them, seldom
otherwise. Pure; time is handed in, in seconds.

A figure costs its monitor a look at all memory of the VM, and both sides a wake-up: with fifty idle
sandboxes, figures nobody sees were most of what the application took.
"""

from __future__ import annotations

from collections.abc import Iterable

SEEN_MS, UNSEEN_MS = 1000, 5000
LINGER_S = 10.0
"""What was seen so recently is still asked for every second: who scrolls or steps through a list
does not subscribe anew with each row."""


class Pace:
    """Remembers until when each sandbox counts as seen."""

    def __init__(self) -> None:
        self._seen_until: dict[str, float] = {}

    def see(self, keys: Iterable[str], now_s: float) -> None:
        """The figures of these are on the screen."""
        for key in keys:
            self._seen_until[key] = now_s + LINGER_S

    def forget(self, key: str) -> None:
        """It is gone."""
        self._seen_until.pop(key, None)

    def of(self, key: str, now_s: float) -> int:
        """Milliseconds from one look to the next."""
        return SEEN_MS if now_s < self._seen_until.get(key, 0.0) else UNSEEN_MS


def seconds_covered(before_ms: float | None, at_ms: float) -> int:
    """Of how many seconds a sample tells: since the one before it, one to the longest pace."""
    if before_ms is None:
        return 1
    return min(max(round((at_ms - before_ms) / SEEN_MS), 1), UNSEEN_MS // SEEN_MS)
