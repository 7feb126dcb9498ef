"""Whose pid is it? On real processes, dead, recycled and undead ones."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Generator
from dataclasses import dataclass

import anyio
import pytest

from machinen_runtime.pids import (
    child_pids,
    process_exe,
    process_identity,
    process_start_time,
    signal_process,
    validate_pid,
    wait_process_gone,
)


@dataclass(frozen=True)
class Recorded:
    vmm_exe: str | None = None
    started_at: float | None = None
    process_identity: str | None = None


@pytest.fixture
def sleeper() -> Generator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "300"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize("pid", [0, -1, True, 4_194_304, 1 << 70])
def test_what_is_no_process_is_dead(pid: int) -> None:
    assert validate_pid(pid) == "dead"
    assert signal_process(pid, None, signal.SIGTERM) == "dead"


def test_a_zombie_is_dead() -> None:
    process = subprocess.Popen(["true"], stdout=subprocess.PIPE)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert validate_pid(process.pid) == "dead"
    process.communicate()


def test_the_recorded_identity_decides(sleeper: subprocess.Popen[bytes]) -> None:
    identity = process_identity(sleeper.pid)
    # A clock that was stepped makes the start time wrong; the identity is not moved by it.
    assert validate_pid(sleeper.pid, Recorded("/bin/other", 0.0, identity)) == "alive"
    assert validate_pid(sleeper.pid, Recorded(process_identity=f"{identity}0")) == "recycled"
    other = process_identity(os.getpid())
    assert validate_pid(sleeper.pid, Recorded(process_identity=other)) == "recycled"


def test_without_identity_name_and_start_time_decide(sleeper: subprocess.Popen[bytes]) -> None:
    started = process_start_time(sleeper.pid)
    assert started is not None
    assert abs(started - time.time() * 1000) < 60_000
    exe = process_exe(sleeper.pid)
    for recorded, status in (
        (Recorded(), "alive"),
        (Recorded(exe, started + 4000), "alive"),
        (Recorded(f"/another/place/{os.path.basename(exe or '')}"), "alive"),
        (Recorded("/usr/bin/stranger"), "recycled"),
        (Recorded(started_at=started - 6000), "recycled"),
    ):
        assert validate_pid(sleeper.pid, recorded) == status


def test_a_link_to_the_program_is_the_program(sleeper: subprocess.Popen[bytes]) -> None:
    assert validate_pid(os.getpid(), Recorded(os.path.realpath("/proc/self/exe"))) == "alive"


def test_only_our_process_is_signalled(sleeper: subprocess.Popen[bytes]) -> None:
    stranger = Recorded(process_identity="another-boot/1")
    assert signal_process(sleeper.pid, stranger, signal.SIGKILL) == "recycled"
    assert sleeper.poll() is None
    ours = Recorded(process_identity=process_identity(sleeper.pid))
    assert signal_process(sleeper.pid, ours, signal.SIGTERM) == "alive"
    assert sleeper.wait() == -signal.SIGTERM


def test_children_are_found(sleeper: subprocess.Popen[bytes]) -> None:
    assert sleeper.pid in child_pids(os.getpid())
    assert child_pids(4_194_304) == []


async def test_waiting_for_a_process_that_is_not_our_child() -> None:
    # The shell exits, so the sleep becomes somebody else's child.
    script = "sleep 300 >&- 2>&- <&- & echo $!"
    done = await anyio.run_process(["sh", "-c", script])
    pid = int(done.stdout)
    assert not await wait_process_gone(pid, timeout_ms=50)
    async with anyio.create_task_group() as tasks:

        async def wait() -> None:
            with anyio.fail_after(60):
                assert await wait_process_gone(pid)

        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        os.kill(pid, signal.SIGKILL)


async def test_a_stranger_or_nobody_is_not_waited_for(sleeper: subprocess.Popen[bytes]) -> None:
    assert await wait_process_gone(sleeper.pid, Recorded(process_identity="x/1"))
    assert await wait_process_gone(4_194_304)
