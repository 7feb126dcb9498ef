"""What happened to sandboxes while the application ran: states, phases of boots and snapshots,
operations, alerts. Bounded, and readable as a log."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

MAX_EVENTS = 5_000


@dataclass(frozen=True, slots=True)
class Happening:
    """One line. `kind` is `lifecycle`, `phases`, `operation`, `exec` or `alert`."""

    number: int
    at_s: float
    kind: str
    name: str
    text: str

    def line(self) -> str:
        """`21:04:05 phases     web          boot 812 ms: …`."""
        clock = time.strftime("%H:%M:%S", time.localtime(self.at_s))
        return f"{clock} {self.kind:<10} {self.name:<14} {self.text}"


class Journal:
    """The newest happenings, oldest first."""

    def __init__(self) -> None:
        self._happenings: deque[Happening] = deque(maxlen=MAX_EVENTS)
        self._count = 0

    def add(self, kind: str, name: str, text: str) -> None:
        """Note something."""
        self._count += 1
        self._happenings.append(Happening(self._count, time.time(), kind, name, text))

    def after(self, number: int) -> list[Happening]:
        """Those after number `number` that are still kept."""
        return [each for each in self._happenings if each.number > number]


class TextTail:
    """A text as the log screen reads logs: all of it, once."""

    def __init__(self, text: str, title: str = "output") -> None:
        self.title = title
        self._left = text.encode()

    def read(self) -> bytes:
        """What was not read before."""
        text, self._left = self._left, b""
        return text

    def close(self) -> None:
        """Nothing is held."""


class JournalTail:
    """The journal as a log that grows: what a `LogScreen` follows. No name: of all sandboxes."""

    def __init__(self, journal: Journal, name: str = "") -> None:
        self.title = "what happened"
        self._journal, self._name, self._read = journal, name, 0

    def read(self) -> bytes:
        """The lines since the last call."""
        new = self._journal.after(self._read)
        self._read = new[-1].number if new else self._read
        lines = [each.line() for each in new if self._name in ("", each.name)]
        return "".join(f"{line}\n" for line in lines).encode()

    def close(self) -> None:
        """Nothing is open."""
