"""The channel to one guest: many streams over the one virtio-serial port.

The mux connects to QEMU's socket, greets the agent, and hands out streams with credit in both
directions, so that a flood on one stalls nobody else. The guest is hostile: whatever breaks the
protocol ends the connection, with the reason logged; streams end, the monitor and its clients go
on. Wire format: docs/protocol.md.
"""

from __future__ import annotations

import errno
import os
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from socket import socket
from typing import NamedTuple, Protocol

import anyio
from anyio.abc import SocketAttribute, TaskGroup

from vmm import frames
from vmm.errors import VmmError
from vmm.frames import Frame, FrameDecoder, FrameError, FrameType
from vmm.mux_stream import MuxStream, StreamResetError
from vmm.readiness import each_time_readable

HELLO_RETRY_S = 0.25
MAX_VIOLATIONS = 5
OUTBOX_FRAMES = 16
MAX_OUTBOX_FRAMES = 10_000
"""More than all streams together ever need at once: the guest asks and does not read."""
READ_BYTES = 262144


class WorkloadExit(NamedTuple):
    """How the workload ended: exit code, and the signal that killed it or 0."""

    code: int
    signal: int


class StreamObserver(Protocol):
    """Who wants to know of streams."""

    def stream_opened(self, port: int, stream: MuxStream) -> None:
        """One begins; the other side has not taken it yet."""
        ...

    def stream_closed(self, port: int, stream: MuxStream) -> None:
        """It has ended."""
        ...


GuestStreamHandler = Callable[[int, MuxStream], Awaitable[None]]


async def _refuse(_port: int, stream: MuxStream) -> None:
    stream.reset(errno.ECONNREFUSED)


