"""A guest's agent as the monitor sees it: a Unix socket that speaks frames (docs/protocol.md).

It takes the place of QEMU's chardev and the agent behind it. A test plays the agent frame by frame,
so it can also play a hostile one.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.lowlevel
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from vmm.frames import HEADER, MAGIC, PROTOCOL_VERSION, FrameType, Hello, encode
from vmm.mux import ChannelMux
from vmm.mux_stream import MuxStream

DEADLINE_S = 60


class HostFrame(NamedTuple):
    """A frame as the host sent it."""

    type: FrameType
    stream: int
    payload: bytes

    @property
    def number(self) -> int:
        """The u32 an OPEN, CREDIT or RESET begins with."""
        return struct.unpack_from("<I", self.payload)[0]


class GuestPort:
    """One connection of the host, with this connection's framing."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self._reader = BufferedByteReceiveStream(stream)

    async def next(self) -> HostFrame:
        """The next frame; a repeated MAGIC before it is passed over."""
        head = await self._reader.receive_exactly(HEADER.size)
        if head == MAGIC[: HEADER.size]:
            assert await self._reader.receive_exactly(len(MAGIC) - HEADER.size) == MAGIC[-4:]
            head = await self._reader.receive_exactly(HEADER.size)
        length, stream, number, padding = HEADER.unpack(head)
        assert padding == b"\0\0\0"
        payload = await self._reader.receive_exactly(length) if length else b""
        return HostFrame(FrameType(number), stream, payload)

    async def expect(self, wanted: FrameType) -> HostFrame:
        """The next frame, which must be a `wanted` one."""
        frame = await self.next()
        assert frame.type is wanted, frame
        return frame

    async def receive_data(self, size: int) -> bytes:
        """Exactly `size` bytes of DATA, of whatever stream; nothing else may come between."""
        collected = b""
        while len(collected) < size:
            collected += (await self.expect(FrameType.DATA)).payload
        assert len(collected) == size
        return collected

    async def hello(self) -> tuple[int, int]:
        """Nonce and flags of the next HELLO."""
        _, nonce, flags = struct.unpack_from("<IQI", (await self.expect(FrameType.HELLO)).payload)
        return nonce, flags

    async def answer_hello(self, nonce: int, *, flags: int = 0, version: int = 1) -> None:
        """MAGIC and HELLO, as the agent answers."""
        payload = struct.pack("<IQI", version, nonce, flags)
        await self.stream.send(MAGIC + encode(FrameType.HELLO, 0, payload))

    async def greet(self, flags: int = 0) -> HostFrame:
        """Read the host's HELLO and answer it; the RESUME with the time that comes then."""
        nonce, _ = await self.hello()
        await self.answer_hello(nonce, flags=flags, version=PROTOCOL_VERSION)
        while (frame := await self.next()).type is FrameType.HELLO:
            pass  # it was repeated meanwhile
        assert frame.type is FrameType.RESUME, frame
        return frame

    async def accept(self) -> tuple[int, int]:
        """Accept the next OPEN; returns its stream and port."""
        opened = await self.expect(FrameType.OPEN)
        await self.send(FrameType.ACCEPT, opened.stream)
        return opened.stream, opened.number

    async def send(self, kind: FrameType, stream: int = 0, payload: bytes = b"") -> None:
        """Send one frame, valid or not."""
        await self.stream.send(encode(kind, stream, payload))

    async def credit(self, stream: int, size: int) -> None:
        """Widen the host's window."""
        await self.send(FrameType.CREDIT, stream, size.to_bytes(4, "little"))

    async def is_hung_up(self) -> bool:
        """True once the host closed the connection; reads on past frames still in flight."""
        with suppress(anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
            while True:
                await self.next()
        return True


@dataclass
class FakeGuest:
    """The host's connections, in order, and what the mux noted."""

    socket_path: Path
    connections: anyio.abc.ObjectReceiveStream[GuestPort]
    notes: list[str] = field(default_factory=list[str])
    _noted: anyio.Event = field(default_factory=anyio.Event)

    def note(self, text: str) -> None:
        """Takes what the mux logs."""
        self.notes.append(text)
        self._noted.set()

    async def wait_note(self, text: str) -> None:
        """Wait until something with `text` in it was logged."""
        while not any(text in note for note in self.notes):
            self._noted = anyio.Event()
            await self._noted.wait()

    async def connected(self) -> GuestPort:
        """The next connection of the host."""
        return await self.connections.receive()


@asynccontextmanager
async def listening_guest(directory: Path) -> AsyncGenerator[FakeGuest]:
    """Listen where QEMU would."""
    path = directory / "channel.sock"
    sink, source = anyio.create_memory_object_stream[GuestPort](100)
    open_ports: list[GuestPort] = []

    async with (
        sink,
        source,
        await anyio.create_unix_listener(str(path)) as listener,
        anyio.create_task_group() as tasks,
    ):

        async def accept() -> None:
            while True:
                port = GuestPort(await listener.accept())
                open_ports.append(port)
                await sink.send(port)

        tasks.start_soon(accept)
        try:
            yield FakeGuest(path, source)
        finally:
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                for port in open_ports:
                    await port.stream.aclose()


async def settled() -> None:
    """Let every task handle what it was told, before the block cancels them all.

    On asyncio, anyio's Unix sockets log an InvalidStateError if a task is cancelled in the very
    turn in which its socket became readable; harmless, but it would fail the test.
    """
    await anyio.lowlevel.checkpoint()
    await anyio.wait_all_tasks_blocked()


def greeting(nonce: int) -> Hello:
    """The HELLO of a test's epoch."""
    return Hello(
        nonce=nonce,
        realtime_ns=1_700_000_000_000_000_000,
        entropy=bytes(32),
        hostname="h",
        name="n",
    )


@asynccontextmanager
async def mux_and_guest(
    directory: Path, *, reserved: bool = False
) -> AsyncGenerator[tuple[ChannelMux, FakeGuest]]:
    """A mux that connects to a fake guest; not greeted yet."""
    async with listening_guest(directory) as guest:
        mux = ChannelMux(greeting, guest.note)
        mux.reserved = reserved
        with anyio.fail_after(DEADLINE_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(mux.run, str(guest.socket_path))
                yield mux, guest
                await settled()
                tasks.cancel_scope.cancel()


@asynccontextmanager
async def greeted(directory: Path) -> AsyncGenerator[tuple[ChannelMux, GuestPort]]:
    """A mux whose agent has answered, and that agent's port."""
    async with mux_and_guest(directory) as (mux, guest):
        port = await guest.connected()
        await port.greet()
        await mux.ready.wait()
        yield mux, port


@asynccontextmanager
async def opened(
    mux: ChannelMux, port: GuestPort, number: int = 1978
) -> AsyncGenerator[tuple[MuxStream, int]]:
    """A stream that the guest accepted, and its id."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(port.accept)
        async with mux.open_stream(number) as stream:
            yield stream, stream.id
