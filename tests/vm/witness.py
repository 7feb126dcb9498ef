"""A program of a guest that is copied while it runs: it has one of everything, and says what became
of it.

It is pushed into the guest and runs under the guest's Python. A client connects to TCP port 7000,
sends the name of a function below and a line feed, and reads a line of JSON; functions change what
they look at, in one copy and in no other.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import mmap
import os
import random
import signal
import socket
import socketserver
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

PORT = 7000
ROOM = Path("/root/witness")
HOUR_NS = 3600 * 10**9
NAP_S = 3.0
LIBC = ctypes.CDLL(None, use_errno=True)
IN_CREATE, IN_CLOSE_WRITE = 0x100, 0x8


class Held:
    """What it has before it is copied."""

    def __init__(self) -> None:
        ROOM.mkdir()
        boot_id()  # the kernel draws it when it is read first
        self.note = os.urandom(16).hex()
        self.dice = random.Random(self.note)
        self.kept = self._file("kept", b"abcdef")
        self.kept.read(3)
        self.gone = self._file("gone", b"still here")
        (ROOM / "gone").unlink()
        self.journal = os.open(ROOM / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(self.journal, b"before ")
        self.pipe_read, pipe_write = os.pipe()
        os.write(pipe_write, b"in the pipe")
        self.inotify: int = LIBC.inotify_init1(os.O_NONBLOCK)
        (ROOM / "watched").mkdir()
        LIBC.inotify_add_watch(self.inotify, os.fsencode(ROOM / "watched"), IN_CREATE)
        (ROOM / "watched" / "before").touch()
        self.epochs: int = LIBC.inotify_init1(os.O_NONBLOCK)
        self.shared = mmap.mmap(-1, mmap.PAGESIZE)
        Path("/dev/shm/kept").write_text("kept")
        self.holder = self._lock_in_a_child()
        self.near, self.far = self._loopback()
        self.caught = 0
        self.alarm = self._timer()
        self.woke_ns: list[int] = []

    def _file(self, name: str, content: bytes) -> Any:
        file = (ROOM / name).open("w+b", buffering=0)
        file.write(content)
        file.seek(0)
        return file

    def _lock_in_a_child(self) -> int:
        """A child that holds two locks, and counts in shared memory while it lives."""
        ready, told = os.pipe()
        child = os.fork()
        if child == 0:
            flocked, locked = (self._file(name, b"x") for name in ("flocked", "locked"))
            fcntl.flock(flocked, fcntl.LOCK_EX)
            fcntl.lockf(locked, fcntl.LOCK_EX)
            os.write(told, b"x")
            while True:
                time.sleep(0.01)
                self.shared[:8] = (int.from_bytes(self.shared[:8], "little") + 1).to_bytes(
                    8, "little"
                )
        os.read(ready, 1)
        return child

    def _loopback(self) -> tuple[socket.socket, socket.socket]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            one = socket.create_connection(server.getsockname())
            return one, server.accept()[0]

    def _timer(self) -> int:
        """A timer that is due at a moment of the monotonic clock, an hour from now."""
        timer = LIBC.timerfd_create(time.CLOCK_MONOTONIC, 0)
        self.due_ns = time.monotonic_ns() + HOUR_NS
        due = struct.pack("qqqq", 0, 0, *divmod(self.due_ns, 10**9))
        LIBC.timerfd_settime(timer, 1, due, None)
        return timer

    def nap(self) -> None:
        """Sleep, and write down when it began and when it was over."""
        began = time.monotonic_ns()
        time.sleep(NAP_S)
        self.woke_ns += [began, time.monotonic_ns()]


def who(_held: Held) -> Any:
    """What the kernel calls it."""
    parent = Path("/proc/self/stat").read_text().rpartition(")")[2].split()[:4]
    return {"pid": os.getpid(), "parent_group_session": parent[1:], "boot_id": boot_id()}


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def memory(held: Held) -> Any:
    """Its own memory, the kernel's, and a page it shares with a child that counts in it."""
    before = held.shared[:8]
    while held.shared[:8] == before:
        time.sleep(0.01)
    held.note, note = socket.gethostname(), held.note
    return {"note": note, "shm": Path("/dev/shm/kept").read_text()}


def draws(held: Held) -> Any:
    """Its own generator, and the kernel's by every way there is: vDSO, system call, /proc, /dev."""
    with open("/dev/urandom", "rb") as device:
        kernel = [os.urandom(16).hex(), os.getrandom(16).hex(), device.read(16).hex()]
    kernel.append(Path("/proc/sys/kernel/random/uuid").read_text().strip())
    return {"own": [held.dice.random() for _ in range(5)], "kernel": kernel}


