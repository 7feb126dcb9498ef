"""A monitor as a process, on a fake QEMU: how it starts, every way it ends, what it leaves."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.vmm.specs import MACHINE, make_spec, restored
from vmm import requests
from vmm.frames import HELLO_NEW_EPOCH, HELLO_RESTORED, HELLO_SET_TIME
from vmm.mux import MAX_VIOLATIONS
from vmm.spec import ForwardSpec, VmSpec, WorkloadSpec
from vmm.stats import STATS_STRUCT
from vmm.status import LET_GO

FAKE_QEMU = Path(__file__).with_name("fake_qemu.py")
WAIT_S = 60


class Monitor:
    """A running `machinen-vmm` and the pipes its starter holds."""

    def __init__(self, spec: VmSpec, stack: ExitStack, mode: str) -> None:
        status_read, status_write = os.pipe()
        lifeline_read, self._lifeline = os.pipe()
        self.spec = replace(spec, status_fd=status_write, lifeline_fd=lifeline_read)
        for directory in (spec.run_dir, spec.state_dir):
            Path(directory).rmdir()  # a monitor makes its own
        path = Path(spec.state_dir).parent / "spec.json"
        path.write_text(self.spec.to_json())
        self.process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "vmm", str(path)],
                pass_fds=[status_write, lifeline_read],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "FAKE_QEMU": mode},
            )
        )
        stack.callback(self.process.kill)
        stack.callback(self.close_lifeline)
        os.close(status_write)
        os.close(lifeline_read)
        self._status = stack.enter_context(os.fdopen(status_read, "rb"))

    def event(self, wanted: str) -> dict[str, Any]:
        """The next message of this kind; the others before it are passed over."""
        for line in self._status:
            message = json.loads(line)
            if message["event"] == wanted:
                return message
        raise AssertionError(f"no {wanted}; the monitor exits with {self.exit_status()}")

    def ready(self) -> Monitor:
        self.event("ready")
        return self

    def ask(self, method: str, **params: object) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(WAIT_S)
            control.connect(str(Path(self.spec.run_dir, requests.CONTROL_SOCKET)))
            request = {"id": 1, "method": method, "params": params}
            control.sendall(json.dumps(request).encode() + b"\n")
            return json.loads(control.makefile("rb").readline())

    def qemu_pid(self) -> int:
        return self.ask("status")["result"]["qemu_pid"]

    def let_go(self) -> None:
        os.write(self._lifeline, LET_GO)

    def close_lifeline(self) -> None:
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1

    def exit_status(self) -> int:
        return self.process.wait(WAIT_S)

    def left_files(self) -> list[Path]:
        directories = [Path(self.spec.run_dir), Path(self.spec.state_dir)]
        return [directory for directory in directories if directory.exists()]


Start = Callable[..., Monitor]


@pytest.fixture
def start(tmp_path: Path) -> Generator[Start]:
    """Starts a monitor on a fake QEMU: `start("what goes wrong", field=value)`."""
    qemu = tmp_path / "qemu"
    qemu.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE_QEMU}" "$@"\n')
    qemu.chmod(0o755)
    machine = dataclasses.replace(MACHINE, network="none")
    spec = make_spec(
        tmp_path,
        qemu_binary=str(qemu),
        machine=machine,
        workload=WorkloadSpec(cmd=["sh"]),
        confine=False,  # this QEMU is a Python program; test_confine.py has the rest
    )
    (tmp_path / "ram.img").write_bytes(bytes(4096))

    def start_one(mode: str = "", **changes: Any) -> Monitor:
        return Monitor(replace(spec, **changes), stack, mode)

    with ExitStack() as stack:
        yield start_one


def wait_gone(pid: int) -> None:
    """Wait until a process that is not our child has ended."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([pidfd], [], [], WAIT_S)[0], f"{pid} lives"
    finally:
        os.close(pidfd)


# -- a life ---------------------------------------------------------------------------------------


def test_a_monitor_says_who_it_is_serves_and_is_ready(start: Start) -> None:
    monitor = start(name="web~{pid}")
    started = monitor.event("started")
    assert started["pid"] == monitor.process.pid
    assert started["name"] == f"web~{monitor.process.pid}"
    monitor.event("serving")
    phases = monitor.event("ready")["phases"]
    assert {"spawn", "imports", "qemu-start", "agent", "workload"} <= set(phases)
    status = monitor.ask("status")["result"]
    assert (status["state"], status["agent_ready"]) == ("running", True)


