"""The mux frame, encode and decode; twin of guest/frames.h. The page to both is docs/protocol.md.

Header, little-endian: u32 payload length, u32 stream, u8 type, three zero bytes; then the payload.
The guest is hostile: the decoder keeps at most one frame of it and refuses whatever a guest may not
say.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

MAGIC = b"\xff\xff\xff\xffMACHINEN\x00\x01\r\n"
HEADER = struct.Struct("<IIB3s")
MAX_PAYLOAD_BYTES = 65536
INITIAL_WINDOW_BYTES = 262144
MAX_STREAMS = 512
MAX_GUEST_STREAMS = 256
"""Of them, those the guest has opened: it cannot leave the host without."""
MAX_RESET_TEXT_BYTES = 256
MAX_LOG_BYTES = 1024
MAX_PING_BYTES = 64
PROTOCOL_VERSION = 1
TCP_PORT_BASE = 65536
"""Channel port of TCP port n on the guest's loopback: 65536 + n."""

PROXY_PORT = 1979
"""The guest opens it for each connection to the web proxy on its loopback."""

HELLO_SET_TIME = 1
HELLO_NEW_EPOCH = 2
HELLO_PROXY = 4
"""A web proxy answers on channel port PROXY_PORT."""
HELLO_RESTORED = 8
"""The guest's connections to other hosts are gone: it shall reset them."""
HELLO_WORKLOAD_STARTED = 1


class FrameType(IntEnum):
    """What a frame says. Numbers are the wire's."""

    HELLO = 1
    OPEN = 2
    ACCEPT = 3
    DATA = 4
    CREDIT = 5
    EOF = 6
    RESET = 7
    QUIESCE = 8
    QUIESCED = 9
    RESUME = 10
    WORKLOAD_EXIT = 11
    PING = 12
    PONG = 13
    POWEROFF = 14
    LOG = 15


_CONNECTION_TYPES = frozenset(
    {
        FrameType.HELLO,
        FrameType.QUIESCED,
        FrameType.WORKLOAD_EXIT,
        FrameType.PING,
        FrameType.PONG,
        FrameType.LOG,
    }
)
_STREAM_TYPES = frozenset(
    {
        FrameType.OPEN,
        FrameType.ACCEPT,
        FrameType.DATA,
        FrameType.CREDIT,
        FrameType.EOF,
        FrameType.RESET,
    }
)
_PAYLOAD_BOUNDS: dict[FrameType, tuple[int, int]] = {
    FrameType.HELLO: (16, 16),
    FrameType.OPEN: (4, 4),
    FrameType.ACCEPT: (0, 0),
    FrameType.DATA: (1, MAX_PAYLOAD_BYTES),
    FrameType.CREDIT: (4, 4),
    FrameType.EOF: (0, 0),
    FrameType.RESET: (4, 4 + MAX_RESET_TEXT_BYTES),
    FrameType.QUIESCED: (8, 8),
    FrameType.WORKLOAD_EXIT: (2, 2),
    FrameType.PING: (0, MAX_PING_BYTES),
    FrameType.PONG: (0, MAX_PING_BYTES),
    FrameType.LOG: (0, MAX_LOG_BYTES),
}


class FrameError(Exception):
    """The guest sent bytes that are no frame it may send."""


class Frame(NamedTuple):
    """One unit on the mux."""

    type: FrameType
    stream: int
    payload: bytes


