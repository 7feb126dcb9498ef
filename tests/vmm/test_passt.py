"""passt and its successors, with a program in its place and this test in QEMU's."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread

from tests.fakes import until
from vmm.passt import Passt, listen_for_passt
from vmm.passt_watch import DELAYS_S, STABLE_S, keep_passt

FAKE = f"""#!{sys.executable}
import os, socket, sys
connection = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
got = connection.recv(64)
connection.sendall(b"%d %b\\n" % (os.getpid(), got))
connection.recv(1)
"""
"""Says its pid and what the guest had sent; ends when the other end does, as passt does."""
FRAME = b"a-frame"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "passt"
    path.write_text(FAKE)
    path.chmod(0o755)
    return path


@pytest.fixture
def qemu(tmp_path: Path) -> Generator[socket.socket]:
    with listen_for_passt(str(tmp_path / "n.sock")) as listener:
        listener.settimeout(30)
        yield listener


@pytest.fixture
def passt(program: Path, tmp_path: Path) -> Generator[Passt]:
    made = Passt(str(program), str(tmp_path / "n.sock"))
    yield made
    made.end()


def accepted(qemu: socket.socket) -> socket.socket:
    """QEMU's end of the connection."""
    connection, _ = qemu.accept()
    connection.settimeout(30)
    return connection


def send(connection: socket.socket) -> int:
    """Send what the guest sends first: the pid of the passt that has it."""
    connection.sendall(FRAME)
    pid, got = connection.makefile("rb").readline().split()
    assert got == FRAME
    return int(pid)


def started(passt: Passt, qemu: socket.socket) -> tuple[socket.socket, int]:
    """A passt that runs: QEMU's end of the connection, and its pid."""
    passt.connect()
    passt.start()
    connection = accepted(qemu)
    return connection, send(connection)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_passt_ends_with_qemus_end_of_the_connection(passt: Passt, qemu: socket.socket) -> None:
    before = descriptors()
    connection, pid = started(passt, qemu)
    assert Path(f"/proc/{pid}").exists()
    connection.close()
    assert passt.end() == "status 0"
    assert not Path(f"/proc/{pid}").exists()
    assert descriptors() == before


def test_a_passt_that_stays_is_killed(passt: Passt, qemu: socket.socket) -> None:
    connection, pid = started(passt, qemu)
    with connection:
        assert passt.end() == "signal 9"
    assert not Path(f"/proc/{pid}").exists()


def test_a_program_that_is_missing_leaves_nothing(qemu: socket.socket, tmp_path: Path) -> None:
    before = descriptors()
    passt = Passt(str(tmp_path / "absent"), str(tmp_path / "n.sock"))
    passt.connect()
    with pytest.raises(FileNotFoundError):
        passt.start()
    assert passt.end() == "it was not started"
    assert descriptors() == before


def test_where_nobody_listens_nothing_is_left(program: Path, tmp_path: Path) -> None:
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        Passt(str(program), str(tmp_path / "n.sock")).connect()
    assert descriptors() == before


async def test_none_runs_until_the_guest_sends_and_no_byte_is_lost(
    passt: Passt, qemu: socket.socket
) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_passt, passt, lambda: True, print)
        await until(lambda: passt.connection is not None)
        with accepted(qemu) as connection:  # the guest's card is connected
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            assert passt.pid is None
            connection.sendall(FRAME)
            await until(lambda: passt.pid is not None, timeout_s=30)
            assert passt.connection is None
            assert connection.makefile("rb").readline() == b"%d %b\n" % (passt.pid or 0, FRAME)
        tasks.cancel_scope.cancel()


