"""The console log: what the guest's kernel and init print, kept on disk within a cap.

`console.log` holds the newest part; when it is full it becomes `console.log.1` and a new one
begins, so between one and two caps are on disk.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from pathlib import Path
from typing import BinaryIO

import anyio

from vmm.errors import is_exhaustion

CAP_BYTES = 1 << 20
TAIL_BYTES = 4000


class ConsoleLog:
    """A file of at most `cap_bytes`, and the one before it."""

    def __init__(self, path: Path, cap_bytes: int = CAP_BYTES) -> None:
        self.path = path
        self._cap_bytes = cap_bytes
        self._file: BinaryIO = path.open("ab", buffering=0)
        self._size = self._file.tell()

    def write(self, data: bytes) -> None:
        """Append, and rotate when the cap is reached. A full disk loses bytes and harms nobody."""
        try:
            while data:
                if self._size >= self._cap_bytes:
                    self._rotate()
                written = self._file.write(data[: self._cap_bytes - self._size]) or 0
                self._size += written
                data = data[written:]
        except OSError as error:
            if not is_exhaustion(error):
                raise

    def note(self, text: str) -> None:
        """Append a line of our own, with the host's time."""
        now = time.strftime("%H:%M:%S")
        self.write(f"machinen {now}: {text}\n".encode())

    def tail(self, size_bytes: int = TAIL_BYTES) -> str:
        """The last part, as text."""
        with contextlib.suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size_bytes))
            return file.read().decode("utf-8", "replace")
        return ""

    def close(self) -> None:
        """Close the file; it stays on disk."""
        self._file.close()

    def _rotate(self) -> None:
        with contextlib.suppress(FileNotFoundError):  # moved before, when no other could be made
            self.path.replace(self.path.with_name(self.path.name + ".1"))
        following = self.path.open("ab", buffering=0)
        self._file.close()
        self._file, self._size = following, 0


async def copy_console(connected: socket.socket, log: ConsoleLog, *, to_stderr: bool) -> None:
    """Copy the guest's console to the log until QEMU closes its end; to our stderr too if asked.

    A stderr that nobody reads loses bytes rather than stopping the guest.
    """
    connected.setblocking(False)
    if to_stderr:
        os.set_blocking(2, False)
    while True:
        try:
            data = connected.recv(65536)
        except BlockingIOError:
            await anyio.wait_readable(connected)
            continue
        except ConnectionResetError:
            return
        if not data:
            return
        log.write(data)
        if to_stderr:
            with contextlib.suppress(OSError):
                os.write(2, data)


async def read_last_words(descriptor: int, keep_bytes: int = 8192) -> bytes:
    """What QEMU printed, its last `keep_bytes`, once it closed its end.

    The line QEMU prints for every page it may not discard from a read-only image is dropped: a
    fork prints thousands.
    """
    kept = b""
    os.set_blocking(descriptor, False)
    while True:
        try:
            data = os.read(descriptor, 65536)
        except BlockingIOError:
            await anyio.wait_readable(descriptor)
            continue
        if not data:
            return kept
        *lines, begun = (kept + data).split(b"\n")
        lines = [line + b"\n" for line in lines if b"ram_block_discard_range" not in line]
        kept = (b"".join(lines) + begun)[-keep_bytes:]
