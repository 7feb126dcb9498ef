"""One conversation on the mux: bytes in order, with credit, in both directions."""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import anyio

from vmm import frames
from vmm.errors import VmmError
from vmm.frames import Frame, FrameError, FrameType

CHUNK_BYTES = 32768
"""Frames are this long at most, so that streams take short turns."""
BATCH_BYTES = 4 * CHUNK_BYTES
"""What goes between a client and a stream in one turn of the event loop, which costs more."""
OPENING_BYTES, ENDING_BYTES = 512, 8
"""How much of both ends is kept for telemetry (vmm/telemetry.py)."""
CREDIT_SHARE = 4
"""Consumed bytes are credited when they are this part of the window."""


class FrameSink(Protocol):
    """What a stream needs of its mux."""

    def post(self, frame_type: FrameType, stream: int, payload: bytes = b"") -> None:
        """Queue a small frame at once."""
        ...

    @property
    def has_room(self) -> bool:
        """Whether data may be queued without waiting for a turn."""
        ...

    async def post_when_room(self, frame: bytes) -> None:
        """Queue a frame, waiting for a turn."""
        ...


class StreamResetError(Exception):
    """The guest ended the stream in both directions; carries its errno and text."""

    def __init__(self, errno_value: int, text: str) -> None:
        super().__init__(text or errno.errorcode.get(errno_value, f"errno {errno_value}"))
        self.errno_value = errno_value


