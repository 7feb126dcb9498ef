"""The monitor's sockets when its descriptors run out: clients wait, nothing ends."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream

from tests.fakes import until
from vmm.accepting import serve_patiently
from vmm.control import ControlServer, EventBus
from vmm.vsock_server import HangupWatch, serve_vsock


@contextmanager
def no_descriptors() -> Generator[None]:
    """No new descriptor can be had in this block; those that are open stay."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as fillers:
        highest = max(int(name) for name in os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
        try:
            while True:
                fillers.callback(os.close, os.dup(0))
        except OSError:
            pass  # the gaps are full
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


def client_socket() -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(60)
    return client


async def test_control_clients_wait_for_a_descriptor_and_are_served(tmp_path: Path) -> None:
    async def feed(_interval_ms: int, _sink: object) -> None: ...

    path, notes = str(tmp_path / "control.sock"), list[str]()
    server = ControlServer({}, EventBus(), feed, notes.append)
    async with anyio.create_task_group() as tasks:
        await tasks.start(server.serve, path)
        with client_socket() as early, client_socket() as late:
            early.connect(path)
            early.sendall(b'{"id": 1, "method": "one"}\n')
            assert b"METHOD_UNKNOWN" in await anyio.to_thread.run_sync(early.recv, 4096)
            with no_descriptors():
                late.connect(path)
                late.sendall(b'{"id": 2, "method": "two"}\n')
                await until(lambda: bool(notes), timeout_s=60)
                early.sendall(b'{"id": 3, "method": "three"}\n')
                assert b'"id":3' in await anyio.to_thread.run_sync(early.recv, 4096)
            assert b'"id":2' in await anyio.to_thread.run_sync(late.recv, 4096)
        tasks.cancel_scope.cancel()
    assert notes == ["a client has to wait: Too many open files"]


async def test_vsock_clients_wait_for_a_descriptor_and_are_heard(tmp_path: Path) -> None:
    from tests.vmm.fake_guest import greeted

    path, notes, watch = str(tmp_path / "vsock.sock"), list[str](), HangupWatch()
    async with greeted(tmp_path) as (mux, port), anyio.create_task_group() as tasks:
        tasks.start_soon(watch.run)
        await tasks.start(serve_vsock, path, mux, watch, notes.append)
        with client_socket() as client:
            with no_descriptors():
                client.connect(path)
                client.sendall(b"CONNECT 1978\n")
                await until(lambda: bool(notes), timeout_s=60)
            stream, number = await port.accept()
            assert number == 1978
            assert await anyio.to_thread.run_sync(client.recv, 64) == b"OK %d\n" % stream
        tasks.cancel_scope.cancel()
    assert len(notes) == 1


async def test_an_error_that_does_not_pass_is_raised(tmp_path: Path) -> None:
    async def serve_client(_client: SocketStream) -> None: ...

    listener = await anyio.create_unix_listener(tmp_path / "s")
    await listener.aclose()
    with pytest.raises(BaseExceptionGroup) as caught:
        await serve_patiently(listener, serve_client)
    assert caught.value.subgroup(anyio.ClosedResourceError) is not None
