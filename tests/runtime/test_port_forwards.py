"""Forwards of a running VM: the monitor is asked, the registry's entry follows."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.option_types import PortForward
from machinen_runtime.port_forwards import add_forward, remove_forward
from machinen_runtime.registry import find, register
from machinen_runtime.registry_entry import RegistryEntry
from vmm.requests import CONTROL_SOCKET, VSOCK_SOCKET

WEB = PortForward(host_port=8080, guest_port=80)


@dataclass
class FakeMonitor:
    """Answers add_forward and remove_forward as told; keeps what was asked."""

    entry: RegistryEntry
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list[Any])
    error: dict[str, Any] | None = None
    free_port: int = 40000

    async def serve(self, client: SocketStream) -> None:
        async with client:
            line = await BufferedByteReceiveStream(client).receive_until(b"\n", 65536)
            request = json.loads(line)
            self.asked.append((request["method"], request["params"]))
            result = dict(request["params"])
            if result.get("host_port") == 0:
                self.free_port += 1
                result["host_port"] = self.free_port
            reply = {"error": self.error} if self.error else {"result": result}
            await client.send(json.dumps({"id": 1, **reply}).encode() + b"\n")


@asynccontextmanager
async def monitored(home: Path) -> AsyncGenerator[FakeMonitor]:
    """A live VM (this very process) whose monitor is a fake."""
    run = home / "run"
    run.mkdir(exist_ok=True)
    socket_path = str(run / VSOCK_SOCKET)
    entry = register(RegistryEntry(pid=os.getpid(), socket_path=socket_path, started_at=1.0))
    monitor = FakeMonitor(entry)
    async with (
        await anyio.create_unix_listener(str(run / CONTROL_SOCKET)) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, monitor.serve)
        yield monitor
        tasks.cancel_scope.cancel()


def listed() -> tuple[PortForward, ...]:
    return find(pid=os.getpid()).port_forward


async def test_a_forward_is_added_and_removed_and_the_entry_says_so(machinen_home: Path) -> None:
    async with monitored(machinen_home) as monitor:
        assert await add_forward(monitor.entry, WEB) == WEB
        chosen = await add_forward(monitor.entry, 22)
        assert (chosen.host_port, chosen.guest_port) == (monitor.free_port, 22)
        assert listed() == (WEB, chosen)
        await remove_forward(monitor.entry, 8080, "127.0.0.1")
        assert listed() == (chosen,)
    verbs = [verb for verb, _ in monitor.asked]
    assert verbs == ["add_forward", "add_forward", "remove_forward"]


async def test_many_at_once_all_count(machinen_home: Path) -> None:
    async with monitored(machinen_home) as monitor, anyio.create_task_group() as tasks:
        for port in range(1, 21):
            tasks.start_soon(add_forward, monitor.entry, PortForward(host_port=port, guest_port=80))
    assert sorted(each.host_port for each in listed()) == list(range(1, 21))


async def test_a_refusal_changes_nothing(machinen_home: Path) -> None:
    async with monitored(machinen_home) as monitor:
        await add_forward(monitor.entry, WEB)
        message = "cannot listen on 127.0.0.1:81: taken (EADDRINUSE), held by nginx (pid 1)"
        monitor.error = {"code": "PORT_IN_USE", "message": message, "retryable": False}
        with pytest.raises(BootError, match="nginx") as caught:
            await add_forward(monitor.entry, PortForward(host_port=81, guest_port=80))
        assert caught.value.code is ErrorCode.BOOT_PORT_FORWARD_IN_USE
        monitor.error = {"code": "FORWARD_UNKNOWN", "message": "none", "retryable": False}
        with pytest.raises(BootError) as caught:
            await remove_forward(monitor.entry, 9, "127.0.0.1")
        assert caught.value.code is ErrorCode.BOOT_PORT_FORWARD_INVALID
    assert listed() == (WEB,)


@pytest.mark.parametrize("port", [0, 65536, True, "80"])
async def test_what_is_no_port_asks_nobody(machinen_home: Path, port: Any) -> None:
    async with monitored(machinen_home) as monitor:
        with pytest.raises(BootError) as caught:
            await add_forward(monitor.entry, port)
    assert caught.value.code is ErrorCode.BOOT_PORT_FORWARD_INVALID
    assert monitor.asked == []


async def test_an_entry_that_became_another_processs_is_left_alone(machinen_home: Path) -> None:
    async with monitored(machinen_home) as monitor:
        old = monitor.entry
        register(RegistryEntry(pid=old.pid, socket_path=old.socket_path, started_at=2.0))
        other = RegistryEntry(
            pid=old.pid, socket_path=old.socket_path, started_at=1.0, process_identity="gone"
        )
        await add_forward(other, WEB)
    assert listed() == ()