def files(held: Held) -> Any:
    """The rest of a file read halfway, of one without a name, of one that is appended to."""
    own = socket.gethostname().encode()
    os.write(held.journal, own)
    gone = held.gone.read()
    held.gone.write(b" with " + own)
    return {
        "kept": held.kept.read().decode(),
        "gone": gone.decode(),
        "gone_links": os.fstat(held.gone.fileno()).st_nlink,
        "gone_now": os.pread(held.gone.fileno(), 100, 0).decode(),
        "journal": (ROOM / "journal").read_text(),
    }


def queued(held: Held) -> Any:
    """What waited in a pipe, in inotify's queue, as a signal; and that more comes."""
    pending = [int(each) for each in signal.sigpending()]
    (ROOM / "watched" / "after").touch()
    os.kill(os.getpid(), signal.SIGUSR2)
    while not held.caught:
        time.sleep(0.01)
    return {
        "pipe": os.read(held.pipe_read, 100).decode(),
        "watched": names_of(held.inotify),
        "pending": pending,
        "caught": held.caught,
    }


def epochs(held: Held) -> Any:
    """Which files of /run/machinen were written since the copy began."""
    return names_of(held.epochs)


def names_of(inotify: int) -> list[str]:
    """The names in what inotify(7) has queued; none if there is nothing."""
    try:
        data = os.read(inotify, 65536)
    except BlockingIOError:
        return []
    names: list[str] = []
    while data:
        size = struct.unpack_from("iIII", data)[3]
        names.append(data[16 : 16 + size].rstrip(b"\0").decode())
        data = data[16 + size :]
    return names


def locks(held: Held) -> Any:
    """Whether the child's locks are held; then the child ends, and whether they are free."""
    held_ones = [not lock_is_free(name) for name in ("flocked", "locked")]
    os.kill(held.holder, signal.SIGKILL)
    ended = os.waitpid(held.holder, 0)[0] == held.holder
    return {"held": held_ones, "ended": ended, "free": [*map(lock_is_free, ("flocked", "locked"))]}


def lock_is_free(name: str) -> bool:
    lock = fcntl.flock if name == "flocked" else fcntl.lockf
    with (ROOM / name).open("r+b") as file:
        try:
            lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def loopback(held: Held) -> Any:
    """A connection inside the guest, both ways."""
    held.near.sendall(b"there")
    there = held.far.recv(10)
    held.far.sendall(b"and back")
    return [there.decode(), held.near.recv(10).decode()]


def timers(held: Held) -> Any:
    """An absolute timer against its clock; a sleep that was under way is waited for."""
    value = ctypes.create_string_buffer(32)
    before = time.monotonic_ns()
    LIBC.timerfd_gettime(held.alarm, value)
    after = time.monotonic_ns()
    seconds, nanoseconds = struct.unpack("qqqq", value.raw)[2:]
    while len(held.woke_ns) < 2:
        time.sleep(0.01)
    left_ns = seconds * 10**9 + nanoseconds
    return {"due": held.due_ns, "left": left_ns, "now": [before, after], "nap": held.woke_ns}


def clocks(_held: Held) -> Any:
    """Seconds of the clocks there are."""
    return {
        "monotonic": time.monotonic(),
        "boottime": time.clock_gettime(time.CLOCK_BOOTTIME),
        "uptime": float(Path("/proc/uptime").read_text().split()[0]),
        "realtime": time.time(),
    }


def lie_down(held: Held) -> Any:
    """The last thing before the copy: whatever must be short before it."""
    LIBC.inotify_add_watch(held.epochs, b"/run/machinen", IN_CLOSE_WRITE)
    time.clock_settime(time.CLOCK_REALTIME, 10**9)  # as if what is restored were from 2001
    threading.Thread(target=held.nap).start()
    return clocks(held)


def ends(_held: Held) -> Any:
    """How connections from outside have ended for it, so far."""
    return Talk.ends


class Talk(socketserver.StreamRequestHandler):
    """One client; the same functions for all."""

    ends: list[str] = []  # noqa: RUF012 - of all of them together

    def handle(self) -> None:
        try:
            while name := self.rfile.readline().decode().strip():
                answer = globals()[name](HELD)
                self.wfile.write(json.dumps(answer).encode() + b"\n")
            Talk.ends.append("end of file")
        except OSError as error:
            Talk.ends.append(type(error).__name__)


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True


def catch(_number: int, _frame: Any) -> None:
    HELD.caught += 1


if __name__ == "__main__":
    sys.setswitchinterval(0.001)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    HELD = Held()
    os.kill(os.getpid(), signal.SIGUSR1)
    signal.signal(signal.SIGUSR2, catch)
    Server(("127.0.0.1", PORT), Talk).serve_forever()
