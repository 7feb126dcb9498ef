"""A nest and the monitors out of it, on a fake QEMU: each is a process of its own in every way."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path

import anyio
import pytest

from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.monitor_process import MonitorPipes
from machinen_runtime.nest import HatchedMonitor, Nest
from machinen_runtime.pids import child_pids, process_identity, wait_process_gone
from machinen_runtime.status_pipe import StatusPipe
from tests.fakes import until
from tests.vmm.specs import MACHINE, make_spec
from vmm.requests import EXIT_TERMINATED
from vmm.spec import VmSpec, WorkloadSpec

FAKE_QEMU = Path(__file__).parents[1] / "vmm/fake_qemu.py"
WAIT_S = 60
GONE_MS = WAIT_S * 1000.0


@pytest.fixture
def specs(tmp_path: Path) -> list[VmSpec]:
    """Three VMs on the fake QEMU, whose directories are not made yet."""
    qemu = tmp_path / "qemu"
    qemu.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE_QEMU}" "$@"\n')
    qemu.chmod(0o755)
    machine = dataclasses.replace(MACHINE, network="none")
    changes = {"qemu_binary": str(qemu), "machine": machine, "confine": False}
    found: list[VmSpec] = []
    for number in range(3):
        directory = tmp_path / str(number)
        directory.mkdir()
        spec = make_spec(directory, **changes, workload=WorkloadSpec(cmd=["sh"]))
        for made in (spec.run_dir, spec.state_dir):
            Path(made).rmdir()  # a monitor makes its own
        found.append(replace(spec, name=f"sibling-{number}"))
    return found


@pytest.fixture
def nest() -> Generator[Nest]:
    with Nest(env={"PYTHONPATH": os.getcwd(), "FAKE_QEMU": ""}) as nest:
        yield nest


async def come_up(monitor: HatchedMonitor, spec: VmSpec) -> int:
    """Run a VM in a monitor that waits; the monitor's pid."""
    await monitor.send_spec(spec)
    started = await monitor.next_event("started")
    assert started["name"] == spec.name
    pid = int(started["pid"])
    assert monitor.pid == pid
    await monitor.next_event("ready")
    return pid


def left_of(spec: VmSpec) -> list[str]:
    return [each for each in (spec.run_dir, spec.state_dir) if Path(each).exists()]


def close_all(pipes: dict[str, int]) -> None:
    for descriptor in pipes.values():
        os.close(descriptor)


def ends_of(pid: int) -> set[str]:
    """The pipes and sockets a process holds besides its standard streams."""
    found = set[str]()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since: it was there for a moment only
            kind, _, inode = str(each.readlink()).partition(":")
            if int(each.name) > 2 and kind in ("pipe", "socket"):
                found.add(inode)
    return found


async def test_siblings_of_a_nest_are_processes_apart(nest: Nest, specs: list[VmSpec]) -> None:
    async with AsyncExitStack() as stack:
        monitors = [
            await stack.enter_async_context(nest.hatch(detached=False, with_stdio=False))
            for _ in specs
        ]
        pids = [await come_up(monitor, spec) for monitor, spec in zip(monitors, specs, strict=True)]
        assert len({nest.pid, os.getpid(), *pids}) == 5
        assert [os.getsid(pid) for pid in pids] == pids
        held = [ends_of(pid) for pid in pids]
        assert all(held)
        assert len(set[str]().union(*held)) == sum(map(len, held))  # none holds what is another's
        handed = [monitor.hand_over() for monitor in monitors]
        os.kill(pids[0], signal.SIGKILL)
        assert monitors[0].exit_source.wait() == -signal.SIGKILL
        os.kill(pids[1], signal.SIGTERM)
        assert monitors[1].exit_source.wait() == EXIT_TERMINATED
        assert left_of(specs[1]) == []
        assert len(child_pids(pids[2])) == 1  # its QEMU: it runs on
        close_all(handed[2])  # its lifeline
        assert monitors[2].exit_source.wait() == EXIT_TERMINATED
        assert left_of(specs[2]) == []
        close_all(handed[0])
        close_all(handed[1])


async def test_monitors_outlive_their_nest(specs: list[VmSpec]) -> None:
    with Nest(env={"PYTHONPATH": os.getcwd()}) as nest:
        async with nest.hatch(detached=True, with_stdio=False) as monitor:
            pid = await come_up(monitor, specs[0])
            monitor.let_go()
    assert await wait_process_gone(nest.pid, timeout_ms=GONE_MS)
    assert len(child_pids(pid)) == 1
    os.kill(pid, signal.SIGTERM)
    assert await wait_process_gone(pid, timeout_ms=GONE_MS)
    assert left_of(specs[0]) == []


async def test_a_nest_reaps_what_it_hatched(nest: Nest, specs: list[VmSpec]) -> None:
    async with nest.hatch(detached=True, with_stdio=False) as monitor:
        pid = await come_up(monitor, specs[0])
        assert pid in child_pids(nest.pid)
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not Path(f"/proc/{pid}").exists())
        assert child_pids(nest.pid) == []


