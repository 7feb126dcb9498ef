"""A small, blocking client of the guest agent's wire protocol, for tests; docs/protocol.md.

On purpose not vmm/frames.py: the tests compare the agent with the page, not with our other half.
"""

import socket
import struct
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

MAGIC = b"\xff\xff\xff\xffMACHINEN\x00\x01\r\n"
HEADER = struct.Struct("<IIB3x")
WINDOW = 262144

HELLO, OPEN, ACCEPT, DATA, CREDIT, EOF, RESET = range(1, 8)
QUIESCE, QUIESCED, RESUME, WORKLOAD_EXIT, PING, PONG, POWEROFF, LOG = range(8, 16)


def frame(kind: int, stream: int = 0, payload: bytes = b"") -> bytes:
    """One frame, ready to send."""
    return HEADER.pack(len(payload), stream, kind) + payload


def hello_payload(
    nonce: int,
    *,
    flags: int = 0,
    realtime_ns: int = 0,
    hostname: str = "",
    name: str = "",
    entropy: bytes = bytes(32),
) -> bytes:
    """The payload of the host's HELLO."""
    return (
        struct.pack("<IQIQ32sHH", 1, nonce, flags, realtime_ns, entropy, len(hostname), len(name))
        + hostname.encode()
        + name.encode()
    )


@dataclass
class Stream:
    """What has been heard on one stream."""

    accepted: bool = False
    data: bytearray = field(default_factory=bytearray)
    eof: bool = False
    reset: tuple[int, str] | None = None
    window: int = WINDOW
    """Bytes we may still send."""
    heard: int = 0
    """DATA bytes received so far."""
    auto_credit: bool = True


@dataclass
class Reply:
    """The agent frames of an exec stream, sorted."""

    stdout: bytes = b""
    stderr: bytes = b""
    replay: bytes = b""
    frames: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    code: int | None = None
    failure: str | None = None
    sizes: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    replay_done: bool = False


def parse_reply(data: bytes | bytearray) -> Reply:
    """Sort a stream's bytes; an incomplete frame at the end is left out."""
    reply = Reply()
    parts: dict[str, list[bytes]] = {"O": [], "E": [], "P": [], "F": []}
    text = bytes(data)
    at = 0
    while (newline := text.find(b"\n", at)) >= 0:
        words = text[at:newline].decode().split(" ")
        tag = words[0]
        at = newline + 1
        if tag == "X":
            reply.code = int(words[1])
        elif tag == "S":
            reply.sizes.append((int(words[1]), int(words[2])))
        else:
            size = int(words[1])
            if len(text) < at + size:
                break
            body = text[at : at + size]
            at += size
            reply.frames.append((tag, body))
            parts[tag].append(body)
            reply.replay_done = reply.replay_done or (tag == "P" and size == 0)
    reply.stdout, reply.stderr, reply.replay = (b"".join(parts[tag]) for tag in "OEP")
    reply.failure = b"".join(parts["F"]).decode() if parts["F"] else None
    return reply


def run_request(**fields: str | list[str]) -> bytes:
    """A RUN request; a list repeats its key."""
    records = b""
    for key, value in fields.items():
        for item in value if isinstance(value, list) else [value]:
            records += f"{key}={item}".encode() + b"\0"
    return b"RUN %d\n" % len(records) + records


