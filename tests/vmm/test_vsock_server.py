"""Clients of vsock.sock, well-behaved and not, through to a fake guest."""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from tests.vmm.fake_guest import GuestPort, greeted, settled
from vmm import vsock_server
from vmm.frames import INITIAL_WINDOW_BYTES, FrameType
from vmm.mux import ChannelMux
from vmm.mux_stream import CHUNK_BYTES
from vmm.vsock_server import HangupWatch, serve_vsock


@asynccontextmanager
async def served(directory: Path) -> AsyncGenerator[tuple[str, GuestPort]]:
    """The path of a served vsock.sock, and the guest behind it."""
    path = str(directory / "vsock.sock")
    async with greeted(directory) as (mux, port), anyio.create_task_group() as tasks:
        await start(mux, path, tasks)
        yield path, port
        await settled()
        tasks.cancel_scope.cancel()


async def start(mux: ChannelMux, path: str, tasks: anyio.abc.TaskGroup) -> None:
    watch = HangupWatch()
    tasks.start_soon(watch.run)
    await tasks.start(serve_vsock, path, mux, watch)


@asynccontextmanager
async def connected(
    path: str, guest: GuestPort, first: bytes = b"CONNECT 1978\n"
) -> AsyncGenerator[tuple[SocketStream, int]]:
    """A client whose stream the guest accepted, and the stream's id."""
    async with await anyio.connect_unix(path) as client:
        await client.send(first)
        stream_id, _ = await guest.accept()
        assert await client.receive() == b"OK %d\n" % stream_id
        yield client, stream_id


async def test_the_socket_is_for_its_owner_alone(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, _):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


async def test_copies_of_files_get_a_wider_window(tmp_path: Path) -> None:
    async with (
        served(tmp_path) as (path, guest),
        connected(path, guest, b"CONNECT 1976\n") as (_, stream_id),
    ):
        credit = await guest.expect(FrameType.CREDIT)
        more = vsock_server.WIDE_WINDOW_BYTES - INITIAL_WINDOW_BYTES
        assert (credit.stream, credit.number) == (stream_id, more)


COMMAND = b"RUN 9\narg=true\0"
TERMINAL = b"RUN 19\narg=true\0pty=80x24\0"


@pytest.mark.parametrize(("request_bytes", "is_wide"), [(COMMAND, True), (TERMINAL, False)])
async def test_a_command_without_a_terminal_gets_a_wider_window_once_its_output_flows(
    tmp_path: Path, request_bytes: bytes, is_wide: bool
) -> None:
    """Whoever interrupts a terminal shall not have to wait for what is on its way."""
    more = vsock_server.WIDE_WINDOW_BYTES - INITIAL_WINDOW_BYTES if is_wide else 0
    piece = bytes(CHUNK_BYTES)
    first = b"CONNECT 1978\n" + request_bytes
    async with served(tmp_path) as (path, guest), connected(path, guest, first) as (client, stream):
        assert await guest.receive_data(len(request_bytes)) == request_bytes
        sent = 0
        while sent < INITIAL_WINDOW_BYTES // 4:
            await guest.send(FrameType.DATA, stream, piece)
            sent += len(piece)
            await client.receive()
        credit = await guest.expect(FrameType.CREDIT)
        assert (credit.stream, credit.number) == (stream, sent + more)


async def test_a_client_reaches_the_port_it_asks_for(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, guest):
        client = await anyio.connect_unix(path)
        async with client:
            await client.send(b"CONNECT 65616\n")
            _, port = await guest.accept()
            assert port == 65536 + 80
            assert (await client.receive()).startswith(b"OK ")


async def test_bytes_go_both_ways(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, guest), connected(path, guest) as (client, stream_id):
        await client.send(b"question")
        assert await guest.receive_data(8) == b"question"
        await guest.send(FrameType.DATA, stream_id, b"answer")
        assert await client.receive() == b"answer"


async def test_what_comes_behind_the_connect_line_is_not_lost(tmp_path: Path) -> None:
    async with (
        served(tmp_path) as (path, guest),
        connected(path, guest, b"CONNECT 1978\nEXEC true\n"),
    ):
        assert await guest.receive_data(10) == b"EXEC true\n"


