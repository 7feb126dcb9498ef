"""Find Ctrl-] Ctrl-] in what is typed, across chunks, without leaking either to the guest."""

from __future__ import annotations

from dataclasses import dataclass

KEY = b"\x1d"
"""Ctrl-]"""
HOLD_MS = 500
"""How long a first Ctrl-] is held back; then it was meant for the guest."""


@dataclass(frozen=True, slots=True)
class Typed:
    """What became of a chunk."""

    forward: bytes
    """For the guest."""
    detached: bool = False
    rest: bytes = b""
    """What followed the two keys: for whoever reads the keyboard next."""


class DetachKeys:
    """Watches one keyboard. Feed it every chunk; after `HOLD_MS` of silence, `flush()` it."""

    def __init__(self) -> None:
        self.holding = False
        """A first Ctrl-] is held back."""

    def feed(self, chunk: bytes) -> Typed:
        """Split a chunk into what the guest gets and what is ours."""
        typed = KEY + chunk if self.holding else chunk
        self.holding = False
        before, pair, rest = typed.partition(KEY + KEY)
        if pair:
            return Typed(before, detached=True, rest=rest)
        if typed.endswith(KEY):
            self.holding = True
            typed = typed[:-1]
        return Typed(typed)

    def flush(self) -> bytes:
        """The key that was held back, now for the guest; b"" if there is none."""
        held = KEY if self.holding else b""
        self.holding = False
        return held