def test_the_console_is_kept_while_the_vm_lives(start: Start) -> None:
    monitor = start().ready()
    console = Path(monitor.spec.state_dir, "console.log")
    text = console.read_bytes()
    assert text.startswith(b"machinen ")  # this QEMU is not confined, which is said
    assert text.splitlines()[1] == b"Linux version 6.12"
    assert Path(monitor.spec.state_dir, "stats").stat().st_size == STATS_STRUCT.size


def test_a_restored_vm_starts_no_workload(start: Start, tmp_path: Path) -> None:
    spec = restored(make_spec(tmp_path), tmp_path)
    monitor = start(restore=spec.restore)
    phases = monitor.event("ready")["phases"]
    assert "workload" not in phases
    assert [*phases][-3:] == ["device-state", "resume", "agent"]
    assert monitor.ask("status")["result"]["restored"]


def test_a_hostile_guest_loses_its_channel_not_its_monitor(start: Start) -> None:
    monitor = start("hostile", workload=None)
    monitor.event("serving")
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(WAIT_S)
        control.connect(str(Path(monitor.spec.run_dir, requests.CONTROL_SOCKET)))
        control.sendall(b'{"id": 1, "method": "status"}\n')
        assert json.loads(control.makefile("rb").readline())["result"]["pid"]
    assert monitor.process.poll() is None
    assert monitor.ask("stop", grace_ms=0)["result"] == {}
    assert monitor.exit_status() == 0


def test_only_the_first_contact_begins_an_epoch(start: Start, tmp_path: Path) -> None:
    spec = restored(make_spec(tmp_path), tmp_path)
    monitor = start("hostile later", workload=None, restore=spec.restore)
    console = Path(monitor.spec.state_dir, "console.log")
    while "stays closed" not in (said := console.read_text() if console.exists() else ""):
        assert monitor.process.poll() is None
    flags = [int(line.rpartition(" ")[2]) for line in said.splitlines() if "HELLO with" in line]
    first = HELLO_SET_TIME | HELLO_NEW_EPOCH | HELLO_RESTORED
    assert flags == [first, *[HELLO_SET_TIME] * (MAX_VIOLATIONS - 1)]


# -- its end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_monitor_that_is_told_to_end_takes_everything_along(
    start: Start, signal_number: signal.Signals
) -> None:
    monitor = start().ready()
    qemu = monitor.qemu_pid()
    monitor.process.send_signal(signal_number)
    assert monitor.exit_status() == requests.EXIT_TERMINATED
    wait_gone(qemu)
    assert monitor.left_files() == []


def test_the_end_of_whoever_started_it_ends_the_vm(start: Start) -> None:
    monitor = start().ready()
    monitor.close_lifeline()
    assert monitor.exit_status() == requests.EXIT_TERMINATED
    assert monitor.left_files() == []


def test_a_vm_that_was_let_go_lives_on(start: Start) -> None:
    monitor = start().ready()
    monitor.let_go()
    monitor.close_lifeline()
    stats = Path(monitor.spec.state_dir, "stats")
    for verb, state in (("pause", "paused"), ("resume", "running")):
        assert monitor.ask(verb)["result"]["state"] == state
        assert requests.STATES[STATS_STRUCT.unpack(stats.read_bytes())[4] - 1] == state
    assert monitor.process.poll() is None


def test_a_monitor_that_is_killed_takes_qemu_along(start: Start) -> None:
    monitor = start().ready()
    qemu = monitor.qemu_pid()
    monitor.process.kill()
    wait_gone(qemu)


@pytest.mark.parametrize(
    ("mode", "status"), [("exit 0 0", 0), ("exit 3 0", 3), ("exit 0 9", 137), ("exit 0 15", 143)]
)
def test_the_workloads_status_is_the_monitors(start: Start, mode: str, status: int) -> None:
    monitor = start(mode)
    assert monitor.exit_status() == status
    assert monitor.left_files() == []


def test_a_qemu_that_is_killed_is_told_from_a_guest_that_powers_off(start: Start) -> None:
    monitor = start().ready()
    os.kill(monitor.qemu_pid(), signal.SIGKILL)
    assert monitor.exit_status() == requests.EXIT_QEMU_DIED
    assert monitor.left_files() == []


def test_a_guest_that_powers_off_without_a_word_failed(start: Start) -> None:
    monitor = start().ready()
    os.kill(monitor.qemu_pid(), signal.SIGUSR1)
    assert monitor.exit_status() == requests.EXIT_GUEST_FAILED


def test_a_vm_ends_with_its_status_while_a_client_is_connected(start: Start) -> None:
    monitor = start().ready()
    qemu = monitor.qemu_pid()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(WAIT_S)
        client.connect(str(Path(monitor.spec.run_dir, requests.VSOCK_SOCKET)))
        client.sendall(b"CONNECT 1978\n")
        assert client.recv(100).startswith(b"OK ")
        os.kill(qemu, signal.SIGKILL)
        assert monitor.exit_status() == requests.EXIT_QEMU_DIED
    assert monitor.left_files() == []


