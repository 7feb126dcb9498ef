"""A guest that speaks FUSE by hand: any request, well-formed or not, straight into a session."""

from __future__ import annotations

import os
import struct
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.lowlevel

from vmm import fuse_wire as wire
from vmm.fuse_session import FuseSession
from vmm.fuse_wire import Op


class Reply(NamedTuple):
    """What came back: errno or 0, and the body."""

    error: int
    body: bytes

    @property
    def node(self) -> int:
        """Of an entry: the node's number; 0 for a name that is not there."""
        return wire.U64.unpack_from(self.body)[0]

    @property
    def size(self) -> int:
        """Of an entry: the file's size."""
        return wire.ATTR.unpack_from(self.body, wire.ENTRY.size)[1]

    @property
    def handle(self) -> int:
        """Of OPEN and OPENDIR: the handle; of CREATE it lies behind the entry."""
        behind = wire.ENTRY.size + wire.ATTR.size
        at = behind if len(self.body) > behind else 0
        return wire.U64.unpack_from(self.body, at)[0]


def message(op: int, node: int, body: bytes = b"", *, unique: int = 2, last: int = 0) -> bytes:
    """A request's bytes; `last` is the header's last number."""
    size = wire.IN_HEADER.size + len(body)
    return wire.IN_HEADER.pack(size, op, unique, node, os.getuid(), os.getgid(), 1, last) + body


def open_body(flags: int = os.O_RDONLY) -> bytes:
    return wire.U32_PAIR.pack(flags, 0)


def read_body(handle: int, offset: int, size: int) -> bytes:
    return wire.READ_IN.pack(handle, offset, size, 0, 0, 0, 0)


def write_body(handle: int, offset: int, data: bytes, flags: int = 0) -> bytes:
    return wire.WRITE_IN.pack(handle, offset, len(data), 0, 0, flags, 0) + data


def lock_body(
    handle: int, owner: int, kind: int, start: int = 0, end: int = (1 << 63) - 1
) -> bytes:
    return wire.LOCK_IN.pack(handle, owner, start, end, kind, owner, 0, 0)


def create_body(name: bytes, flags: int = os.O_RDWR | os.O_CREAT, mode: int = 0o644) -> bytes:
    return wire.CREATE_IN.pack(flags, mode, 0o22, 0) + name + b"\0"


def release_body(handle: int) -> bytes:
    return wire.RELEASE_IN.pack(handle, 0, 0, 0)


def setattr_body(valid: int, *, size: int = 0, mode: int = 0, handle: int = 0) -> bytes:
    return wire.SETATTR_IN.pack(valid, 0, handle, size, 0, 0, 0, 0, 0, 0, 0, mode, 0, 0, 0, 0)


class RawGuest:
    """Asks a session one thing at a time, over `serve` as in life."""

    def __init__(self, session: FuseSession) -> None:
        self.session = session
        self.unique = 0
        self.notices: list[bytes] = []
        self._incoming: deque[bytes] = deque()
        self._changed = anyio.Event()
        self._answers: dict[int, Reply] = {}
        self._answered = anyio.Event()
        self._ended = False
        self.words: list[int] = []
        self.sent = b""

    # -- the stream, as the session sees it -----------------------------------------------------

    async def receive(self, max_bytes: int) -> bytes:
        """What the guest said; the end after `end`."""
        while not self._incoming:
            if self._ended:
                raise anyio.EndOfStream
            self._changed = anyio.Event()
            await self._changed.wait()
        await anyio.lowlevel.checkpoint()
        return self._incoming.popleft()

    async def send(self, data: bytes) -> None:
        """What the session answers."""
        await anyio.lowlevel.checkpoint()
        self.take(data)

    def take(self, data: bytes) -> None:
        """Cut what was sent into answers and words."""
        self.sent += data
        while len(self.sent) >= 4:
            (size,) = struct.unpack_from("=I", self.sent)
            if len(self.sent) < size:
                break
            self._hear(self.sent[:size])
            self.sent = self.sent[size:]

    def _hear(self, heard: bytes) -> None:
        if len(heard) == wire.CONTROL_BYTES:
            self.words.append(wire.U32_PAIR.unpack(heard)[1])
        else:
            _, error, unique = wire.OUT_HEADER.unpack_from(heard)
            if unique == 0:
                self.notices.append(heard)
            else:
                self._answers[unique] = Reply(-error, heard[wire.OUT_HEADER.size :])
        self._answered.set()

    # -- what a test does -----------------------------------------------------------------------

    def say(self, data: bytes) -> None:
        """Any bytes."""
        self._incoming.append(data)
        self._changed.set()

    def end(self) -> None:
        """The stream goes away."""
        self._ended = True
        self._changed.set()

    def post(self, op: Op | int, node: int, body: bytes = b"") -> int:
        """Send a request; its number."""
        self.unique += 2
        self.say(message(op, node, body, unique=self.unique))
        return self.unique

    async def answer(self, unique: int) -> Reply:
        """Wait for a request's answer."""
        while unique not in self._answers:
            self._answered = anyio.Event()
            await self._answered.wait()
        return self._answers.pop(unique)

    def has_answer(self, unique: int) -> bool:
        """True if it is answered."""
        return unique in self._answers

    async def heard_word(self, count: int = 1) -> list[int]:
        """Wait for that many words of control."""
        while len(self.words) < count:
            self._answered = anyio.Event()
            await self._answered.wait()
        return self.words

    async def ask(self, op: Op | int, node: int = 1, body: bytes = b"") -> Reply:
        """One request, answered."""
        with anyio.fail_after(60):
            return await self.answer(self.post(op, node, body))

    async def good(self, op: Op | int, node: int = 1, body: bytes = b"") -> Reply:
        """One request that must succeed."""
        reply = await self.ask(op, node, body)
        assert reply.error == 0, os.strerror(reply.error)
        return reply

    async def lookup(self, name: bytes, node: int = 1) -> Reply:
        """The entry of a name."""
        return await self.good(Op.LOOKUP, node, name + b"\0")

    async def opened(self, name: bytes, flags: int = os.O_RDONLY) -> tuple[int, int]:
        """Node and handle of a file in the root."""
        node = (await self.lookup(name)).node
        return node, (await self.good(Op.OPEN, node, open_body(flags))).handle


def filled(directory: Path) -> Path:
    """A small tree to share, and a secret beside it."""
    root = directory / "root"
    (root / "sub").mkdir(parents=True)
    (root / "file").write_bytes(b"content of file")
    (root / "sub" / "inner").write_bytes(b"inner")
    (root / "link").symlink_to("file")
    (directory / "secret").write_bytes(b"secret")
    return root


class DirectGuest(RawGuest):
    """A guest whose stream hands over what arrives where it arrives, and may be full."""

    def __init__(self, session: FuseSession) -> None:
        super().__init__(session)
        self.on_data: Callable[[bytes], bool] | None = None
        self.is_full = False
        self.sent_at_once = 0

    def say(self, data: bytes) -> None:
        """Any bytes."""
        if self._incoming or self.on_data is None or not self.on_data(data):
            super().say(data)

    def send_now(self, data: bytes) -> bool:
        """What the session answers without waiting."""
        if self.is_full:
            return False
        self.sent_at_once += 1
        self.take(data)
        return True
