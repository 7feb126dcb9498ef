"""One session's queue: nothing is lost, nothing piles up, a replay is drawn at its own size."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import anyio
import anyio.lowlevel

from machinen_runtime.channel_sessions import (
    Exited,
    Output,
    ReplayDone,
    Resized,
    SessionEvent,
    SessionInfo,
)
from machinen_tui.drain import Drain
from machinen_tui.session import MAX_UNPARSED_BYTES, PaneSession


class Script:
    """A sandbox whose session says what the script says, and writes down what it is told."""

    def __init__(self, *events: SessionEvent, size: tuple[int, int] = (30, 4)) -> None:
        self.events = list(events)
        self.taken = 0
        self.told: list[tuple[str, Any]] = []
        self.on_taken: dict[int, Callable[[], None]] = {}
        self._size = size

    async def sessions(self) -> list[SessionInfo]:
        cols, rows = self._size
        return [SessionInfo(name="main", pid=1, cols=cols, rows=rows, clients=0, started_at=0)]

    @asynccontextmanager
    async def open_session(self, name: str, *, cols: int, rows: int) -> AsyncGenerator[Script]:
        self.told.append(("open", (cols, rows)))
        yield self

    async def receive(self) -> SessionEvent:
        await anyio.lowlevel.checkpoint()
        if self.taken == len(self.events):
            raise anyio.EndOfStream
        self.on_taken.get(self.taken, lambda: None)()
        self.taken += 1
        return self.events[self.taken - 1]

    async def send(self, data: bytes) -> None:
        self.told.append(("send", data))

    async def resize(self, cols: int, rows: int) -> None:
        self.told.append(("resize", (cols, rows)))


async def run_all(session: PaneSession, script: Script) -> None:
    """Run to the end of the script, draining all the while."""

    async def drain() -> AsyncIterator[None]:
        while True:
            session.drain()
            yield

    async with anyio.create_task_group() as tasks:

        async def keep_draining() -> None:
            async for _ in drain():
                await anyio.lowlevel.checkpoint()

        tasks.start_soon(keep_draining)
        await session.run(cast("Any", script))
        tasks.cancel_scope.cancel()
    while session.drain():
        pass


async def test_attaching_keeps_the_size_until_the_replay_is_over() -> None:
    session = PaneSession(lambda _: None)
    session.want_size(50, 10)
    script = Script(
        Resized(30, 4), Output(b"old", replay=True), *[Resized(30, 4)] * 20, ReplayDone(),
        *[Resized(30, 4)] * 20, Exited(3),
    )  # fmt: skip
    at_the_end_of_the_replay: list[int] = []
    script.on_taken[22] = lambda: at_the_end_of_the_replay.append(len(script.told))
    await run_all(session, script)
    assert script.told == [("open", (30, 4)), ("resize", (50, 10))]
    assert at_the_end_of_the_replay == [1]
    assert session.exit_code == 3
    assert session.model.screen_text() == "old"
    assert (session.model.columns, session.model.lines) == (30, 4)


async def test_questions_in_a_replay_are_not_answered_and_live_ones_are() -> None:
    session = PaneSession(lambda _: None)
    ask = b"\x1b[6n"
    script = Script(
        Resized(30, 4), Output(ask, replay=True), ReplayDone(), Output(b"ab" + ask, replay=False),
        *[Resized(30, 4)] * 20, Exited(0),
    )  # fmt: skip
    await run_all(session, script)
    assert [told for told in script.told if told[0] == "send"] == [("send", b"\x1b[1;3R")]


async def test_a_new_connection_starts_from_its_replay_alone() -> None:
    session = PaneSession(lambda _: None)
    for _ in range(2):
        await run_all(session, Script(Output(b"same", replay=True), ReplayDone()))
    assert session.model.screen_text() == "same"
    assert not session.connected


async def test_the_reader_stops_when_nobody_parses_and_goes_on_when_somebody_does() -> None:
    session = PaneSession(lambda _: None)
    piece = b"x" * 16384
    script = Script(ReplayDone(), *[Output(piece, replay=False)] * 100, Exited(0))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(session.run, cast("Any", script))
        for _ in range(300):
            await anyio.lowlevel.checkpoint()
        stopped_at = script.taken
        assert stopped_at * len(piece) <= MAX_UNPARSED_BYTES + 3 * len(piece)
        while session.exit_code is None:
            session.drain()
            await anyio.lowlevel.checkpoint()
    assert script.taken == len(script.events)


async def test_the_session_in_front_is_fed_while_the_others_rest() -> None:
    fed: list[PaneSession] = []
    front, behind = PaneSession(lambda _: None), PaneSession(lambda _: None)
    drain = Drain(lambda: [front, behind], fed.append)
    flood = Script(ReplayDone(), *[Output(b"\x1b[Hx" * 4000, replay=False)] * 10)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(behind.run, cast("Any", flood))
        await anyio.lowlevel.checkpoint()
        await behind.run(cast("Any", flood))
        drain.wake(behind)
        while not fed:
            await anyio.lowlevel.checkpoint()
        fed.clear()
        await front.run(cast("Any", Script(ReplayDone(), Output(b"key", replay=False))))
        drain.wake(front)
        while front.has_output:
            await anyio.lowlevel.checkpoint()
        assert fed[0] is front
        assert behind.has_output
        drain.stop()
        tasks.cancel_scope.cancel()


async def test_whom_a_turn_had_no_time_for_comes_first_in_the_next() -> None:
    sessions = [PaneSession(lambda _: None) for _ in range(6)]
    fed: list[PaneSession] = []
    flood = [Output(b"\x1b[Hx" * 4000, replay=False)] * 8
    async with anyio.create_task_group() as tasks:
        for session in sessions:
            tasks.start_soon(session.run, cast("Any", Script(ReplayDone(), *flood)))
        await anyio.wait_all_tasks_blocked()
        drain = Drain(lambda: sessions, fed.append)
        drain.wake(sessions[1])
        while len(set(fed)) < len(sessions):
            await anyio.lowlevel.checkpoint()
        drain.stop()
        tasks.cancel_scope.cancel()
    behind = [session for session in fed if session is not sessions[0]]
    assert len(set(behind[:5])) == 5  # each once before anybody twice
