"""The archive of a PULL, read by one thread straight from the socket; docs/protocol.md 3.5.

Nothing of it passes through the event loop: a turn of that for every 10 KiB took tarfile twice as
long as all the rest. Cancelling shuts the socket down, which ends whatever the thread waits for.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread

from machinen_runtime.unix_stream import UnixStream

HEADER_ROOM_BYTES = 65_536
REPORT_BYTES = 1 << 20
"""Whoever counts is told of so much at once: each call is a turn of the event loop."""

T = TypeVar("T")


class BrokenFramesError(Exception):
    """What came is no D frame and no status; the words for people."""


class GuestFailedError(Exception):
    """The guest's ERR, with its text; it may hold anything."""


async def run_in_thread(stream: UnixStream, work: Callable[[socket.socket], T]) -> T:
    """Run `work` in a thread that owns the socket of `stream` from here on; closing it is left.

    Raises:
        Exception: what `work` raised.
    """
    connected = stream.take_socket()

    async def shut_down_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            with suppress(OSError):  # the other end has gone already
                connected.shutdown(socket.SHUT_RDWR)

    outcome: list[T] = []
    failure: Exception | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shut_down_when_cancelled)
        try:
            outcome.append(await anyio.to_thread.run_sync(work, connected))
        except Exception as error:  # raised below: a task group would wrap it
            failure = error
        tasks.cancel_scope.cancel()
    if failure is not None:
        await anyio.lowlevel.checkpoint_if_cancelled()  # else the link was lost through us
        raise failure
    return outcome[0]


class TarSocket:
    """The tar stream inside D frames, for a thread; its end is the guest's OK.

    What reads raises anyio.EndOfStream or BrokenResourceError when the link is lost,
    BrokenFramesError and GuestFailedError.
    """

    max_line_bytes, max_message_bytes = 32, 65_536

    def __init__(self, connected: socket.socket, on_bytes: Callable[[int], object]) -> None:
        self._socket = connected
        self._on_bytes = on_bytes
        self._unreported = 0
        self._room = memoryview(bytearray(HEADER_ROOM_BYTES))
        self._ahead = self._room[:0]
        """What came behind the last header: part of `_room`."""
        self._missing = 0
        """Bytes of the present frame that were not handed out yet."""
        self._ended = False

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill `buffer`; fewer bytes, which are counted, at the archive's end alone."""
        filled = 0
        while filled < len(buffer) and self._find_data():
            wanted = min(len(buffer) - filled, self._missing)
            size = self._take(buffer[filled : filled + wanted])
            filled += size
            self._missing -= size
        self._unreported += filled
        if self._unreported >= REPORT_BYTES:
            self.report()
        return filled

    def drain(self) -> None:
        """Read on to the status: tar pads its archives, and extraction stops before that."""
        rest = memoryview(bytearray(HEADER_ROOM_BYTES))
        while self.readinto(rest):
            pass
        self.report()

    def expect_ok(self) -> None:
        """Read a status where no archive comes before it."""
        if self._find_data():
            raise BrokenFramesError("it sent an archive nobody asked for")

    def report(self) -> None:
        """Tell of what was read and not told yet."""
        size, self._unreported = self._unreported, 0
        if size:
            anyio.from_thread.run_sync(self._on_bytes, size)

    def _find_data(self) -> bool:
        """Read headers up to one with bytes behind it; False at the guest's OK."""
        while not self._missing and not self._ended:
            line = self._line()
            tag, _, number = line.partition(b" ")
            if tag == b"D" and number.isdigit():
                self._missing = int(number)
            elif line == b"OK":
                self._ended = True
            else:
                self._fail(line, tag, number)
        return not self._ended

    def _fail(self, line: bytes, tag: bytes, number: bytes) -> None:
        if tag != b"ERR" or not number.isdigit() or int(number) > self.max_message_bytes:
            raise BrokenFramesError(f"it sent {line!r}")
        text = memoryview(bytearray(int(number)))
        filled = 0
        while filled < len(text):
            filled += self._take(text[filled:])
        raise GuestFailedError(bytes(text).decode("utf-8", "replace"))

    def _line(self) -> bytes:
        """A header without its newline."""
        while True:
            head = bytes(self._ahead[: self.max_line_bytes + 1])
            line, newline, _ = head.partition(b"\n")
            if newline:
                self._ahead = self._ahead[len(line) + 1 :]
                return line
            if len(head) > self.max_line_bytes:
                raise BrokenFramesError("it sent no header")
            self._room[: len(head)] = head  # less than a header: to the front, to read on behind
            size = self._receive([self._room[len(head) :]])
            self._ahead = self._room[: len(head) + size]

    def _take(self, target: memoryview) -> int:
        """At least one byte into `target`; what comes behind it at once is kept."""
        if self._ahead:
            size = min(len(target), len(self._ahead))
            target[:size] = self._ahead[:size]
            self._ahead = self._ahead[size:]
            return size
        size = self._receive([target, self._room])
        self._ahead = self._room[: max(0, size - len(target))]
        return min(size, len(target))

    def _receive(self, buffers: list[memoryview]) -> int:
        try:
            size = self._socket.recvmsg_into(buffers)[0]
        except OSError as error:
            raise anyio.BrokenResourceError(str(error)) from error
        if not size:
            raise anyio.EndOfStream
        return size