class FrameClient:
    """One connection to an agent. Every wait has a deadline and raises TimeoutError."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.settimeout(0.2)
        self.streams: defaultdict[int, Stream] = defaultdict(Stream)
        self.control: list[tuple[int, bytes]] = []
        self.last_id = -1
        self.opened: list[tuple[int, int]] = []
        """Streams the guest asked for and their ports, oldest first."""
        self.buffer = bytearray()
        self.synced = False
        self.closed = False

    def send(self, data: bytes) -> None:
        """Send everything, reading meanwhile so that neither side waits for the other."""
        view = memoryview(data)
        while view:
            try:
                view = view[self.socket.send(view) :]
            except TimeoutError:
                self.pump()

    def pump(self) -> None:
        """Read once and sort what came."""
        try:
            data = self.socket.recv(1 << 20)
        except TimeoutError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed = True
            return
        self.buffer += data
        self._parse()

    def _parse(self) -> None:
        while True:
            if not self.synced or self.buffer.startswith(MAGIC[:4]):
                at = self.buffer.find(MAGIC)
                if at < 0:
                    return
                assert not self.synced or at == 0, "a MAGIC inside a frame header"
                del self.buffer[: at + len(MAGIC)]
                self.synced = True
            if len(self.buffer) < HEADER.size:
                return
            length, stream, kind = HEADER.unpack_from(self.buffer)
            assert length <= 65536
            if len(self.buffer) < HEADER.size + length:
                return
            payload = bytes(self.buffer[HEADER.size : HEADER.size + length])
            del self.buffer[: HEADER.size + length]
            self._frame(kind, stream, payload)

    def _frame(self, kind: int, number: int, payload: bytes) -> None:
        if number == 0:
            self.control.append((kind, payload))
            return
        stream = self.streams[number]
        if kind == OPEN:
            assert number % 2 == 0
            self.opened.append((number, struct.unpack("<I", payload)[0]))
        elif kind == ACCEPT:
            stream.accepted = True
        elif kind == DATA:
            stream.data += payload
            stream.heard += len(payload)
            if stream.auto_credit:
                self.send(frame(CREDIT, number, struct.pack("<I", len(payload))))
        elif kind == CREDIT:
            stream.window += struct.unpack("<I", payload)[0]
        elif kind == EOF:
            stream.eof = True
        elif kind == RESET:
            stream.reset = (struct.unpack_from("<I", payload)[0], payload[4:].decode())
        else:
            raise AssertionError(f"unexpected frame {kind} on stream {number}")

    def wait(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        """Read until the condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError("the agent did not answer in time")
            if self.closed:
                raise ConnectionError("the agent closed the connection")
            self.pump()

    def hello(self, nonce: int = 1, payload: bytes | None = None) -> bytes:
        """Open the connection; returns the agent's HELLO payload."""
        self.send(MAGIC + frame(HELLO, 0, payload or hello_payload(nonce)))
        return self.wait_hello(nonce)

    def hello_until_answered(
        self,
        nonce: int,
        seconds: float = 60.0,
        *,
        flags: int = 0,
        hostname: str = "",
        name: str = "",
    ) -> None:
        """MAGIC and HELLO with the time of day every 250 ms, as the monitor does it."""
        deadline = time.monotonic() + seconds
        while not self._hellos(nonce):
            if time.monotonic() > deadline:
                raise TimeoutError("the agent answered no HELLO")
            now = time.time_ns()
            payload = hello_payload(
                nonce, flags=flags, realtime_ns=now, hostname=hostname, name=name
            )
            self.send(MAGIC + frame(HELLO, 0, payload))
            next_try = time.monotonic() + 0.25
            while time.monotonic() < next_try and not self._hellos(nonce):
                self.pump()

    def _hellos(self, nonce: int) -> list[bytes]:
        return [
            payload
            for kind, payload in self.control
            if kind == HELLO and struct.unpack_from("<Q", payload, 4)[0] == nonce
        ]

    def wait_hello(self, nonce: int) -> bytes:
        """Wait for the agent's HELLO with this nonce."""
        self.wait(lambda: bool(self._hellos(nonce)))
        return self._hellos(nonce)[-1]

    def wait_control(self, kind: int, seconds: float = 60.0) -> bytes:
        """Wait for a frame of this kind on stream 0 and take it."""
        self.wait(lambda: any(found == kind for found, _ in self.control), seconds)
        for index, (found, payload) in enumerate(self.control):
            if found == kind:
                del self.control[index]
                return payload
        raise AssertionError

    def wait_opened(self) -> tuple[int, int]:
        """The next stream the guest asks for, and its port."""
        self.wait(lambda: bool(self.opened))
        return self.opened.pop(0)

    def open(self, port: int) -> int:
        """Send OPEN; returns the stream's number."""
        self.last_id += 2
        self.send(frame(OPEN, self.last_id, struct.pack("<I", port)))
        return self.last_id

    def data(self, number: int, data: bytes) -> None:
        """Send bytes, waiting for window."""
        stream = self.streams[number]
        while data:
            self.wait(lambda: stream.window > 0 or stream.reset is not None)
            if stream.reset is not None:
                return
            part = data[: min(65536, stream.window)]
            stream.window -= len(part)
            data = data[len(part) :]
            self.send(frame(DATA, number, part))

    def end(self, number: int) -> None:
        """Send EOF."""
        self.send(frame(EOF, number))

    def request(self, port: int, data: bytes) -> int:
        """OPEN and DATA in one go."""
        number = self.open(port)
        self.data(number, data)
        return number

    def finish(self, number: int, seconds: float = 60.0) -> bytes:
        """Wait for the agent's EOF or RESET; returns everything the stream said."""
        stream = self.streams[number]
        self.wait(lambda: stream.eof or stream.reset is not None, seconds)
        return bytes(stream.data)

    def execute(self, request: bytes, seconds: float = 60.0) -> Reply:
        """Run one request of port 1978 to its end."""
        number = self.request(1978, request)
        return parse_reply(self.finish(number, seconds))