async def test_one_that_is_killed_has_a_successor(passt: Passt, qemu: socket.socket) -> None:
    said: list[str] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_passt, passt, lambda: True, said.append)
        with await to_thread.run_sync(accepted, qemu) as first:
            pid = await to_thread.run_sync(send, first)
            os.kill(pid, signal.SIGKILL)
            await until(lambda: bool(said), timeout_s=30)
            assert passt.pid is None
            with await to_thread.run_sync(accepted, qemu) as second:
                assert await to_thread.run_sync(send, second) != pid
                assert passt.pidfd is not None
        tasks.cancel_scope.cancel()
    assert said == [
        "passt has ended (signal 9); the guest's next packet starts another one",
    ]


async def test_one_that_ends_with_qemu_has_none(passt: Passt, qemu: socket.socket) -> None:
    said: list[str] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_passt, passt, lambda: False, said.append)
        with await to_thread.run_sync(accepted, qemu) as connection:
            await to_thread.run_sync(send, connection)
    assert said == []


async def test_qemu_may_hang_up_before_the_guest_sends(passt: Passt, qemu: socket.socket) -> None:
    alive, said = iter([True, False]), list[str]()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keep_passt, passt, lambda: next(alive), said.append)
        for _ in range(2):
            (await to_thread.run_sync(accepted, qemu)).close()
    assert said == ["QEMU has hung up; passt waits for it again"]
    assert passt.end() == "it was not started"


class Sleeper:
    """Notes how long it should have slept, and lets what `meanwhile` does happen instead."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.slept: list[float] = []
        self._meanwhile = meanwhile

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        self._meanwhile()


class Guest:
    """Sends a frame on every connection, as a guest does that wants its network."""

    def __init__(self, qemu: socket.socket) -> None:
        self._qemu = qemu
        self.connections: list[socket.socket] = []
        self.is_over = False

    def go_on(self) -> None:
        while self.connections:
            self.connections.pop().close()  # as QEMU makes room for the next

    def serve(self) -> None:
        while True:
            connection, _ = self._qemu.accept()
            self.connections.append(connection)
            if self.is_over:
                return
            connection.sendall(FRAME)


@pytest.fixture
def guest(qemu: socket.socket) -> Generator[Guest]:
    made = Guest(qemu)
    thread = threading.Thread(target=made.serve)
    thread.start()
    yield made
    made.is_over = True
    with socket.socket(socket.AF_UNIX) as last:
        last.connect(qemu.getsockname())
        thread.join()
    made.go_on()


async def test_one_that_always_ends_is_given_up(program: Path, passt: Passt, guest: Guest) -> None:
    program.write_text("#!/bin/sh\nexit 3\n")
    sleeper, said = Sleeper(guest.go_on), list[str]()
    await keep_passt(passt, lambda: True, said.append, sleep=sleeper.sleep)
    assert sleeper.slept == list(DELAYS_S)
    assert len(said) == len(DELAYS_S) + 1
    assert "(status 3)" in said[0]
    assert "card is dead" in said[-1]
    assert passt.connection is None


async def test_a_program_that_has_gone_is_tried_as_often_and_no_more(
    program: Path, passt: Passt, guest: Guest
) -> None:
    program.unlink()
    sleeper, said = Sleeper(), list[str]()
    await keep_passt(passt, lambda: True, said.append, sleep=sleeper.sleep)
    assert sleeper.slept == list(DELAYS_S)
    assert "cannot be started" in said[0]
    assert len(guest.connections) == 1, "what the guest has sent waits for the next try"
    assert (passt.pidfd, passt.connection) == (None, None)


async def test_one_that_lived_long_starts_the_count_again(
    program: Path, passt: Passt, guest: Guest
) -> None:
    program.write_text("#!/bin/sh\nexit 0\n")
    now = itertools.count(0, STABLE_S)
    alive = iter([True, True, False])
    sleeper, said = Sleeper(guest.go_on), list[str]()
    await keep_passt(
        passt,
        lambda: next(alive),
        said.append,
        clock=lambda: float(next(now)),
        sleep=sleeper.sleep,
    )
    assert sleeper.slept == [DELAYS_S[0]] * 3
    assert len(said) == 2
