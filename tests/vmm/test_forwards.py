"""A port of the host leads to one of the guest."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from tests.vmm.fake_guest import GuestPort, greeted, settled
from vmm import forwards as forwards_module
from vmm.errors import VmmError
from vmm.forwards import PortForwards
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
async def forwarding(directory: Path) -> AsyncGenerator[tuple[PortForwards, GuestPort]]:
    """The forwards of a VM, none yet, and the guest."""
    watch = HangupWatch()
    async with greeted(directory) as (mux, guest), anyio.create_task_group() as tasks:
        tasks.start_soon(watch.run)
        yield PortForwards(tasks, mux, watch), guest
        await settled()
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def forwarded(directory: Path) -> AsyncGenerator[tuple[int, GuestPort]]:
    """A host port that leads to the guest's port 80, and the guest."""
    async with forwarding(directory) as (forwards, guest):
        added = await forwards.add(ForwardSpec(host_port=0, guest_port=80))
        yield added.host_port, guest


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
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            forward = ForwardSpec(host_port=port, guest_port=80)
            await PortForwards(tasks, mux, HangupWatch()).add(forward)
            async with await anyio.connect_tcp("127.0.0.1", port) as client:
                assert await hung_up(client)
            tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("127.0.0.1", "PORT_IN_USE"),
        ("192.0.2.77", "PORT_FORBIDDEN"),
        ("not an address", "PORT_FORBIDDEN"),
    ],
)
async def test_a_port_that_cannot_be_had_is_named_and_the_others_go_on(
    tmp_path: Path, address: str, code: str
) -> None:
    async with forwarding(tmp_path) as (forwards, guest):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            forward = ForwardSpec(host_port=port, guest_port=80, host_addr=address)
            with pytest.raises(VmmError, match=f"{address}:{port}") as caught:
                await forwards.add(forward)
        assert caught.value.code == code
        if code == "PORT_IN_USE":
            assert "EADDRINUSE" in str(caught.value)
            assert f"(pid {os.getpid()})" in str(caught.value)
        added = await forwards.add(ForwardSpec(host_port=port, guest_port=80))
        async with await anyio.connect_tcp("127.0.0.1", added.host_port):
            await accept(guest)


async def test_forwards_come_and_go_while_others_stay(tmp_path: Path) -> None:
    async with forwarding(tmp_path) as (forwards, guest):
        first = await forwards.add(ForwardSpec(host_port=0, guest_port=80))
        second = await forwards.add(ForwardSpec(host_port=0, guest_port=80))
        assert forwards.active == [first, second]
        async with (
            await anyio.connect_tcp("127.0.0.1", first.host_port) as doomed,
            await anyio.connect_tcp("127.0.0.1", second.host_port) as spared,
        ):
            await accept(guest)
            stream_id = await accept(guest)
            await forwards.remove(first.host_addr, first.host_port)
            assert await hung_up(doomed)
            assert forwards.active == [second]
            with pytest.raises(OSError, match=r"[Cc]onnect"):
                await anyio.connect_tcp("127.0.0.1", first.host_port)
            assert (await guest.expect(FrameType.RESET)).stream != stream_id
            await guest.send(FrameType.DATA, stream_id, b"still here")
            assert await spared.receive() == b"still here"
        again = await forwards.add(first)
        assert forwards.active == [second, again]


async def test_what_is_not_there_cannot_be_removed_nor_what_is_be_added(tmp_path: Path) -> None:
    async with forwarding(tmp_path) as (forwards, _):
        added = await forwards.add(ForwardSpec(host_port=0, guest_port=80))
        with pytest.raises(VmmError) as caught:
            await forwards.add(added)
        assert caught.value.code == "PORT_IN_USE"
        assert "port 80 of this VM" in str(caught.value)
        with pytest.raises(VmmError) as caught:
            await forwards.remove("0.0.0.0", added.host_port)
        assert caught.value.code == "FORWARD_UNKNOWN"


async def test_only_so_many_forwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwards_module, "MAX_FORWARDS", 2)
    async with forwarding(tmp_path) as (forwards, _):
        added = [await forwards.add(ForwardSpec(host_port=0, guest_port=80)) for _ in range(2)]
        with pytest.raises(VmmError, match="at most 2") as caught:
            await forwards.add(ForwardSpec(host_port=0, guest_port=80))
        assert caught.value.code == "PORT_FORBIDDEN"
        await forwards.remove(added[0].host_addr, added[0].host_port)
        await forwards.add(added[0])


async def test_clients_beyond_the_limit_wait_for_their_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forwards_module, "MAX_CLIENTS", 1)
    async with forwarded(tmp_path) as (port, guest):
        async with await anyio.connect_tcp("127.0.0.1", port):
            first = await accept(guest)
            waiting = await anyio.connect_tcp("127.0.0.1", port)
            await settled()
            await waiting.send(b"my turn")
        assert (await guest.expect(FrameType.EOF)).stream == first
        await guest.send(FrameType.EOF, first)
        async with waiting:
            await accept(guest)
            assert await guest.receive_data(7) == b"my turn"


async def test_a_connection_the_guest_aborts_is_no_end_of_file(tmp_path: Path) -> None:
    async with (
        forwarded(tmp_path) as (port, guest),
        await anyio.connect_tcp("127.0.0.1", port) as client,
    ):
        stream_id = await accept(guest)
        await guest.send(FrameType.DATA, stream_id, b"half of")
        assert await client.receive() == b"half of"
        await guest.send(FrameType.RESET, stream_id, struct.pack("<I", errno.ECONNRESET))
        with pytest.raises(anyio.BrokenResourceError):
            await client.receive()


async def test_the_verbs_check_what_they_are_given(tmp_path: Path) -> None:
    async with forwarding(tmp_path) as (forwards, _):
        verbs = forwards.handlers()
        place = {"host_addr": "127.0.0.1", "host_port": 0}
        added = await verbs["add_forward"]({**place, "guest_port": 80})
        assert added["host_port"] > 0
        for params in ({}, place, {**place, "guest_port": 0}, {**place, "guest_port": "80"}):
            with pytest.raises(VmmError) as caught:
                await verbs["add_forward"](params)
            assert caught.value.code == "PARAMS_INVALID"
        with pytest.raises(VmmError) as caught:
            await verbs["remove_forward"]({"host_port": added["host_port"]})
        assert caught.value.code == "PARAMS_INVALID"
        assert await verbs["remove_forward"](added) == {}
        assert forwards.active == []


async def hung_up(client: SocketStream) -> bool:
    try:
        return await client.receive() == b""
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return True
