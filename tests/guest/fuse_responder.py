"""The least a host must answer for a live mount to be used: one directory of small files in memory.

It speaks the kernel's protocol (linux/fuse.h) over one stream of port 1977, and can keep answers to
itself, so that tests see what the guest does while it waits.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

from tests.guest.frame_client import FrameClient

SYMLINK = 6
LOOKUP, FORGET, GETATTR, SETATTR, OPEN, READ, WRITE, RELEASE = 1, 2, 3, 4, 14, 15, 16, 18
FLUSH, INIT, OPENDIR, SETLKW, ACCESS, INTERRUPT, BATCH_FORGET = 25, 26, 27, 33, 34, 36, 42
HINT_ATTRIBUTES, HINT_NAMES, HINT_PLAIN = 1, 2, 3
HOLD = struct.pack("<II", 8, 1)
HELD_WORD = 1
GO = struct.pack("<II", 8, 2)
IN_HEADER = struct.Struct("<IIQQIIII")


def mount_request(path: str, mode: str = "rw") -> bytes:
    """The header of a live mount's stream."""
    return f"FUSE {mode} {len(path)}\n{path}".encode()


def hold(number: int) -> bytes:
    """HOLD with a number, which HELD repeats."""
    return struct.pack("<II", 8, 1 | number << 8)


def hint(node: int, kind: int, body: bytes = b"", *, valid_ms: int = 60_000) -> bytes:
    """A word to the agent, docs/protocol.md, 3.6."""
    return struct.pack("<IiQQII", 32 + len(body), 1977, 0, node, kind, valid_ms) + body


class Responder:
    """Answers on one stream; `files` are name → contents, inode = position + 2."""

    def __init__(self, client: FrameClient, path: str, *, mode: str = "rw") -> None:
        self.client = client
        self.files: dict[str, bytearray] = {"hello": bytearray(b"from the host\n")}
        self.stream = client.request(1977, mount_request(path, mode))
        self.answered_head = b""
        self.kept: list[bytes] = []
        """Requests that wait for `let_go`."""
        self.keep: Callable[[int], bool] = lambda opcode: False
        self.held = False
        self.held_number = 0
        self.opcodes: list[int] = []
        self.hints: dict[int, list[bytes]] = {}
        """What to say after the answer to a request of that opcode, once."""
        client.wait(lambda: self.head() != b"")

    def head(self) -> bytes:
        """`OK` or `ERR …`, once it came."""
        data = self.client.streams[self.stream].data
        if not self.answered_head and b"\n" in data:
            line, _, _ = bytes(data).partition(b"\n")
            if line.startswith(b"ERR "):
                size = int(line[4:])
                if len(data) < len(line) + 1 + size:
                    return b""
                self.answered_head = bytes(data)
            else:
                self.answered_head = line
                del data[: len(line) + 1]
        return self.answered_head

    def serve_until(self, done: Callable[[], bool], seconds: float = 20.0) -> None:
        """Answer requests until `done`."""
        self.client.wait(lambda: self._serve() or done(), seconds)

    def _serve(self) -> bool:
        data = self.client.streams[self.stream].data
        while len(data) >= 8:
            size = struct.unpack_from("<I", data)[0]
            if len(data) < size:
                break
            message = bytes(data[:size])
            del data[:size]
            if size == 8:
                code = struct.unpack("<II", message)[1]
                assert code & 0xFF == HELD_WORD
                self.held = True
                self.held_number = code >> 8
            else:
                self._request(message)
        return False

    def _request(self, message: bytes) -> None:
        opcode = IN_HEADER.unpack_from(message)[1]
        self.opcodes.append(opcode)
        if self.keep(opcode):
            self.kept.append(message)
        elif opcode not in (FORGET, BATCH_FORGET, INTERRUPT):
            self.answer(message)

    def let_go(self) -> None:
        """Answer what was kept."""
        self.keep = lambda opcode: False
        while self.kept:
            self.answer(self.kept.pop(0))

    def control(self, message: bytes) -> None:
        """Send HOLD or GO."""
        self.held = False
        self.client.data(self.stream, message)

    def answer(self, message: bytes) -> None:
        """Answer one request."""
        _, opcode, unique, node, *_ = IN_HEADER.unpack_from(message)
        body, error = self._result(opcode, node, message[IN_HEADER.size :])
        header = struct.pack("<IiQ", 16 + len(body), -error, unique)
        self.client.data(self.stream, header + body + b"".join(self.hints.pop(opcode, [])))

    def _result(self, opcode: int, node: int, body: bytes) -> tuple[bytes, int]:
        if opcode == INIT:
            major, minor, readahead, _ = struct.unpack_from("<IIII", body)
            assert (major, minor >= 31) == (7, True)
            flags = 1 << 1 | 1 << 5 | 1 << 22  # POSIX_LOCKS, BIG_WRITES, MAX_PAGES
            fixed = struct.pack("<IIIIHHIIHH", 7, 31, readahead, flags, 12, 9, 1 << 20, 1, 256, 0)
            return fixed.ljust(64, b"\0"), 0
        if opcode == LOOKUP:
            name = body.rstrip(b"\0").decode()
            if name not in self.files:
                return b"", errno.ENOENT
            inode = list(self.files).index(name) + 2
            return struct.pack("<QQQQII", inode, 0, 0, 0, 0, 0) + self._attributes(inode), 0
        if opcode == SETATTR:
            valid, _, _, size = struct.unpack_from("<IIQQ", body)
            if valid & 1 << 3:  # FATTR_SIZE
                del self._file(node)[size:]
        if opcode in (GETATTR, SETATTR):
            return struct.pack("<QII", 0, 0, 0) + self._attributes(node), 0
        if opcode in (OPEN, OPENDIR):
            return struct.pack("<QII", 0, 1, 0), 0  # FOPEN_DIRECT_IO
        if opcode == READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return bytes(self._file(node)[offset : offset + size]), 0
        if opcode == WRITE:
            _, offset, size = struct.unpack_from("<QQI", body)
            self._file(node)[offset : offset + size] = body[40 : 40 + size]
            return struct.pack("<II", size, 0), 0
        return b"", 0 if opcode in (FLUSH, RELEASE, ACCESS, SETLKW) else errno.ENOSYS

    def _file(self, node: int) -> bytearray:
        return list(self.files.values())[node - 2]

    def attributes_hint(self, node: int) -> bytes:
        """What a node is like now."""
        return hint(node, HINT_ATTRIBUTES, self._attributes(node))

    def _attributes(self, node: int) -> bytes:
        size = 0 if node == 1 else len(self._file(node))
        mode = 0o40755 if node == 1 else 0o100644
        numbers = (node, size, 1, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)
        return struct.pack("<QQQQQQIIIIIIIIII", *numbers)