async def test_what_comes_with_the_connect_line_waits_for_the_guest_to_accept(
    tmp_path: Path,
) -> None:
    """Else what was given up, and is tried again, would be done twice."""
    async with served(tmp_path) as (path, guest):
        async with await anyio.connect_unix(path) as client:
            await client.send(b"CONNECT 1978\nEXEC true\n")
            opened = await guest.expect(FrameType.OPEN)
        assert (await guest.expect(FrameType.RESET)).stream == opened.stream
        async with await anyio.connect_unix(path) as another:
            await another.send(b"CONNECT 1978\nEXEC true\n")
            stream, _ = await guest.accept()
            assert (await guest.expect(FrameType.DATA)).stream == stream


async def received(client: socket.socket) -> bytes:
    """What comes next; nothing at the end."""
    await anyio.wait_readable(client)
    return client.recv(100)


async def test_a_client_that_has_said_all_at_once_is_no_reset_afterwards(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, guest):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(b"CONNECT 1978\nEXEC true\n")
            client.shutdown(socket.SHUT_WR)
            stream, _ = await guest.accept()
            assert (await guest.expect(FrameType.DATA)).payload == b"EXEC true\n"
            assert (await guest.expect(FrameType.EOF)).stream == stream
            await guest.send(FrameType.DATA, stream, b"X 0\n")
            await guest.send(FrameType.EOF, stream)
            client.setblocking(False)
            said = b""
            with anyio.fail_after(60):
                while piece := await received(client):
                    said += piece
            assert said.endswith(b"X 0\n")
        await settled()
        async with await anyio.connect_unix(path) as another:
            await another.send(b"CONNECT 7\n")
            assert (await guest.accept())[1] == 7  # the next frame, so no RESET came before it


async def test_a_connect_line_may_come_byte_by_byte(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, guest), await anyio.connect_unix(path) as client:
        for byte in b"CONNECT 7\r\n":
            await client.send(bytes([byte]))
            await anyio.wait_all_tasks_blocked()
        assert (await guest.accept())[1] == 7
        assert (await client.receive()).startswith(b"OK ")


@pytest.mark.parametrize(
    "line",
    [
        b"\n",
        b"CONNECT\n",
        b"CONNECT \n",
        b"CONNECT -1\n",
        b"CONNECT 0x10\n",
        b"CONNECT 4294967296\n",
        b"CONNECT " + b"9" * 4000 + b"\n",
        b"connect 1978\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"x" * 4096,
        b"\xff\xfe\0\n",
    ],
)
async def test_a_malformed_handshake_closes_the_connection_alone(
    tmp_path: Path, line: bytes
) -> None:
    async with served(tmp_path) as (path, guest):
        async with await anyio.connect_unix(path) as client:
            await client.send(line)
            with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                await client.receive()
        async with connected(path, guest):
            pass


async def test_a_client_that_says_nothing_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vsock_server, "HANDSHAKE_TIMEOUT_S", 0.05)
    async with served(tmp_path) as (path, _), await anyio.connect_unix(path) as client:
        with pytest.raises(anyio.EndOfStream):
            await client.receive()


async def test_a_refused_stream_closes_the_socket(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, guest), await anyio.connect_unix(path) as client:
        await client.send(b"CONNECT 9\n")
        opening = await guest.expect(FrameType.OPEN)
        await guest.send(FrameType.RESET, opening.stream, b"\x6f\0\0\0nobody")
        with pytest.raises(anyio.EndOfStream):
            await client.receive()


async def test_without_an_agent_the_socket_closes_at_once(tmp_path: Path) -> None:
    mux = ChannelMux(lambda nonce: pytest.fail("greeted"), lambda text: None)
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            path = str(tmp_path / "vsock.sock")
            await start(mux, path, tasks)
            async with await anyio.connect_unix(path) as client:
                await client.send(b"CONNECT 1978\n")
                with pytest.raises(anyio.EndOfStream):
                    await client.receive()
            tasks.cancel_scope.cancel()


