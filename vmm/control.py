"""Serves control.sock: requests about the one VM, and a subscription to what happens to it.

The socket is 0600: whoever may open it may do everything, and is asked for their user id besides
(vmm/peers.py). A client that breaks the format loses its connection.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio
from anyio.abc import SocketStream, TaskStatus
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from vmm.accepting import serve_own_user
from vmm.errors import VmmError, as_os_error, host_refusal
from vmm.requests import MAX_LINE_BYTES, VmEvent, event_kind

SUBSCRIBER_BACKLOG = 256
GONE_ERRORS = (
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    anyio.EndOfStream,
    anyio.IncompleteRead,
    anyio.DelimiterNotFound,
)

Handler = Callable[[dict[str, Any]], Awaitable[Any]]


class EventBus:
    """Hands every event to every subscriber; one that does not read misses the oldest."""

    def __init__(self, on_event: Callable[[VmEvent], None] | None = None) -> None:
        """`on_event` hears everything too, whether there are subscribers or not."""
        self._sinks: dict[MemoryObjectSendStream[VmEvent], MemoryObjectReceiveStream[VmEvent]] = {}
        self._on_event = on_event

    def publish(self, event: VmEvent) -> None:
        """Tell every subscriber, without waiting."""
        if self._on_event is not None:
            self._on_event(event)
        for sink, source in list(self._sinks.items()):
            with suppress(*GONE_ERRORS):
                _send_newest(sink, source, event)

    def subscribe(
        self,
    ) -> tuple[MemoryObjectSendStream[VmEvent], MemoryObjectReceiveStream[VmEvent]]:
        """A new subscription; close both ends to leave."""
        sink, source = anyio.create_memory_object_stream[VmEvent](SUBSCRIBER_BACKLOG)
        self._sinks[sink] = source
        return sink, source

    def unsubscribe(self, sink: MemoryObjectSendStream[VmEvent]) -> None:
        """Stop telling this subscriber."""
        self._sinks.pop(sink, None)
        sink.close()


def _send_newest(
    sink: MemoryObjectSendStream[VmEvent],
    source: MemoryObjectReceiveStream[VmEvent],
    event: VmEvent,
) -> None:
    """Send, and make room for it: how the VM is now matters more than how it was."""
    try:
        sink.send_nowait(event)
    except anyio.WouldBlock:
        source.receive_nowait()
        sink.send_nowait(event)


class ControlServer:
    """Answers requests with the given handlers.

    `sample(interval_ms, sink)` feeds one subscriber with stats.
    """

    def __init__(
        self,
        handlers: dict[str, Handler],
        bus: EventBus,
        sample: Callable[[int, MemoryObjectSendStream[VmEvent]], Coroutine[Any, Any, None]],
        log: Callable[[str], None] | None = None,
    ) -> None:
        self._handlers = handlers
        self._bus = bus
        self._sample = sample
        self._log = log

    async def serve(
        self, path: str, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until cancelled; reports started once the socket can be connected to."""
        async with await anyio.create_unix_listener(path, mode=0o600, backlog=64) as listener:
            task_status.started()
            await serve_own_user(listener, self._serve_client, self._log)

    async def _serve_client(self, client: SocketStream) -> None:
        reader = BufferedByteReceiveStream(client)
        holds = False
        try:
            with suppress(*GONE_ERRORS, ValueError, RecursionError):
                async with client:
                    while True:
                        line = await reader.receive_until(b"\n", MAX_LINE_BYTES)
                        request = _parse(line)
                        if request["method"] == "subscribe":
                            await self._serve_subscriber(client, reader, request)
                            return
                        holds |= request["method"] == "snapshot"
                        await _send(client, await self._answer(request))
        finally:
            if holds:  # what a client froze and did not end goes on without it
                await self._answer({"id": 0, "method": "release", "params": {}})

    async def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        handler = self._handlers.get(request["method"])
        try:
            if handler is None:
                raise VmmError("METHOD_UNKNOWN", f"no such request: {request['method']}")
            result = await handler(request["params"])
        except VmmError as error:
            return {"id": request["id"], "error": error.to_json()}
        except Exception as error:  # a fault of ours in one request shall not end the VM
            if (refused := as_os_error(error)) is not None:
                refusal = host_refusal(refused, f"the monitor cannot answer {request['method']}")
                return {"id": request["id"], "error": refusal.to_json()}
            fault = VmmError("INTERNAL", f"{type(error).__name__} in {request['method']}: {error}")
            return {"id": request["id"], "error": fault.to_json()}
        if dataclasses.is_dataclass(result) and not isinstance(result, type):
            result = dataclasses.asdict(result)
        return {"id": request["id"], "result": result}

    async def _serve_subscriber(
        self, client: SocketStream, reader: BufferedByteReceiveStream, request: dict[str, Any]
    ) -> None:
        interval_ms = request["params"].get("stats_interval_ms", 1000)
        if not isinstance(interval_ms, int) or (interval_ms and interval_ms < 250):
            raise ValueError("stats_interval_ms")
        sink, source = self._bus.subscribe()
        try:
            await _send(client, await self._answer({**request, "method": "status"}))
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_forward_events, client, source)
                if interval_ms:
                    tasks.start_soon(self._sample, interval_ms, sink)
                with suppress(*GONE_ERRORS):
                    await reader.receive(1)  # a subscriber has nothing more to say: this is its end
                tasks.cancel_scope.cancel()
        finally:
            self._bus.unsubscribe(sink)
            source.close()


async def _forward_events(client: SocketStream, source: MemoryObjectReceiveStream[VmEvent]) -> None:
    with suppress(*GONE_ERRORS):
        async for event in source:
            await _send(client, {"event": event_kind(event), "data": dataclasses.asdict(event)})


def _parse(line: bytes) -> dict[str, Any]:
    """A request object; ValueError if it is none."""
    match json.loads(line):
        case {"id": int(), "method": str(), **rest} as request:
            params = rest.get("params", {})
            if not isinstance(params, dict):
                raise ValueError("params")
            return {"id": request["id"], "method": request["method"], "params": params}
        case _:
            raise ValueError("request")


async def _send(client: SocketStream, message: dict[str, Any]) -> None:
    await client.send(json.dumps(message, separators=(",", ":")).encode() + b"\n")
