"""control.sock: requests, refusals, a subscription, and clients that break the format."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.memory import MemoryObjectSendStream

from tests.vmm.fake_guest import settled
from vmm.control import SUBSCRIBER_BACKLOG, ControlServer, EventBus, Handler
from vmm.errors import VmmError
from vmm.requests import MAX_LINE_BYTES, PhasesEvent, StateEvent, StatsEvent, VmEvent

STATS = StatsEvent(
    time_ms=1,
    cpu_percent=2.5,
    rss_bytes=3,
    pss_bytes=4,
    private_bytes=5,
    shared_bytes=6,
    balloon_bytes=7,
    ceiling_mib=8,
    lazy_pages_pending=9,
    last_output_ms=10,
)


class Client:
    """A connection that speaks in objects."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self.reader = BufferedByteReceiveStream(stream)

    async def ask(self, method: str, request_id: int = 1, **params: object) -> dict[str, Any]:
        request = {"id": request_id, "method": method, "params": params}
        await self.stream.send(json.dumps(request).encode() + b"\n")
        return await self.read()

    async def read(self) -> dict[str, Any]:
        return json.loads(await self.reader.receive_until(b"\n", MAX_LINE_BYTES))

    async def is_hung_up(self) -> bool:
        try:
            return await self.stream.receive() == b""
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return True


class Served:
    """A control server with two verbs of its own."""

    def __init__(self, directory: Path) -> None:
        self.path = str(directory / "control.sock")
        self.bus = EventBus()
        self.intervals: list[int] = []
        handlers: dict[str, Handler] = {
            "status": self.status,
            "echo": self.echo,
            "refuse": self.refuse,
            "snapshot": self.echo,
            "release": self.release,
        }
        self.released = 0
        self.server = ControlServer(handlers, self.bus, self.sample)

    async def status(self, _: dict[str, Any]) -> StateEvent:
        return StateEvent(state="running")

    async def echo(self, params: dict[str, Any]) -> dict[str, Any]:
        return params

    async def release(self, _: dict[str, Any]) -> None:
        self.released += 1

    async def refuse(self, _: dict[str, Any]) -> None:
        raise VmmError("NOT_RUNNING", "the VM is booting", retryable=True)

    async def sample(self, interval_ms: int, sink: MemoryObjectSendStream[VmEvent]) -> None:
        self.intervals.append(interval_ms)
        await sink.send(STATS)
        await anyio.sleep_forever()

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[Client]:
        async with await anyio.connect_unix(self.path) as stream:
            yield Client(stream)


@asynccontextmanager
async def served(directory: Path) -> AsyncGenerator[Served]:
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            this = Served(directory)
            await tasks.start(this.server.serve, this.path)
            yield this
            await settled()
            tasks.cancel_scope.cancel()


async def test_the_socket_is_for_its_owner_alone(tmp_path: Path) -> None:
    async with served(tmp_path) as this:
        mode = (await anyio.Path(this.path).stat()).st_mode
    assert stat.S_IMODE(mode) == 0o600


async def test_requests_are_answered_in_turn_on_one_connection(tmp_path: Path) -> None:
    async with served(tmp_path) as this, this.client() as client:
        assert await client.ask("echo", 7, a=1) == {"id": 7, "result": {"a": 1}}
        reply = await client.ask("status", 8)
        assert reply == {"id": 8, "result": {"state": "running", "detail": ""}}


async def test_params_may_be_left_out(tmp_path: Path) -> None:
    async with served(tmp_path) as this, this.client() as client:
        await client.stream.send(b'{"id": 1, "method": "echo"}\n')
        assert await client.read() == {"id": 1, "result": {}}


async def test_a_refusal_carries_its_code(tmp_path: Path) -> None:
    async with served(tmp_path) as this, this.client() as client:
        error = (await client.ask("refuse"))["error"]
        assert error == {"code": "NOT_RUNNING", "message": "the VM is booting", "retryable": True}


