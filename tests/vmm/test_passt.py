"""passt and its successors, with a program in its place and this test in QEMU's."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import anyio
import pytest

from tests.fakes import until
from vmm.passt import Passt, listen_for_passt
from vmm.passt_watch import DELAYS_S, STABLE_S, keep_passt

FAKE = f"""#!{sys.executable}
import os, socket, sys
connection = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
connection.sendall(b"%d\\n" % os.getpid())
connection.recv(1)
"""
"""Says its pid and ends when the other end does, as passt does."""


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


def accepted(qemu: socket.socket) -> tuple[socket.socket, int]:
    """The connection of the passt that runs now, and its pid."""
    connection, _ = qemu.accept()
    connection.settimeout(30)
    return connection, int(connection.makefile("r").readline())


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_passt_ends_with_qemus_end_of_the_connection(passt: Passt, qemu: socket.socket) -> None:
    before = descriptors()
    passt.start()
    connection, pid = accepted(qemu)
    assert Path(f"/proc/{pid}").exists()
    connection.close()
    assert passt.end() == "status 0"
    assert not Path(f"/proc/{pid}").exists()
    assert descriptors() == before


def test_a_passt_that_stays_is_killed(passt: Passt, qemu: socket.socket) -> None:
    passt.start()
    connection, pid = accepted(qemu)
    with connection:
        assert passt.end() == "signal 9"
    assert not Path(f"/proc/{pid}").exists()


def test_a_program_that_is_missing_leaves_nothing(qemu: socket.socket, tmp_path: Path) -> None:
    before = descriptors()
    with pytest.raises(FileNotFoundError):
        Passt(str(tmp_path / "absent"), str(tmp_path / "n.sock")).start()
    assert descriptors() == before


async def test_one_that_is_killed_has_a_successor(passt: Passt, qemu: socket.socket) -> None:
    said: list[str] = []
    passt.start()
    first, pid = accepted(qemu)
    with first:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(keep_passt, passt, lambda: True, said.append)
            os.kill(pid, signal.SIGKILL)
            await until(lambda: bool(said), timeout_s=30)
            second, successor = accepted(qemu)
            with second:
                assert successor != pid
                assert passt.pidfd is not None
            tasks.cancel_scope.cancel()
    assert said == ["passt has ended (signal 9); another one is the guest's way out now"]


async def test_one_that_ends_with_qemu_has_none(passt: Passt, qemu: socket.socket) -> None:
    said: list[str] = []
    passt.start()
    accepted(qemu)[0].close()
    await keep_passt(passt, lambda: False, said.append)
    assert said == []


class Sleeper:
    """Notes how long it should have slept, and lets what `meanwhile` does happen instead."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.slept: list[float] = []
        self._meanwhile = meanwhile

    async def sleep(self, delay_s: float) -> None:
        self.slept.append(delay_s)
        self._meanwhile()


async def test_one_that_always_ends_is_given_up(
    program: Path, passt: Passt, qemu: socket.socket
) -> None:
    program.write_text("#!/bin/sh\nexit 3\n")
    sleeper = Sleeper(lambda: qemu.accept()[0].close())  # as QEMU makes room for the next
    said: list[str] = []
    passt.start()
    await keep_passt(passt, lambda: True, said.append, sleep=sleeper.sleep)
    assert sleeper.slept == list(DELAYS_S)
    assert len(said) == len(DELAYS_S) + 1
    assert "(status 3)" in said[0]
    assert "card is dead" in said[-1]


async def test_a_program_that_has_gone_is_tried_as_often_and_no_more(
    program: Path, passt: Passt, qemu: socket.socket
) -> None:
    sleeper, said = Sleeper(), list[str]()
    passt.start()
    accepted(qemu)[0].close()
    program.unlink()
    await keep_passt(passt, lambda: True, said.append, sleep=sleeper.sleep)
    assert sleeper.slept == list(DELAYS_S)
    assert "cannot be started again" in said[0]
    assert "it was not started" in said[1]
    assert passt.pidfd is None


async def test_one_that_lived_long_starts_the_count_again(
    passt: Passt, qemu: socket.socket
) -> None:
    now = itertools.count(0, STABLE_S)
    alive = iter([True, True, False])
    sleeper, said = Sleeper(), list[str]()
    async with anyio.create_task_group() as tasks:
        passt.start()
        tasks.start_soon(
            lambda: keep_passt(
                passt,
                lambda: next(alive),
                said.append,
                clock=lambda: float(next(now)),
                sleep=sleeper.sleep,
            )
        )
        for count in range(3):
            await until(lambda count=count: len(said) == count, timeout_s=30)
            connection, pid = accepted(qemu)
            os.kill(pid, signal.SIGKILL)
            connection.close()
    assert sleeper.slept == [DELAYS_S[0]] * 3