async def test_a_client_that_finished_writing_can_still_read(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, guest), connected(path, guest) as (client, stream_id):
        await client.send(b"all of it")
        await client.send_eof()
        await guest.receive_data(9)
        await guest.expect(FrameType.EOF)
        await guest.send(FrameType.DATA, stream_id, b"reply")
        await guest.send(FrameType.EOF, stream_id)
        assert await client.receive() == b"reply"
        with pytest.raises(anyio.EndOfStream):
            await client.receive()


async def test_a_guest_that_finished_writing_can_still_read(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, guest), connected(path, guest) as (client, stream_id):
        await guest.send(FrameType.EOF, stream_id)
        with pytest.raises(anyio.EndOfStream):
            await client.receive()
        await client.send(b"more")
        assert await guest.receive_data(4) == b"more"


async def test_a_reset_of_the_guest_closes_the_client(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, guest), connected(path, guest) as (client, stream_id):
        await guest.send(FrameType.RESET, stream_id, b"\x05\0\0\0broken")
        with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
            await client.receive()


async def test_a_client_that_vanishes_while_idle_resets_its_stream(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, guest):
        async with connected(path, guest) as (_, stream_id):
            pass
        while (frame := await guest.next()).type is not FrameType.RESET:
            assert frame.type is FrameType.EOF
        assert frame.stream == stream_id


async def test_a_client_that_half_closed_and_vanished_resets_its_stream(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, guest):
        async with connected(path, guest) as (client, _):
            await client.send_eof()
            await guest.expect(FrameType.EOF)
        await guest.expect(FrameType.RESET)


async def test_a_client_that_writes_and_leaves_still_delivers(tmp_path: Path) -> None:
    sent, received = os.urandom(300_000), b""
    async with served(tmp_path) as (path, guest):
        async with connected(path, guest) as (client, stream_id), anyio.create_task_group() as task:
            task.start_soon(client.send, sent)
            received = await guest.receive_data(100_000 // 32768 * 32768)
        while len(received) < len(sent):
            await guest.credit(stream_id, 32768)
            received += (await guest.expect(FrameType.DATA)).payload
        assert received == sent
        await guest.expect(FrameType.EOF)
        await guest.expect(FrameType.RESET)


async def test_a_client_that_vanishes_before_the_guest_accepts_is_given_up(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, guest):
        async with await anyio.connect_unix(path) as client:
            await client.send(b"CONNECT 1978\n")
            opening = await guest.expect(FrameType.OPEN)
        reset = await guest.expect(FrameType.RESET)
        assert reset.stream == opening.stream


async def test_a_client_that_does_not_read_stalls_no_other(tmp_path: Path) -> None:
    async with (
        served(tmp_path) as (path, guest),
        connected(path, guest) as (_, stalled),
        connected(path, guest) as (reader, other),
    ):
        for _ in range(4):
            await guest.send(FrameType.DATA, stalled, bytes(65536))
        await guest.send(FrameType.DATA, other, b"fresh")
        assert await reader.receive() == b"fresh"


async def test_clients_that_break_off_at_any_moment_do_not_end_the_server(tmp_path: Path) -> None:
    async with served(tmp_path) as (path, guest):
        for first in (b"", b"CONN", b"CONNECT 1978\n", b"CONNECT 1978\nmore"):
            async with await anyio.connect_unix(path) as client:
                raw = client.extra(SocketAttribute.raw_socket)
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                if first:
                    await client.send(first)
                if b"\n" in first:
                    stream_id = await accept_among_others(guest)
                    await guest.send(FrameType.DATA, stream_id, bytes(65536))
                    await guest.send(FrameType.EOF, stream_id)
        await anyio.wait_all_tasks_blocked()
        async with await anyio.connect_unix(path) as client:
            await client.send(b"CONNECT 1978\n")
            await accept_among_others(guest)
            assert (await client.receive()).startswith(b"OK ")


async def accept_among_others(guest: GuestPort) -> int:
    """Accept the next OPEN, passing over what earlier streams still say."""
    while (frame := await guest.next()).type is not FrameType.OPEN:
        pass
    await guest.send(FrameType.ACCEPT, frame.stream)
    return frame.stream
