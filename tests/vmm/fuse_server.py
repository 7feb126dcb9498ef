"""A process that serves a live mount to this very kernel: /dev/fuse here, FuseSession there.

It stands for the relay in the guest, HOLD and all. A process of its own, because a page fault in a
mapped file does not let go of Python's lock: whoever maps cannot serve.

    python -m tests.vmm.fuse_server ROOT MOUNTPOINT rw|ro

Commands come as lines on stdin, each answered by one line of JSON on stdout: `hold`, `release`,
`save`, `restart` (another session, from the saved state as JSON), `stats`. It unmounts at the end
of stdin.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskGroup

from vmm import fuse_wire as wire
from vmm.fuse_session import FuseSession

MS_NOSUID_NODEV = 6
MNT_DETACH = 2
_KNOWN = set(wire.Op)
READ_BYTES = wire.MAX_MESSAGE_BYTES

_libc = ctypes.CDLL(None, use_errno=True)


def mount(mountpoint: str, *, writable: bool) -> int:
    """Mount at a directory; the descriptor of /dev/fuse that serves it."""
    try:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        sys.exit(f"these tests need /dev/fuse (modprobe fuse, run as root): {error}")
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
    flags = MS_NOSUID_NODEV | (0 if writable else 1)
    if _libc.mount(b"machinen", mountpoint.encode(), b"fuse", flags, options.encode()) != 0:
        number = ctypes.get_errno()
        sys.exit(f"cannot mount (these tests run as root): {os.strerror(number)}")
    return fd


def unmount(mountpoint: str) -> None:
    """Lazily: whoever is inside keeps nothing alive."""
    _libc.umount2(mountpoint.encode(), MNT_DETACH)


class Relay:
    """What the guest's relay does, between one session and /dev/fuse."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._unanswered: set[int] = set()
        self._waits: set[int] = set()
        self._holding = False
        self._hold_number = 0
        self._told_held = False
        self._ended = False
        self._changed = anyio.Event()
        self._waiting = anyio.CancelScope()
        self._replies = bytearray()
        self.requests: Counter[str] = Counter()

    async def receive(self, max_bytes: int) -> bytes:
        """The kernel's next request, or HELD when all are answered after HOLD."""
        del max_bytes
        while True:
            if self._ended:
                raise anyio.EndOfStream
            if self._holding and not self._told_held and not self._unanswered:
                self._told_held = True
                return wire.control(wire.HELD, self._hold_number)
            if self._holding:
                self._changed = anyio.Event()
                await self._changed.wait()
                continue
            try:
                return self._note(os.read(self.fd, READ_BYTES))
            except BlockingIOError:
                await self._wait_readable()
            except OSError as error:
                if error.errno == errno.ENODEV:  # unmounted
                    raise anyio.EndOfStream from None
                if error.errno != errno.ENOENT:  # a request that was interrupted before we had it
                    raise

    async def _wait_readable(self) -> None:
        """Until the kernel asks, or a word changes what to do."""
        with anyio.CancelScope() as self._waiting:
            await anyio.wait_readable(self.fd)

    def _change(self) -> None:
        self._changed.set()
        self._waiting.cancel()

    def _note(self, message: bytes) -> bytes:
        _, op, unique, *_ = wire.IN_HEADER.unpack_from(message)
        self.requests[wire.Op(op).name if op in _KNOWN else str(op)] += 1
        if op == wire.Op.SETLKW:
            self._waits.add(unique)
        elif op not in (wire.Op.FORGET, wire.Op.BATCH_FORGET, wire.Op.INTERRUPT):
            self._unanswered.add(unique)
        return message

    async def send(self, data: bytes) -> None:
        """Replies to the kernel, one write each; control words to ourselves."""
        self._replies += data
        while len(self._replies) >= 4:
            size = int.from_bytes(self._replies[:4], "little")
            if len(self._replies) < size:
                return
            message = bytes(self._replies[:size])
            del self._replies[:size]
            if size == wire.CONTROL_BYTES:
                self._holding = message[4] == wire.Control.HOLD
                self._hold_number = int.from_bytes(message[5:], "little")
                self._told_held = False
                self._change()
            else:
                self._reply(message)

    def _reply(self, message: bytes) -> None:
        unique = wire.OUT_HEADER.unpack_from(message)[2]
        self._unanswered.discard(unique)
        self._waits.discard(unique)
        if self._holding:
            self._changed.set()
        try:
            os.write(self.fd, message)
        except OSError as error:
            if error.errno != errno.ENOENT:  # whoever asked was killed meanwhile
                raise

    def end(self) -> None:
        """The channel goes away; the mount stays."""
        self._ended = True
        self._change()


class Server:
    """One mount, and one session after another for it."""

    def __init__(self, root: Path, fd: int, *, writable: bool) -> None:
        self.root, self.fd, self.writable = root, fd, writable
        self.session = FuseSession(root, writable=writable)
        self.relay = Relay(fd)
        self.ended = anyio.Event()

    async def serve(self) -> None:
        """Until the relay ends."""
        await self.session.serve(self.relay)
        self.ended.set()

    async def command(self, word: str, tasks: TaskGroup) -> Any:
        """What one line asks for, and its answer."""
        match word:
            case "hold":
                await self.session.hold()
            case "release":
                await self.session.release()
            case "save":
                return self.session.save()
            case "restart":
                await self._restart(tasks)
            case "stats":
                return {
                    "pages": self.session.pages_bytes_served,
                    "requests": self.relay.requests,
                    "descriptors": len(os.listdir("/proc/self/fd")),
                    "broken": self.session.broken,
                }
            case _:
                raise ValueError(word)
        return None

    async def _restart(self, tasks: TaskGroup) -> None:
        await self.session.hold()
        state = json.loads(json.dumps(self.session.save()))
        self.relay.end()
        await self.ended.wait()
        self.session.close()
        self.session = FuseSession(self.root, writable=self.writable, state=state)
        self.relay, self.ended = Relay(self.fd), anyio.Event()
        tasks.start_soon(self.serve)


def answer(value: Any) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def serve(root: str, mountpoint: str, mode: str) -> None:
    """Mount, serve, obey; unmount at the end of stdin."""
    fd = mount(mountpoint, writable=mode == "rw")
    try:
        server = Server(Path(root), fd, writable=mode == "rw")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.serve)
            answer("mounted")
            while line := await anyio.to_thread.run_sync(
                sys.stdin.readline, abandon_on_cancel=True
            ):
                answer(await server.command(line.strip(), tasks))
            tasks.cancel_scope.cancel()
        server.session.close()
    finally:
        unmount(mountpoint)


if __name__ == "__main__":
    anyio.run(serve, sys.argv[1], sys.argv[2], sys.argv[3])