async def test_an_unknown_request_is_named_and_the_connection_goes_on(tmp_path: Path) -> None:
    async with served(tmp_path) as this, this.client() as client:
        error = (await client.ask("explode"))["error"]
        assert error["code"] == "METHOD_UNKNOWN"
        assert "explode" in error["message"]
        assert await client.ask("echo") == {"id": 1, "result": {}}


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"hello\n",
        b"[]\n",
        b"null\n",
        b"{}\n",
        b'{"id": 1}\n',
        b'{"id": "1", "method": "echo"}\n',
        b'{"id": 1, "method": 5}\n',
        b'{"id": 1, "method": "echo", "params": []}\n',
        b'{"id": 1, "method": "subscribe", "params": {"stats_interval_ms": 1}}\n',
        b'{"id": 1, "method": "subscribe", "params": {"stats_interval_ms": "fast"}}\n',
        b"\xff\xfe\n",
        b"[" * 200_000 + b"\n",
        b"x" * (MAX_LINE_BYTES + 1),
    ],
)
async def test_a_client_that_breaks_the_format_loses_its_own_connection_alone(
    tmp_path: Path, line: bytes
) -> None:
    async with served(tmp_path) as this:
        async with this.client() as client, anyio.create_task_group() as tasks:

            async def send() -> None:
                try:
                    await client.stream.send(line)
                except anyio.BrokenResourceError:
                    return  # hung up before it was all sent

            tasks.start_soon(send)
            assert await client.is_hung_up()
        async with this.client() as other:
            assert await other.ask("echo") == {"id": 1, "result": {}}


async def test_a_subscriber_gets_the_state_and_then_events(tmp_path: Path) -> None:
    async with served(tmp_path) as this, this.client() as client:
        reply = await client.ask("subscribe", stats_interval_ms=0)
        assert reply["result"]["state"] == "running"
        this.bus.publish(StateEvent(state="paused"))
        this.bus.publish(PhasesEvent(kind="snapshot", phases={"stop": 1.5}, total_ms=2))
        assert await client.read() == {"event": "state", "data": {"state": "paused", "detail": ""}}
        phases = {"kind": "snapshot", "phases": {"stop": 1.5}, "total_ms": 2}
        assert await client.read() == {"event": "phases", "data": phases}
        assert this.intervals == []


async def test_a_subscriber_gets_stats_at_its_own_pace(tmp_path: Path) -> None:
    async with served(tmp_path) as this, this.client() as client:
        await client.ask("subscribe", stats_interval_ms=250)
        event = await client.read()
        assert event["event"] == "stats"
        assert StatsEvent(**event["data"]) == STATS
        assert this.intervals == [250]


async def test_every_subscriber_hears_of_an_event(tmp_path: Path) -> None:
    async with served(tmp_path) as this, this.client() as one, this.client() as two:
        for client in (one, two):
            await client.ask("subscribe", stats_interval_ms=0)
        this.bus.publish(StateEvent(state="stopping"))
        for client in (one, two):
            assert (await client.read())["data"]["state"] == "stopping"


async def test_a_subscriber_that_leaves_is_forgotten(tmp_path: Path) -> None:
    async with served(tmp_path) as this:
        async with this.client() as client:
            await client.ask("subscribe", stats_interval_ms=250)
        await settled()
        assert not this.bus._sinks  # pyright: ignore[reportPrivateUsage]
        this.bus.publish(StateEvent(state="paused"))


async def test_a_subscriber_that_does_not_read_holds_up_nobody() -> None:
    bus = EventBus()
    sink, source = bus.subscribe()
    for number in range(SUBSCRIBER_BACKLOG + 5):
        bus.publish(StateEvent(state="running", detail=str(number)))
    with source:
        states = [source.receive_nowait() for _ in range(SUBSCRIBER_BACKLOG)]
        assert states[0] == StateEvent(state="running", detail="5")  # the oldest went
        assert states[-1] == StateEvent(state="running", detail=str(SUBSCRIBER_BACKLOG + 4))
        with pytest.raises(anyio.WouldBlock):
            source.receive_nowait()
    bus.unsubscribe(sink)


async def test_what_a_client_froze_is_released_when_it_hangs_up(tmp_path: Path) -> None:
    async with served(tmp_path) as this:
        async with this.client() as client:
            await client.ask("snapshot")
            assert this.released == 0
        await settled()
        assert this.released == 1
        async with this.client() as client:
            await client.ask("echo")
        await settled()
        assert this.released == 1
