"""Streams the guest opens: to sockets of the host, bounded, and never the monitor's end."""

from __future__ import annotations

import errno
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream
from hypothesis import given
from hypothesis import strategies as st

from tests.vmm.fake_guest import GuestPort, greeted, mux_and_guest, opened, settled
from vmm import mux as mux_module
from vmm.frames import MAX_GUEST_STREAMS, FrameType, encode
from vmm.guest_streams import GuestStreams
from vmm.mux import ChannelMux
from vmm.mux_stream import MuxStream
from vmm.vsock_server import HangupWatch


def u32(number: int) -> bytes:
    return number.to_bytes(4, "little")


@asynccontextmanager
async def serving(directory: Path) -> AsyncGenerator[tuple[ChannelMux, GuestPort]]:
    """A mux that leads the guest's streams to sockets in `directory`."""
    watch = HangupWatch()
    async with greeted(directory) as (mux, guest), anyio.create_task_group() as tasks:
        tasks.start_soon(watch.run)
        mux.on_guest_stream = GuestStreams(str(directory / "vsock.sock"), watch).serve
        yield mux, guest
        await settled()
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def listening(path: Path) -> AsyncGenerator[anyio.abc.ObjectReceiveStream[SocketStream]]:
    """Clients of a socket on the host, as they come."""
    sink, source = anyio.create_memory_object_stream[SocketStream](10)
    async with (
        sink,
        source,
        await anyio.create_unix_listener(str(path)) as listener,
        anyio.create_task_group() as tasks,
    ):

        async def serve(client: SocketStream) -> None:
            await sink.send(client)

        tasks.start_soon(listener.serve, serve)
        yield source
        tasks.cancel_scope.cancel()


async def test_a_stream_of_the_guest_reaches_whoever_listens(tmp_path: Path) -> None:
    async with serving(tmp_path) as (_, guest), listening(tmp_path / "vsock.sock_5000") as clients:
        await guest.send(FrameType.OPEN, 2, u32(5000))
        await guest.expect(FrameType.ACCEPT)
        async with await clients.receive() as client:
            await guest.send(FrameType.DATA, 2, b"from the guest")
            assert await client.receive() == b"from the guest"
            await client.send(b"from the host")
            assert await guest.receive_data(13) == b"from the host"
            await guest.send(FrameType.EOF, 2)
            with pytest.raises(anyio.EndOfStream):
                await client.receive()
            await client.send(b"half open")
            assert await guest.receive_data(9) == b"half open"
        assert (await guest.expect(FrameType.EOF)).stream == 2


async def test_where_nobody_listens_the_guest_is_refused(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mux, guest):
        for stream, port in ((2, 5000), (4, 0xFFFFFFFF)):
            await guest.send(FrameType.OPEN, stream, u32(port))
            refusal = await guest.expect(FrameType.RESET)
            assert (refusal.stream, refusal.number) == (stream, errno.ECONNREFUSED)
        assert mux.ready.is_set()


async def test_both_sides_may_have_streams_at_once(tmp_path: Path) -> None:
    async with (
        serving(tmp_path) as (mux, guest),
        listening(tmp_path / "vsock.sock_1") as clients,
        opened(mux, guest) as (ours, number),
    ):
        await guest.send(FrameType.OPEN, 2, u32(1))
        await guest.expect(FrameType.ACCEPT)
        async with await clients.receive() as client:
            await guest.send(FrameType.DATA, number, b"yours")
            await guest.send(FrameType.DATA, 2, b"its")
            assert await ours.receive() == b"yours"
            assert await client.receive() == b"its"


async def test_the_guest_may_open_so_many_and_the_host_goes_on(tmp_path: Path) -> None:
    async with serving(tmp_path) as (mux, guest):
        holding = anyio.Event()

        async def hold(_port: int, stream: MuxStream) -> None:
            stream.accept()
            await holding.wait()

        mux.on_guest_stream = hold
        for number in range(MAX_GUEST_STREAMS):
            await guest.send(FrameType.OPEN, 2 * number + 2, u32(1))
            await guest.expect(FrameType.ACCEPT)
        await guest.send(FrameType.OPEN, 2 * MAX_GUEST_STREAMS + 2, u32(1))
        refusal = await guest.expect(FrameType.RESET)
        assert refusal.number == errno.EMFILE
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(guest.accept)
            async with mux.open_stream(1978):
                pass
        holding.set()


@pytest.mark.parametrize(
    "frames",
    [
        [(FrameType.OPEN, 4), (FrameType.OPEN, 2)],
        [(FrameType.OPEN, 2), (FrameType.OPEN, 2)],
        [(FrameType.OPEN, 2), (FrameType.ACCEPT, 2)],
    ],
    ids=["falling ids", "an id twice", "accepting its own"],
)
async def test_what_no_guest_may_say_ends_the_connection(
    tmp_path: Path, frames: list[tuple[FrameType, int]]
) -> None:
    async with mux_and_guest(tmp_path) as (mux, guest):
        port = await guest.connected()
        await port.greet()
        await mux.ready.wait()

        async def hold(_port: int, stream: MuxStream) -> None:
            stream.accept()
            await anyio.sleep_forever()

        mux.on_guest_stream = hold
        for kind, stream in frames:
            await port.send(kind, stream, u32(1) if kind is FrameType.OPEN else b"")
        assert await port.is_hung_up()
        await (await guest.connected()).greet()
        await mux.ready.wait()
        await guest.wait_note("broke the channel's protocol")


async def test_a_guest_that_asks_and_does_not_listen_loses_its_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mux_module, "MAX_OUTBOX_FRAMES", 100)
    async with mux_and_guest(tmp_path) as (mux, guest):
        port = await guest.connected()
        await port.greet()
        await mux.ready.wait()
        assert await mux.quiesce(0.01) is False  # now it may say nothing more
        with pytest.raises((anyio.BrokenResourceError, anyio.EndOfStream)):  # noqa: PT012
            while True:
                await port.stream.send(encode(FrameType.PING, 0, b"x") * 1000)
                await anyio.lowlevel.checkpoint()
        await guest.wait_note("without listening")


GUEST_TYPES = [kind for kind in FrameType if kind not in (FrameType.QUIESCE, FrameType.RESUME)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(GUEST_TYPES),
            st.integers(0, 12),
            st.one_of(st.just(b""), st.binary(min_size=4, max_size=4), st.binary(max_size=64)),
        ),
        max_size=30,
    )
)
async def test_no_frames_of_a_guest_end_the_mux(
    anyio_backend: str, frames: list[tuple[FrameType, int, bytes]]
) -> None:
    """Whatever it says, the mux either serves on or starts the connection again."""
    del anyio_backend
    mux = ChannelMux(lambda nonce: pytest.fail("greeted"), lambda text: None)
    async with anyio.create_task_group() as tasks:
        await feed(mux, tasks, frames)
        tasks.cancel_scope.cancel()


async def feed(
    mux: ChannelMux, tasks: anyio.abc.TaskGroup, frames: list[tuple[FrameType, int, bytes]]
) -> None:
    """Dispatch what the decoder lets through, as `_converse` does."""
    mux.ready.set()
    mux._guest_tasks = tasks  # pyright: ignore[reportPrivateUsage]
    decoder = mux_module.FrameDecoder(in_step=True)
    try:
        for kind, stream, payload in frames:
            for frame in decoder.feed(encode(kind, stream, payload)):
                mux._dispatch(frame)  # pyright: ignore[reportPrivateUsage]
                await anyio.lowlevel.checkpoint()
    except mux_module.FrameError:
        mux._lose_connection()  # pyright: ignore[reportPrivateUsage]
