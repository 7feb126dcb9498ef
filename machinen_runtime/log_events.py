"""What callers may watch: chunks of guest output and the wall-clock phases of an operation."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from machinen_runtime.debug import debug

ChunkSource: TypeAlias = Literal["guest-console", "exec-stdout", "exec-stderr"]
PhaseKind: TypeAlias = Literal["boot", "provision", "snapshot", "restore"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkLogEvent:
    """Bytes as they arrived: not split into lines, not decoded."""

    source: ChunkSource
    chunk: bytes
    cmd: str | None = None
    """The command, for the two exec sources."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseLogEvent:
    """How long each step of one operation took. Sent once, when the operation has ended."""

    kind: PhaseKind
    phases: Mapping[str, float]
    """Phase name → milliseconds, in the order the phases ended."""
    total_ms: float
    source: Literal["phase"] = field(default="phase", init=False)


LogEvent: TypeAlias = ChunkLogEvent | PhaseLogEvent
OnLog: TypeAlias = Callable[[LogEvent], None]


def tell_all(*callbacks: OnLog | None) -> OnLog | None:
    """One callback for several, some of which may be None; None if there is none, no one twice."""
    wanted = list({id(each): each for each in callbacks if each is not None}.values())
    if len(wanted) < 2:
        return wanted[0] if wanted else None

    def tell(event: LogEvent) -> None:
        for callback in wanted:
            callback(event)

    return tell


class PhaseTimer:
    """Measures the phases of one operation, from the moment it is made."""

    def __init__(self, kind: PhaseKind) -> None:
        self.kind: PhaseKind = kind
        self.phases: dict[str, float] = {}
        self._started = time.monotonic()

    @contextmanager
    def phase(self, name: str) -> Generator[None]:
        """Time the block, also when it fails. A phase entered twice adds up."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.mark(name, (time.monotonic() - started) * 1000)

    def mark(self, name: str, elapsed_ms: float) -> None:
        """Add a duration that was measured elsewhere, for instance by the monitor."""
        self.phases[name] = self.phases.get(name, 0.0) + elapsed_ms
        debug(self.kind, f"{name} {elapsed_ms:.1f} ms")

    @property
    def total_ms(self) -> float:
        """Milliseconds since the timer was made."""
        return (time.monotonic() - self._started) * 1000

    def flush(self, on_log: OnLog | None) -> PhaseLogEvent:
        """Send the phases to `on_log`, if there is one, and return the event."""
        event = PhaseLogEvent(kind=self.kind, phases=dict(self.phases), total_ms=self.total_ms)
        if on_log is not None:
            on_log(event)
        return event