class MuxStream:
    """A stream of either side. Used by one sender and one receiver at a time.

    One the host opened is good after `wait_accepted()`, one the guest opened after `accept()`.
    """

    def __init__(self, mux: FrameSink, stream_id: int) -> None:
        self.id = stream_id
        self._mux = mux
        self._incoming: deque[bytes] = deque()
        self._incoming_bytes = 0
        self._consumed = 0
        self._window = frames.INITIAL_WINDOW_BYTES
        """What the guest may send, and may let us send, before anything is consumed."""
        self._wider_window = self._window
        """What it becomes with the first credit."""
        self._send_window = frames.INITIAL_WINDOW_BYTES
        self._changed = anyio.Event()
        self._window_opened = anyio.Event()
        self._accepted = False
        self._guest_eof = False
        self._our_eof = False
        self._reset: StreamResetError | None = None
        self.bytes_sent = self.bytes_received = 0
        self.opening = b""
        """The first bytes that were sent."""
        self.first_received = self.ending = b""
        """The first byte that came, and the last few."""
        self.first_reply: float | None = None
        """When that first byte came, by the monotonic clock."""
        self.on_data: Callable[[bytes], bool] | None = None
        """Offered what arrives before it is kept for `receive`; True: taken, and consumed."""

    @property
    def is_hosts(self) -> bool:
        """Whether the host opened it; the guest otherwise."""
        return self.id % 2 == 1

    @property
    def was_reset(self) -> bool:
        """True once either side has ended it in both directions."""
        return self._reset is not None

    # -- called by the mux ----------------------------------------------------------------------

    def on_frame(self, frame: Frame) -> None:
        """Take a frame of this stream.

        Raises:
            FrameError: the guest sent past its window or after its end.
        """
        match frame.type:
            case FrameType.ACCEPT:
                if not self.is_hosts or self._accepted:
                    raise FrameError(f"ACCEPT on stream {self.id}")
                self._accepted = True
            case FrameType.DATA:
                if self._on_data(frame.payload):
                    return  # nobody need wake
            case FrameType.CREDIT:
                self._on_credit(frames.decode_u32(frame.payload))
            case FrameType.EOF:
                self._guest_eof = True
            case _:
                self.on_reset(*frames.decode_reset(frame.payload))
        self._changed.set()

    def on_reset(self, errno_value: int, text: str) -> None:
        """The stream is gone in both directions."""
        self._reset = self._reset or StreamResetError(errno_value, text)
        self._changed.set()
        self._window_opened.set()

    def _on_data(self, payload: bytes) -> bool:
        """Keep it, in order, or give it away; True if it was taken."""
        self._incoming_bytes += len(payload)
        if self._guest_eof:
            raise FrameError(f"DATA after EOF on stream {self.id}")
        if self._incoming_bytes + self._consumed > self._window:
            raise FrameError(f"DATA past the window of stream {self.id}")
        if not self.bytes_received:
            self.first_reply, self.first_received = time.monotonic(), payload[:1]
        self.bytes_received += len(payload)
        self.ending = (self.ending + payload[-ENDING_BYTES:])[-ENDING_BYTES:]
        if self.on_data is None or self._incoming or not self.on_data(payload):
            self._incoming.append(payload)
            return False
        self._incoming_bytes -= len(payload)
        self._consumed += len(payload)
        self._give_credit()
        return True

    def _on_credit(self, credit: int) -> None:
        self._send_window += credit
        if self._send_window > self._window:
            raise FrameError(f"CREDIT for bytes that were never sent on stream {self.id}")
        self._window_opened.set()

    # -- called by whoever opened it --------------------------------------------------------------

    async def wait_accepted(self, gone: anyio.Event | None = None) -> None:
        """Wait until the guest's service took the stream, or `gone` is set.

        Raises:
            VmmError: STREAM_REFUSED with the guest's words.
        """
        async with anyio.create_task_group() as tasks:
            if gone is not None:
                tasks.start_soon(self._reset_when, gone)
            while not self._accepted and not self._reset:
                await self._wait_changed()
            tasks.cancel_scope.cancel()
        if not self._accepted:
            raise VmmError("STREAM_REFUSED", f"the guest refused the stream: {self._reset}")

    def accept(self) -> None:
        """Take a stream the guest opened; `reset()` refuses it."""
        if not self._reset:
            self._accepted = True
            self._mux.post(FrameType.ACCEPT, self.id)

    def widen(self, window_bytes: int, *, once_it_flows: bool = False) -> None:
        """Let the guest send so much before we consume it; an agent that can lets us do the same.

        Call it once, on an accepted stream. `once_it_flows`: with the first credit, so that a
        guest that says little is not woken for it.
        """
        if self._reset:
            return
        if once_it_flows:
            self._wider_window = window_bytes
            return
        more = window_bytes - self._window
        self._window = self._wider_window = window_bytes
        self._mux.post(FrameType.CREDIT, self.id, more.to_bytes(4, "little"))

    async def _reset_when(self, gone: anyio.Event) -> None:
        await gone.wait()
        self.reset()

    async def receive(self) -> bytes:
        """The next bytes, or b"" at the guest's end of file.

        What an earlier call returned counts as consumed now, and is credited to the guest.

        Raises:
            StreamResetError: the guest ended the stream.
        """
        self._give_credit()
        while not self._incoming:
            if self._reset:
                raise self._reset
            if self._guest_eof:
                return b""
            await self._wait_changed()
        data = self._incoming.popleft()
        self._incoming_bytes -= len(data)
        self._consumed += len(data)
        return data

    async def receive_batch(self) -> bytes:
        """As `receive()`, but all that is there, up to BATCH_BYTES and a frame."""
        pieces = [await self.receive()]
        size = len(pieces[0])
        while self._incoming and size < BATCH_BYTES:
            pieces.append(self._incoming.popleft())
            size += len(pieces[-1])
        more = size - len(pieces[0])
        self._incoming_bytes -= more
        self._consumed += more
        return b"".join(pieces) if more else pieces[0]

    async def send(self, data: bytes) -> None:
        """Send bytes, waiting for credit.

        Raises:
            StreamResetError: the guest ended the stream.
        """
        view = memoryview(data)
        self._keep_opening(data)
        while view:
            while self._send_window <= 0 and not self._reset:
                self._window_opened = anyio.Event()
                await self._window_opened.wait()
            if self._reset:
                raise self._reset
            size = min(len(view), CHUNK_BYTES, self._send_window)
            self._send_window -= size
            self.bytes_sent += size
            await self._mux.post_when_room(frames.encode(FrameType.DATA, self.id, view[:size]))
            view = view[size:]

    def send_now(self, data: bytes) -> bool:
        """Send all of it without waiting; False if that cannot be: then nothing was sent."""
        if self._reset or len(data) > self._send_window or not self._mux.has_room:
            return False
        self._keep_opening(data)
        self._send_window -= len(data)
        self.bytes_sent += len(data)
        for start in range(0, len(data), CHUNK_BYTES):
            self._mux.post(FrameType.DATA, self.id, data[start : start + CHUNK_BYTES])
        return True

    def _keep_opening(self, data: bytes) -> None:
        if len(self.opening) < OPENING_BYTES:
            self.opening += data[: OPENING_BYTES - len(self.opening)]

    def send_eof(self) -> None:
        """No more bytes from us; the guest may still send."""
        if not self._our_eof and not self._reset:
            self._our_eof = True
            self._mux.post(FrameType.EOF, self.id)

    def reset(self, errno_value: int = errno.ECONNRESET) -> None:
        """End the stream in both directions now."""
        if not self._reset:
            self._mux.post(FrameType.RESET, self.id, errno_value.to_bytes(4, "little"))
            self.on_reset(errno_value, "ended by the host")

    def close(self) -> None:
        """Forget the stream; the guest is told unless both sides had finished."""
        if not (self._our_eof and self._guest_eof):
            self.reset()

    def _give_credit(self) -> None:
        """Credit what was consumed, in batches: at least a quarter of the window at a time."""
        if self._consumed >= self._window // CREDIT_SHARE and not self._reset:
            credit = self._consumed + self._wider_window - self._window
            self._window = self._wider_window
            self._mux.post(FrameType.CREDIT, self.id, credit.to_bytes(4, "little"))
            self._consumed = 0

    async def _wait_changed(self) -> None:
        self._changed = anyio.Event()
        await self._changed.wait()
