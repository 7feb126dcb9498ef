"""A port of the host leads to one of the guest."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from tests.vmm.fake_guest import GuestPort, greeted, settled
from vmm.errors import VmmError
from vmm.forwards import serve_forward
from vmm.frames import TCP_PORT_BASE, FrameType
from vmm.mux import ChannelMux
from vmm.spec import ForwardSpec
from vmm.vsock_server import HangupWatch


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@asynccontextmanager
async def forwarded(directory: Path) -> AsyncGenerator[tuple[int, GuestPort]]:
    """A host port that leads to the guest's port 80, and the guest."""
    port, watch = free_port(), HangupWatch()
    async with greeted(directory) as (mux, guest), anyio.create_task_group() as tasks:
        tasks.start_soon(watch.run)
        forward = ForwardSpec(host_port=port, guest_port=80)
        await tasks.start(serve_forward, forward, mux, watch)
        yield port, guest
        await settled()
        tasks.cancel_scope.cancel()


async def accept(guest: GuestPort) -> int:
    """Accept the next OPEN, passing over what earlier streams still say."""
    while (frame := await guest.next()).type is not FrameType.OPEN:
        pass
    assert frame.number == TCP_PORT_BASE + 80
    await guest.send(FrameType.ACCEPT, frame.stream)
    return frame.stream


async def test_a_client_speaks_with_the_guests_port(tmp_path: Path) -> None:
    async with (
        forwarded(tmp_path) as (port, guest),
        await anyio.connect_tcp("127.0.0.1", port) as client,
    ):
        await client.send(b"GET /")
        stream_id = await accept(guest)
        assert await guest.receive_data(5) == b"GET /"
        await guest.send(FrameType.DATA, stream_id, b"200")
        await guest.send(FrameType.EOF, stream_id)
        assert await client.receive() == b"200"
        with pytest.raises(anyio.EndOfStream):
            await client.receive()


async def test_a_port_the_guest_refuses_closes_the_client_and_serves_the_next(
    tmp_path: Path,
) -> None:
    async with forwarded(tmp_path) as (port, guest):
        async with await anyio.connect_tcp("127.0.0.1", port) as client:
            opening = await guest.expect(FrameType.OPEN)
            refusal = struct.pack("<I", errno.ECONNREFUSED)
            await guest.send(FrameType.RESET, opening.stream, refusal)
            assert await hung_up(client)
        async with await anyio.connect_tcp("127.0.0.1", port) as client:
            await accept(guest)


@pytest.mark.parametrize("moment", ["connected", "wrote", "answered", "finished"])
async def test_a_client_that_resets_its_connection_ends_its_own_stream_alone(
    tmp_path: Path, moment: str
) -> None:
    async with forwarded(tmp_path) as (port, guest):
        async with await anyio.connect_tcp("127.0.0.1", port) as client:
            stream_id = await accept(guest)
            if moment != "connected":
                await client.send(b"x")
                await guest.receive_data(1)
            if moment in ("answered", "finished"):
                await guest.send(FrameType.DATA, stream_id, bytes(65536))
            raw = client.extra(SocketAttribute.raw_socket)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if moment == "finished":
            await guest.send(FrameType.EOF, stream_id)
        async with await anyio.connect_tcp("127.0.0.1", port) as client:
            await accept(guest)


async def test_without_an_agent_clients_are_hung_up_on(tmp_path: Path) -> None:
    mux = ChannelMux(lambda nonce: pytest.fail("greeted"), lambda text: None)
    port = free_port()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            forward = ForwardSpec(host_port=port, guest_port=80)
            await tasks.start(serve_forward, forward, mux, HangupWatch())
            async with await anyio.connect_tcp("127.0.0.1", port) as client:
                assert await hung_up(client)
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("address", "code"), [("127.0.0.1", "PORT_IN_USE"), ("192.0.2.1", "PORT_FORBIDDEN")]
)
async def test_a_port_that_cannot_be_had_is_named(address: str, code: str) -> None:
    mux = ChannelMux(lambda nonce: pytest.fail("greeted"), lambda text: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        forward = ForwardSpec(host_port=port, guest_port=80, host_addr=address)
        with pytest.raises(VmmError, match=f"{address}:{port}") as caught:
            await serve_forward(forward, mux, HangupWatch())
    assert caught.value.code == code


async def hung_up(client: SocketStream) -> bool:
    try:
        return await client.receive() == b""
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return True