async def test_a_sibling_with_a_terminal_has_its_console_on_its_standard_error(
    nest: Nest, specs: list[VmSpec]
) -> None:
    async with nest.hatch(detached=False, with_stdio=True) as monitor:
        pid = await come_up(monitor, specs[0])
        pipes = monitor.hand_over()
        try:
            with anyio.fail_after(WAIT_S):
                await anyio.wait_readable(pipes["console"])
            assert b"Linux version" in os.read(pipes["console"], 4096)
        finally:
            close_all(pipes)
        assert monitor.exit_source.wait() == EXIT_TERMINATED
    assert await wait_process_gone(pid, timeout_ms=GONE_MS)


async def test_a_monitor_that_is_not_needed_goes(nest: Nest, specs: list[VmSpec]) -> None:
    async with nest.hatch(detached=True, with_stdio=False):
        pass
    async with nest.hatch(detached=False, with_stdio=False) as monitor:
        await monitor.send_spec(specs[0])
    await until(lambda: child_pids(nest.pid) == [])
    assert left_of(specs[0]) == []


async def test_a_sibling_that_cannot_start_says_why(nest: Nest, specs: list[VmSpec]) -> None:
    async with nest.hatch(detached=False, with_stdio=False) as monitor:
        await monitor.send_spec(replace(specs[0], qemu_binary="/absent/qemu"))
        with pytest.raises(BootError, match="/absent/qemu"):
            await monitor.next_event("ready")
        await until(lambda: child_pids(nest.pid) == [])
    assert left_of(specs[0]) == []


async def test_a_nest_that_was_killed_is_named(nest: Nest) -> None:
    os.kill(nest.pid, signal.SIGSTOP)
    async with nest.hatch(detached=False, with_stdio=False) as monitor:
        os.kill(nest.pid, signal.SIGKILL)
        with pytest.raises(BootError, match=f"pid {nest.pid}.* was killed") as caught:
            await monitor.next_event("started")
        assert caught.value.code is ErrorCode.VM_DIED
    with pytest.raises(BootError, match=f"pid {nest.pid}.* was killed"):
        nest.hatch(detached=False, with_stdio=False)


CLIENT = """
import os, signal
from machinen_runtime.monitor_process import MonitorPipes
from machinen_runtime.nest import Nest
nest = Nest(env={})
nest.hatch(detached=True, with_stdio=False)
print(nest.pid, flush=True)
signal.pause()
"""


def test_a_nest_ends_with_a_client_that_is_killed() -> None:
    argv = [sys.executable, "-c", CLIENT]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        pidfd = os.pidfd_open(int(client.stdout.readline()))
        try:
            client.kill()
            assert select.select([pidfd], [], [], WAIT_S)[0], "the nest lives"
        finally:
            os.close(pidfd)


NO_FORKS = """
import errno, os, sys
def refuse():
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
os.fork = refuse
import vmm.__main__
sys.exit(vmm.__main__.main())
"""


async def test_a_host_that_lets_no_process_be_made_is_told_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    argv = [sys.executable, "-c", NO_FORKS]
    monkeypatch.setattr("machinen_runtime.nest.vmm_command", lambda: argv)
    with Nest(env={}) as nest:
        async with nest.hatch(detached=True, with_stdio=False) as monitor:
            with pytest.raises(BootError, match="the VM cannot be started") as caught:
                await monitor.next_event("started")
            assert caught.value.retryable


async def test_a_python_that_is_gone_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("machinen_runtime.nest.vmm_command", lambda: ["/absent/python"])
    with pytest.raises(BootError, match="/absent/python") as caught:
        Nest(env={})
    assert caught.value.code is ErrorCode.BOOT_VMM_MISSING


def identity_of_before(pid: int) -> str:
    """Who had this number until a moment ago."""
    return f"{process_identity(pid)}0"


@pytest.mark.parametrize("is_used_again", [False, True])
async def test_a_stranger_who_wears_the_pid_of_a_monitor_is_not_killed(
    nest: Nest, monkeypatch: pytest.MonkeyPatch, is_used_again: bool
) -> None:
    """The monitor that said who it is has ended; its number is another program's, or not."""
    if is_used_again:
        monkeypatch.setattr("machinen_runtime.pids.process_identity", identity_of_before)
    pipes = MonitorPipes(with_stdio=False)
    with subprocess.Popen(["sleep", "1000"]) as program:
        try:
            line = json.dumps({"event": "started", "pid": program.pid, "name": None})
            os.write(pipes.theirs["status"], f"{line}\n".encode())
            async with HatchedMonitor(nest, pipes, detached=False) as monitor:
                await monitor.next_event("started")
                assert monitor.pid == program.pid
            assert (program.poll() is None) == is_used_again
        finally:
            program.kill()


def test_a_pipe_that_ends_without_a_word_is_one_of_somebody_killed() -> None:
    read_fd, write_fd = os.pipe()
    os.close(write_fd)
    assert StatusPipe(read_fd, b'{"event": "ready"}\n').wait() == -signal.SIGKILL