@pytest.mark.parametrize("grace_ms", [0, 5000])
def test_a_vm_that_was_stopped_ends_well(start: Start, grace_ms: int) -> None:
    monitor = start().ready()
    assert monitor.ask("stop", grace_ms=grace_ms)["result"] == {}
    assert monitor.exit_status() == 0
    assert monitor.left_files() == []


# -- a start that fails ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "code", "status", "words"),
    [
        ("broken", "QEMU_START_FAILED", 122, "unsupported machine type"),
        ("panic", "GUEST_FAILED", 124, "Kernel panic"),
        ("bad workload", "WORKLOAD_FAILED", 122, "no such program"),
        ("mute", "AGENT_UNAVAILABLE", 122, "Linux version"),
        ("silent workload", "AGENT_UNAVAILABLE", 122, "in time"),
    ],
)
def test_a_start_that_fails_says_why(
    start: Start, mode: str, code: str, status: int, words: str
) -> None:
    monitor = start(mode, boot_timeout_ms=2500 if code == "AGENT_UNAVAILABLE" else 60_000)
    failed = monitor.event("failed")
    assert failed["error"]["code"] == code
    assert words in failed["error"]["message"] + failed["console"] + failed["qemu"]
    assert monitor.exit_status() == status
    assert monitor.left_files() == []


def test_a_device_state_that_does_not_load_says_so(start: Start, tmp_path: Path) -> None:
    spec = restored(make_spec(tmp_path), tmp_path)
    monitor = start("bad state", restore=spec.restore)
    assert monitor.event("failed")["error"]["code"] == "RESTORE_FAILED"
    assert monitor.exit_status() == requests.EXIT_QEMU_START_FAILED
    assert monitor.left_files() == []


def test_a_port_that_is_taken_says_which(start: Start) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        monitor = start(port_forward=[ForwardSpec(host_port=port, guest_port=80)])
        failed = monitor.event("failed")
    assert failed["error"]["code"] == "PORT_IN_USE"
    assert f":{port}" in failed["error"]["message"]
    assert monitor.exit_status() == requests.EXIT_QEMU_START_FAILED


@pytest.mark.parametrize("missing", ["qemu_binary", "disk", "restore"])
def test_a_file_that_is_missing_fails_the_start(start: Start, tmp_path: Path, missing: str) -> None:
    spec = restored(make_spec(tmp_path), tmp_path / "absent")
    changes: dict[str, Any] = {
        "qemu_binary": {"qemu_binary": "/absent/qemu"},
        "disk": {"disk": replace(spec.disk, overlay_template="/absent/template")},
        "restore": {"restore": spec.restore},
    }[missing]
    monitor = start(**changes)
    failed = monitor.event("failed")
    assert failed["error"]["code"] == "QEMU_START_FAILED"
    assert "absent" in failed["error"]["message"] + failed["qemu"]
    assert monitor.exit_status() == requests.EXIT_QEMU_START_FAILED
    assert monitor.left_files() == []


# -- the command ----------------------------------------------------------------------------------


def run_vmm(*arguments: str, spec: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    argv = [sys.executable, "-m", "vmm", *arguments]
    return subprocess.run(argv, input=spec, capture_output=True, timeout=WAIT_S, check=False)


@pytest.mark.parametrize("arguments", [[], ["a", "b"], ["/absent/spec.json"]])
def test_a_command_without_a_spec_is_refused(arguments: list[str]) -> None:
    ended = run_vmm(*arguments)
    assert ended.returncode == requests.EXIT_SPEC_INVALID
    assert ended.stderr.startswith((b"usage:", b"machinen-vmm:"))


def test_a_spec_that_is_none_is_refused() -> None:
    ended = run_vmm("-", spec=b'{"id": 5}')
    assert ended.returncode == requests.EXIT_SPEC_INVALID
    assert b"machinen-vmm: cannot use the VM spec" in ended.stderr


def test_a_monitor_that_never_gets_a_spec_ends_in_silence() -> None:
    ended = run_vmm("-")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")


def test_a_monitor_may_hold_a_descriptor_per_client(start: Start) -> None:
    """Whoever fills all port forwards shall not keep control.sock from accepting."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        monitor = start().ready()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    limits = Path(f"/proc/{monitor.process.pid}/limits").read_text()
    soft_now = next(line.split()[3] for line in limits.splitlines() if "open files" in line)
    assert int(soft_now) >= 8192