class ChannelMux:
    """Streams to one guest's agent.

    `greet` makes the HELLO of this epoch; `log` takes reasons and the agent's own lines.
    """

    def __init__(self, greet: Callable[[int], frames.Hello], log: Callable[[str], None]) -> None:
        self._greet = greet
        self._log = log
        self._decoder = FrameDecoder()
        self._memory = memoryview(bytearray(READ_BYTES))
        """What arrives: allocating it for each read took three system calls."""
        self._streams: dict[int, MuxStream] = {}
        self._next_id = 1
        self._outbox: deque[bytes] = deque()
        self._unsent = memoryview(b"")
        """What the port has not yet taken of a batch of frames."""
        self._dispatching = False
        self._outbox_changed = anyio.Event()
        self._room = anyio.Event()
        self._held = False
        self._hold_after: bytes | None = None
        self._quiesced = anyio.Event()
        self._nonce = 0
        self._ended = False
        self._guest_tasks: TaskGroup | None = None
        self._last_guest_id = 0
        self.on_guest_stream: GuestStreamHandler = _refuse
        """Serves the streams the guest opens: `accept()` or `reset()` them first."""
        self.ready = anyio.Event()
        """Set while the agent answers; a new Event after every loss of the connection."""
        self.was_ready = False
        """True once the agent has answered in this monitor's life."""
        self.reserved = False
        """Set before `run`: the agent is greeted, but not `ready` for anybody until `open_up`."""
        self.met = anyio.Event()
        """Set when the agent has answered for the first time, reserved or not."""
        self.workload_started = False
        self.workload_exit: WorkloadExit | None = None
        self.last_output_ms = 0
        self.bytes_sent = self.bytes_received = 0
        self.on_post: Callable[[], object] | None = None
        """Called with each frame for the guest: a VM that sleeps is wanted (vmm/auto_pause.py)."""
        self.telemetry: StreamObserver | None = None
        """Hears of every stream, whoever opens it."""

    # -- the connection -------------------------------------------------------------------------

    async def run(self, path: str) -> None:
        """Keep the channel up until the socket is gone for good or the guest broke it too often."""
        for _ in range(MAX_VIOLATIONS):
            try:
                async with await anyio.connect_unix(path) as stream:
                    await self._converse(stream.extra(SocketAttribute.raw_socket))
                    return
            except FrameError as error:
                self._log(f"the guest broke the channel's protocol: {error}; starting it again")
            except OSError:
                return
            finally:
                self._lose_connection()
        self._ended = True
        self._log(f"the guest broke the channel {MAX_VIOLATIONS} times; it stays closed")

    async def _converse(self, port: socket) -> None:
        """Speak on one connection until it ends; FrameError if the guest broke the protocol."""
        broken: FrameError | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._write, port)
            tasks.start_soon(self._say_hello)
            self._guest_tasks = tasks
            try:
                await each_time_readable(port, lambda: self._read(port))
            except OSError:
                pass  # QEMU is gone; its exit status says why
            except FrameError as error:
                broken = error  # raised below: a task group would wrap it in an ExceptionGroup
            tasks.cancel_scope.cancel()
        if broken is not None:
            raise broken

    def _read(self, port: socket) -> bool:
        """Take what has come, and send what it led to at once; False at the end.

        Raises:
            FrameError: the guest broke the protocol.
        """
        try:
            size = port.recv_into(self._memory)
        except BlockingIOError:
            return True
        self.bytes_received += size
        self._dispatching = True
        try:
            for frame in self._decoder.feed(self._memory[:size]):
                self._dispatch(frame)
        finally:
            self._dispatching = False
        if len(self._outbox) > MAX_OUTBOX_FRAMES:
            raise FrameError("questions without listening to the answers")
        if not self._send(port):
            self._outbox_changed.set()
        return size > 0

    async def _say_hello(self) -> None:
        """Greet until answered: QEMU drops what is written while the guest has the port closed."""
        self._nonce = int.from_bytes(os.urandom(8), "little")
        self._outbox.clear()
        answered = self.met if self.reserved else self.ready
        while not answered.is_set():
            self._post(self._greet(self._nonce).encode())
            with anyio.move_on_after(HELLO_RETRY_S):
                await answered.wait()

    async def _write(self, port: socket) -> None:
        """Send what is posted while nothing arrives, and what the port did not take at once."""
        try:
            while True:
                self._outbox_changed = anyio.Event()
                if self._send(port):
                    await self._outbox_changed.wait()
                else:
                    await anyio.wait_writable(port)
        except OSError:
            pass  # the reader sees the same end and cleans up

    def _send(self, port: socket) -> bool:
        """Send frames in the order they were posted, several at a time; False: the port is full."""
        while self._unsent or (self._outbox and not self._held):
            if not self._unsent:
                self._unsent = memoryview(self._take_batch())
            try:
                sent = port.send(self._unsent)
            except BlockingIOError:
                return False
            self.bytes_sent += sent
            self._unsent = self._unsent[sent:]
            if not self._room.is_set():
                self._room.set()
        return True

    def _take_batch(self) -> bytes:
        batch: list[bytes] = []
        size = 0
        while self._outbox and size < READ_BYTES and not self._held:
            frame = self._outbox.popleft()
            batch.append(frame)
            size += len(frame)
            self._held = frame is self._hold_after
        return b"".join(batch)

    def _post(self, frame: bytes) -> None:
        self._outbox.append(frame)
        if self.on_post is not None:
            self.on_post()
        if not self._dispatching:  # else it goes at the end of that
            self._outbox_changed.set()

    @property
    def has_room(self) -> bool:
        """Whether data may be posted without waiting for a turn."""
        return len(self._outbox) < OUTBOX_FRAMES

    async def post_when_room(self, frame: bytes) -> None:
        """Queue a frame, waiting while the queue is full: streams take turns here."""
        while not self.has_room:
            if self._room.is_set():  # else others wait on it already: they must not be forgotten
                self._room = anyio.Event()
            await self._room.wait()
        self._post(frame)

    def post(self, frame_type: FrameType, stream: int, payload: bytes = b"") -> None:
        """Queue a small frame at once (credits, ends)."""
        self._post(frames.encode(frame_type, stream, payload))

    def _lose_connection(self) -> None:
        for stream in list(self._streams.values()):
            stream.on_reset(errno.ECONNRESET, "the channel to the guest was lost")
        self._streams.clear()
        self._guest_tasks, self._last_guest_id = None, 0
        self._decoder.lose_step()
        self._outbox.clear()
        self._unsent = memoryview(b"")
        self._held, self._hold_after = False, None
        self._room.set()
        if self.ready.is_set():
            self.ready = anyio.Event()

    # -- frames from the guest ------------------------------------------------------------------

    def _dispatch(self, frame: Frame) -> None:
        if frame.type is FrameType.HELLO:
            self._on_hello(frames.GuestHello.decode(frame.payload))
        elif not self.ready.is_set():
            return  # still of the connection before: its HELLO has not come yet
        elif frame.stream == 0:
            self._on_connection_frame(frame)
        elif frame.type is FrameType.OPEN:
            self._on_open(frame)
        elif stream := self._streams.get(frame.stream):
            stream.on_frame(frame)
            if frame.type is FrameType.DATA:
                self.last_output_ms = time.time_ns() // 1_000_000

    def _on_hello(self, hello: frames.GuestHello) -> None:
        if hello.nonce != self._nonce:
            return  # the answer to an earlier greeting
        if hello.version != frames.PROTOCOL_VERSION:
            raise FrameError(f"the agent speaks version {hello.version}")
        self.met.set()
        if self.reserved:
            return
        self.workload_started = bool(hello.flags & frames.HELLO_WORKLOAD_STARTED)
        self.was_ready = True
        self.ready.set()
        self.tell_time()  # a guest that starts or is busy reads its greeting late

    def _on_connection_frame(self, frame: Frame) -> None:
        match frame.type:
            case FrameType.PING:
                self.post(FrameType.PONG, 0, frame.payload)
            case FrameType.QUIESCED if frame.payload == self._quiesce_token():
                self._quiesced.set()
            case FrameType.WORKLOAD_EXIT:
                self.workload_exit = WorkloadExit(*frame.payload)
            case FrameType.LOG:
                self._log("agent: " + frame.payload.decode("utf-8", "replace"))
            case _:
                pass  # a late QUIESCED, a PONG

    def _quiesce_token(self) -> bytes:
        return self._hold_after[frames.HEADER.size :] if self._hold_after else b""

    def _on_open(self, frame: Frame) -> None:
        if frame.stream % 2 or frame.stream <= self._last_guest_id:
            raise FrameError(f"OPEN of stream {frame.stream}")
        self._last_guest_id = frame.stream
        opened = sum(not number % 2 for number in self._streams)
        if opened >= frames.MAX_GUEST_STREAMS or self._guest_tasks is None:
            self.post(FrameType.RESET, frame.stream, errno.EMFILE.to_bytes(4, "little"))
            return
        stream = self._streams[frame.stream] = MuxStream(self, frame.stream)
        self._guest_tasks.start_soon(self._serve_guest, frames.decode_u32(frame.payload), stream)

    async def _serve_guest(self, port: int, stream: MuxStream) -> None:
        with self._observed(port, stream):
            try:
                await self.on_guest_stream(port, stream)
            except (StreamResetError, VmmError):
                pass  # the guest hung up, or asked for what it cannot have: closing tells it
            except Exception as error:  # a fault of ours in one stream shall not end the VM
                self._log(f"a stream of the guest to port {port} failed: {error!r}")

    # -- what the monitor asks for --------------------------------------------------------------

    @asynccontextmanager
    async def open_stream(
        self, port: int, gone: anyio.Event | None = None
    ) -> AsyncGenerator[MuxStream]:
        """A stream to a service of the guest; leaving the block ends it in both directions.

        `gone` is set when nobody wants the stream any more: the wait for the guest ends then.

        Raises:
            VmmError: AGENT_UNAVAILABLE if the agent does not answer, STREAM_REFUSED if the service
                does not.
        """
        if not self.ready.is_set():
            raise VmmError("AGENT_UNAVAILABLE", "the guest's agent does not answer", retryable=True)
        if len(self._streams) >= frames.MAX_STREAMS:
            raise VmmError("STREAM_REFUSED", "too many streams are open", retryable=True)
        stream = MuxStream(self, self._next_id)
        self._next_id += 2
        self._streams[stream.id] = stream
        self.post(FrameType.OPEN, stream.id, port.to_bytes(4, "little"))
        with self._observed(port, stream):
            await stream.wait_accepted(gone)
            yield stream

    @contextmanager
    def _observed(self, port: int, stream: MuxStream) -> Generator[None]:
        """The stream ends with the block, and whoever wants to know is told."""
        if self.telemetry:
            self.telemetry.stream_opened(port, stream)
        try:
            yield
        finally:
            stream.close()
            self._streams.pop(stream.id, None)
            if self.telemetry:
                self.telemetry.stream_closed(port, stream)

    async def open_up(self) -> None:
        """End being reserved: greet the agent anew, and wait until it is ready for everybody."""
        self.reserved = False
        if self._guest_tasks is not None:  # else the next connection begins with a greeting
            self._guest_tasks.start_soon(self._say_hello)
        await self.ready.wait()

    async def quiesce(self, timeout_s: float) -> bool:
        """Stop both directions at a frame boundary; True if the guest confirmed it in time.

        Either way nothing is sent until `resume` or a new connection.
        """
        if not self.ready.is_set():
            return False
        self._quiesced = anyio.Event()
        self._hold_after = frames.encode(FrameType.QUIESCE, 0, os.urandom(8))
        self._post(self._hold_after)
        with anyio.move_on_after(timeout_s):
            await self._quiesced.wait()
            return True
        return False

    def resume(self) -> None:
        """Go on after `quiesce`, telling the guest what time it is now."""
        if self._hold_after is None:
            return
        if not self._held and self._hold_after in self._outbox:
            self._outbox.remove(self._hold_after)
        self._held, self._hold_after = False, None
        now = time.time_ns().to_bytes(8, "little")
        self._outbox.appendleft(frames.encode(FrameType.RESUME, 0, now))
        self._outbox_changed.set()

    def tell_time(self) -> None:
        """Step the guest's clock to now, after a pause that froze it."""
        if self.ready.is_set():
            self.post(FrameType.RESUME, 0, time.time_ns().to_bytes(8, "little"))

    def power_off(self, grace_ms: int) -> bool:
        """Ask the guest to end its workload and power off; False if its agent does not answer."""
        if not self.ready.is_set():
            return False
        self.post(FrameType.POWEROFF, 0, grace_ms.to_bytes(4, "little"))
        return True
