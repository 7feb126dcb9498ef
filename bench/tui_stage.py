"""`python -m bench.tui_stage rows|full|idle PANES [WRITES]`: the application, made-up sandboxes.

Everything is the application's own but the sandboxes: each writes WRITES times a second (default
75), either one row (`rows`) or all of them in colour (`full`), and marks what it writes with a
letter of its own (`letter_of`), so that who reads the screen can count each pane's updates. `idle`
ones write none, but their monitors tell their figures once a second, as real ones do.
"""

from __future__ import annotations

import gc
import itertools
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import anyio

from machinen_runtime.channel_sessions import (
    Output,
    ReplayDone,
    Resized,
    SessionEvent,
    SessionInfo,
)
from machinen_runtime.registry_entry import RegistryEntry
from machinen_tui.app import MachinenApp
from machinen_tui.config import Config
from machinen_tui.garbage import collect_seldom
from machinen_tui.gateway import SnapshotInfo
from machinen_tui.habits import Habits
from machinen_tui.runtime_gateway import RuntimeGateway
from vmm.requests import StatsEvent, VmEvent, VmStatus

WRITES_PER_S = 75
FRAMES = 30
"""After so many different ones the first comes again: they are made once."""
FIRST_LETTER = 0x0410
"""Cyrillic: nothing else on the screen is."""


def letter_of(number: int) -> str:
    """What pane `number` marks its writing with."""
    return chr(FIRST_LETTER + number)


@lru_cache(maxsize=1024)
def changing_row(letter: str, count: int, columns: int, rows: int) -> bytes:
    """The same row with another text each time."""
    text = f"{letter} {count:6} " + "=" * (count % max(columns - 12, 1))
    return f"\x1b[{rows // 2};1H\x1b[2K\x1b[3{count % 7 + 1}m{text[:columns]}".encode()


@lru_cache(maxsize=1024)
def full_repaint(letter: str, count: int, columns: int, rows: int) -> bytes:
    """Every row anew, four colours a row; the letter once."""
    quarter = max((columns - 2) // 4, 1)
    lines: list[str] = []
    for y in range(rows):
        parts = (f"\x1b[3{(x + y + count) % 7 + 1}m" + chr(97 + (x + y + count) % 26) * quarter
                 for x in range(4))  # fmt: skip
        lines.append((letter if y == 0 else " ") + "".join(parts))
    return ("\x1b[H" + "\r\n".join(lines)).encode()


def nothing(letter: str, count: int, columns: int, rows: int) -> bytes:
    """What an idle sandbox writes."""
    return b""


class StagedSession:
    """A session that writes steadily."""

    def __init__(
        self, letter: str, draw: Callable[[str, int, int, int], bytes], size: tuple[int, int],
        writes_per_s: float = WRITES_PER_S,
    ) -> None:  # fmt: skip
        self._letter, self._draw, self.size = letter, draw, size
        self._between_s = 1 / writes_per_s
        self._waiting: list[SessionEvent] = [Resized(*size), ReplayDone()]
        self._count = itertools.count()
        self._due = time.monotonic()

    async def receive(self) -> SessionEvent:
        if self._waiting:
            return self._waiting.pop(0)
        if self._draw is nothing:
            await anyio.sleep_forever()
        now = time.monotonic()
        self._due = max(self._due + self._between_s, now)
        await anyio.sleep(self._due - now)
        count = next(self._count) % FRAMES
        return Output(self._draw(self._letter, count, *self.size), replay=False)

    async def send(self, data: bytes) -> None:
        """Nobody listens."""

    async def resize(self, cols: int, rows: int) -> None:
        self.size = (cols, rows)
        self._waiting.append(Resized(cols, rows))


@dataclass(eq=False)
class StagedSandbox:
    """Stands for a sandbox whose workload draws."""

    entry: RegistryEntry
    session: StagedSession

    @property
    def pid(self) -> int:
        return self.entry.pid

    @property
    def name(self) -> str | None:
        return self.entry.name

    @asynccontextmanager
    async def events(self, stats_interval_ms: int = 1000) -> AsyncGenerator[AsyncIterator[VmEvent]]:
        async def figures() -> AsyncIterator[VmEvent]:
            while True:
                await anyio.sleep(stats_interval_ms / 1000)
                yield StatsEvent(
                    time_ms=int(time.time() * 1000), cpu_percent=0.4, rss_bytes=80 << 20,
                    pss_bytes=60 << 20, private_bytes=40 << 20, shared_bytes=40 << 20,
                    balloon_bytes=0, ceiling_mib=512, lazy_pages_pending=0, last_output_ms=0,
                )  # fmt: skip

        yield figures()

    async def status(self) -> VmStatus:
        return VmStatus(
            id=str(self.pid), name=self.name, state="running", pid=self.pid, qemu_pid=self.pid,
            started_at_ms=int(self.entry.started_at), accel="none", memory_mib=512, cpus=1,
            network="none", agent_ready=True, restored=False, port_forward=[], phases={},
        )  # fmt: skip

    async def sessions(self) -> list[SessionInfo]:
        cols, rows = self.session.size
        return [SessionInfo(name="main", pid=1, cols=cols, rows=rows, clients=0, started_at=0.0)]

    @asynccontextmanager
    async def open_session(
        self, name: str = "main", *, cols: int, rows: int
    ) -> AsyncGenerator[StagedSession]:
        yield self.session

    async def pause(self) -> None:
        """It cannot."""

    async def resume(self) -> None:
        """It cannot."""

    async def stop(self, *, grace_ms: int = 2000) -> None:
        """It does not."""


class StagedGateway(RuntimeGateway):
    """A registry with `panes` sandboxes that draw; nothing is remembered."""

    def __init__(
        self, panes: int, draw: Callable[[str, int, int, int], bytes],
        writes_per_s: float = WRITES_PER_S,
    ) -> None:  # fmt: skip
        super().__init__()
        self._sandboxes: dict[int, StagedSandbox] = {}
        for number in range(panes):
            entry = RegistryEntry(
                pid=1 << 30 | number, socket_path="", started_at=number, name=f"pane-{number}"
            )
            session = StagedSession(letter_of(number), draw, (80, 24), writes_per_s)
            self._sandboxes[entry.pid] = StagedSandbox(entry, session)
        self._read = False

    def changed(self) -> bool:
        return not self._read

    def entries(self) -> list[RegistryEntry]:
        self._read = True
        return [sandbox.entry for sandbox in self._sandboxes.values()]

    def snapshots(self) -> list[SnapshotInfo]:
        return []

    async def attach(self, pid: int) -> StagedSandbox:
        return self._sandboxes[pid]

    async def probe(self, source: object) -> bytes:
        return b""

    def recall(self) -> Mapping[str, Any]:
        return {}

    def recall_session(self) -> Mapping[str, Any]:
        return {}

    def remember(self, values: Mapping[str, Any]) -> None:
        """Not this time."""

    def remember_session(self, values: Mapping[str, Any]) -> None:
        """Not this time."""


def main() -> int:
    """Run until it is ended."""
    kind, panes = sys.argv[1], int(sys.argv[2])
    writes_per_s = float(sys.argv[3]) if len(sys.argv) > 3 else WRITES_PER_S
    habits = Habits()
    habits.config = Config(probe_s=3600, idle_probe_s=0)
    draw = {"rows": changing_row, "full": full_repaint, "idle": nothing}[kind]
    app = MachinenApp(StagedGateway(panes, draw, writes_per_s), habits=habits)
    gc.freeze()  # as `machinen-tui` does
    collect_seldom()
    app.run()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