def encode(frame_type: FrameType, stream: int = 0, payload: bytes | memoryview = b"") -> bytes:
    """The bytes of one frame."""
    return HEADER.pack(len(payload), stream, frame_type, b"\0\0\0") + payload


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What the host says first: who the guest is now, and what time it is.

    `entropy` is 32 bytes; `realtime_ns` counts from the Unix epoch.
    """

    nonce: int
    realtime_ns: int
    entropy: bytes
    hostname: str
    name: str
    flags: int = HELLO_SET_TIME | HELLO_NEW_EPOCH

    def encode(self) -> bytes:
        """MAGIC and the HELLO frame, ready to send."""
        hostname, name = self.hostname.encode()[:255], self.name.encode()[:255]
        fixed = struct.pack(
            "<IQIQ32sHH",
            PROTOCOL_VERSION,
            self.nonce,
            self.flags,
            self.realtime_ns,
            self.entropy,
            len(hostname),
            len(name),
        )
        return MAGIC + encode(FrameType.HELLO, 0, fixed + hostname + name)


class GuestHello(NamedTuple):
    """What the guest answers."""

    version: int
    nonce: int
    flags: int

    @classmethod
    def decode(cls, payload: bytes) -> GuestHello:
        """Read `u32 version, u64 nonce, u32 flags`."""
        return cls(*struct.unpack("<IQI", payload))


def decode_reset(payload: bytes) -> tuple[int, str]:
    """`u32 errno, text` of a RESET."""
    (errno_value,) = struct.unpack_from("<I", payload)
    return errno_value, payload[4:].decode("utf-8", "replace")


def decode_u32(payload: bytes) -> int:
    """The one number of OPEN or CREDIT."""
    return struct.unpack("<I", payload)[0]


@dataclass(slots=True)
class FrameDecoder:
    """Bytes of the port in, frames out.

    Starts out of step: everything up to the first MAGIC is thrown away. A MAGIC at a frame boundary
    is reported as a HELLO that follows it, since nothing else may.
    """

    _buffer: bytearray = field(default_factory=bytearray)
    in_step: bool = False

    def feed(self, data: bytes | memoryview) -> list[Frame]:
        """Every frame completed by `data`, which may be used again afterwards.

        Raises:
            FrameError: the guest broke the protocol; call `lose_step()` or drop the connection.
        """
        frames: list[Frame] = []
        if self.in_step:  # copied once, into the frames, but for one that is cut in two
            with memoryview(data) as view:
                position = self._take_cut(view, frames) if self._buffer else 0
                position = self._take_all(view, position, frames)
                self._buffer += view[position:]
            return frames
        self._buffer += data
        position = 0 if self.in_step else self._find_step()
        if self.in_step:
            position = self._take_all(self._buffer, position, frames)
        del self._buffer[:position]
        return frames

    def lose_step(self) -> None:
        """Forget what is half read and scan for the next MAGIC."""
        self._buffer.clear()
        self.in_step = False

    def _find_step(self) -> int:
        found = self._buffer.find(MAGIC)
        if found < 0:  # keep what may be the beginning of a MAGIC
            return max(0, len(self._buffer) - len(MAGIC) + 1)
        self.in_step = True
        return found + len(MAGIC)

    def _take_cut(self, data: memoryview, frames: list[Frame]) -> int:
        """Complete the frame that is half read; returns how much of `data` went there."""
        position = 0
        while self._buffer and position < len(data):
            missing = self._missing()
            self._buffer += data[position : position + missing]
            position = min(position + missing, len(data))
            del self._buffer[: self._take_all(self._buffer, 0, frames)]
        return position

    def _missing(self) -> int:
        """Bytes the next step takes: up to the header's end, the frame's end, or a MAGIC's."""
        if len(self._buffer) < HEADER.size:
            return HEADER.size - len(self._buffer)
        length = int.from_bytes(self._buffer[:4], "little")
        whole = len(MAGIC) if length == 0xFFFFFFFF else HEADER.size + length
        return whole - len(self._buffer)

    def _take_all(
        self, data: bytes | bytearray | memoryview, position: int, frames: list[Frame]
    ) -> int:
        """Append the frames from `position` on and return where they end."""
        with memoryview(data) as view:
            while taken := self._take(view, position, frames):
                position += taken
        return position

    def _take(self, buffer: memoryview, position: int, frames: list[Frame]) -> int:
        """Append the frame at `position` and return its size, or 0 if it is not all there."""
        if len(buffer) - position < HEADER.size:
            return 0
        length, stream, number, padding = HEADER.unpack_from(buffer, position)
        if length == 0xFFFFFFFF:
            if not MAGIC.startswith(bytes(buffer[position : position + len(MAGIC)])):
                raise FrameError("a frame of impossible length")
            return len(MAGIC) if len(buffer) - position >= len(MAGIC) else 0
        frame_type = _checked_type(length, stream, number, padding)
        end = position + HEADER.size + length
        if len(buffer) < end:
            return 0
        frames.append(Frame(frame_type, stream, bytes(buffer[position + HEADER.size : end])))
        return HEADER.size + length


def _checked_type(length: int, stream: int, number: int, padding: bytes) -> FrameType:
    if padding != b"\0\0\0":
        raise FrameError("padding that is not zero")
    try:
        frame_type = FrameType(number)
    except ValueError:
        raise FrameError(f"a frame of unknown type {number}") from None
    low, high = _PAYLOAD_BOUNDS.get(frame_type, (1, 0))
    if not low <= length <= high:
        raise FrameError(f"a {frame_type.name} of {length} bytes")
    if frame_type not in (_STREAM_TYPES if stream else _CONNECTION_TYPES):
        raise FrameError(f"a {frame_type.name} on stream {stream}")
    return frame_type
