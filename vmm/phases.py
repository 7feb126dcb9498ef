"""How long each phase of an operation took."""

from __future__ import annotations

import time


class PhaseClock:
    """Milliseconds per phase, in the order they ended."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self.begun_us = time.time_ns() // 1000
        """When the clock was made, in microseconds since 1970."""
        self._begun = self._last = time.monotonic()

    def mark(self, name: str) -> None:
        """End a phase: what passed since the last mark is its time."""
        now = time.monotonic()
        self.phases[name] = self.phases.get(name, 0.0) + round((now - self._last) * 1000, 2)
        self._last = now

    @property
    def total_ms(self) -> float:
        """Milliseconds since the clock was made."""
        return round((time.monotonic() - self._begun) * 1000, 2)
