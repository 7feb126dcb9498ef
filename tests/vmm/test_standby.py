"""Standbys, the monitor's part: one is nobody until somebody takes it, then that VM's monitor."""

from __future__ import annotations

import array
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.vmm.specs import MACHINE, make_spec, restored
from tests.vmm.test_monitor import FAKE_QEMU, WAIT_S, wait_gone
from vmm import requests
from vmm.cgroups import CgroupSpec
from vmm.claim import CLAIM_SOCKET, GREETING, NAMES, STDIO, TAKEN_SOCKET, encode_claim
from vmm.errors import VmmError
from vmm.frames import HELLO_NEW_EPOCH, HELLO_SET_TIME
from vmm.requests import CONSOLE_LOG
from vmm.spec import MountDiskSpec, StandbySpec, VmSpec, WorkloadSpec, file_identity
from vmm.standby import adopt
from vmm.standby_slot import idle_seconds, wait_for_leisure

CARDLESS = replace(MACHINE, network="none")
Start = Callable[..., "Standby"]


class Standby:
    """A running standby on a fake QEMU, and what a taker does with it."""

    def __init__(self, spec: VmSpec, stack: ExitStack, mode: str) -> None:
        self.spec, self._stack = spec, stack
        for directory in (spec.run_dir, spec.state_dir):
            Path(directory).rmdir()  # a monitor makes its own
        path = Path(spec.state_dir).parent / "spec.json"
        path.write_text(spec.to_json())
        assert spec.standby is not None
        self.process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "vmm", str(path)],
                pass_fds=[spec.standby.slot_fd],
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "FAKE_QEMU": mode},
            )
        )
        stack.callback(self.process.kill)
        os.close(spec.standby.slot_fd)
        self._status = b""
        self._ends: dict[str, int] = {}
        stack.callback(self.leave)

    def path(self, name: str = CLAIM_SOCKET) -> Path:
        return Path(self.spec.run_dir, name)

    def ready(self) -> Standby:
        """Wait until it can be taken."""
        while not self.path().exists():
            assert self.process.poll() is None, "it has ended"
            select.select([], [], [], 0.01)
        return self

    def connect(self, name: str = CLAIM_SOCKET) -> socket.socket:
        client = self._stack.enter_context(socket.socket(socket.AF_UNIX))
        client.settimeout(WAIT_S)
        client.connect(str(self.path(name)))
        assert client.recv(100) == GREETING
        return client

    def take(self, *, stdio: bool = False, **changes: Any) -> Standby:
        """Claim it: be called `web-{pid}`, in the directory `cwd`."""
        client = self.connect()
        names = [*NAMES, *(STDIO if stdio else ())]
        theirs: dict[str, int] = {}
        for name in names:
            if name == "directory":
                theirs[name] = os.open(Path(self.spec.state_dir).parent, os.O_PATH)
                continue
            read_fd, write_fd = os.pipe()
            is_read_there = name in ("lifeline", "input")
            theirs[name] = read_fd if is_read_there else write_fd
            self._ends[name] = write_fd if is_read_there else read_fd
        vm = replace(
            self.spec,
            standby=None,
            name="web-{pid}",
            hostname="web-{pid}",
            workload=WorkloadSpec(cmd=["sh"]),
            **changes,
        )
        claim = encode_claim(vm, {"OF": "the taker"}, 0o027)
        rights = array.array("i", [theirs[name] for name in names])
        size = client.sendmsg([claim], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        assert size == len(claim)
        for descriptor in theirs.values():
            os.close(descriptor)
        return self

    def event(self, wanted: str) -> dict[str, Any]:
        """The next status message of this kind; the others before it are passed over."""
        while True:
            line, found, rest = self._status.partition(b"\n")
            if found:
                self._status = rest
                message = json.loads(line)
                if message["event"] == wanted:
                    return message
                continue
            assert select.select([self._ends["status"]], [], [], WAIT_S)[0]
            data = os.read(self._ends["status"], 65536)
            assert data, f"no {wanted}"
            self._status += data

    def ask(self, method: str) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(WAIT_S)
            control.connect(str(self.path(requests.CONTROL_SOCKET)))
            control.sendall(json.dumps({"id": 1, "method": method}).encode() + b"\n")
            return json.loads(control.makefile("rb").readline())

    def leave(self) -> None:
        """Be gone, as a taker that ended."""
        while self._ends:
            os.close(self._ends.popitem()[1])

    def qemu(self) -> psutil.Process:
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def exit_status(self) -> int:
        return self.process.wait(WAIT_S)

    def left(self) -> list[str]:
        assert self.spec.standby is not None
        paths = (self.spec.run_dir, self.spec.state_dir, self.spec.standby.slot_path)
        return [path for path in paths if os.path.lexists(path)]


@pytest.fixture
def start(tmp_path: Path) -> Generator[Start]:
    """Starts a standby on a fake QEMU: `start(idle_s=1)`, `start(mode="what goes wrong")`."""
    qemu = tmp_path / "qemu"
    qemu.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE_QEMU}" "$@"\n')
    qemu.chmod(0o755)
    spec = make_spec(tmp_path, qemu_binary=str(qemu), machine=CARDLESS, confine=False)
    (tmp_path / "ram.img").write_bytes(bytes(4096))
    template = tmp_path / "template"
    template.mkdir()
    (tmp_path / "lock").touch()

    def start_one(mode: str = "template", **changes: Any) -> Standby:
        slot = tmp_path / "slot"
        standby = StandbySpec(
            template=str(template),
            template_identity=file_identity(str(template)) or [],
            template_lock=str(tmp_path / "lock"),
            slot_path=str(slot),
            slot_fd=os.open(slot, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC),
            idle_s=600,
            least_available_bytes=0,
        )
        restore = restored(spec, tmp_path).restore
        assert restore is not None
        whole = replace(
            spec,
            name=None,
            restore=replace(restore, template=True),
            standby=replace(standby, **changes),
        )
        return Standby(whole, stack, mode)

    with ExitStack() as stack:
        yield start_one


# -- becoming somebody ----------------------------------------------------------------------------


def test_a_standby_becomes_the_monitor_of_who_takes_it(start: Start, tmp_path: Path) -> None:
    standby = start().ready().take()
    pid = standby.process.pid
    assert standby.event("started") == {"event": "started", "pid": pid, "name": f"web-{pid}"}
    phases = standby.event("ready")["phases"]
    assert [*phases] == ["standby", "resume", "agent", "workload"]
    status = standby.ask("status")["result"]
    assert (status["state"], status["warm"], status["name"]) == ("running", True, f"web-{pid}")

    assert os.readlink(f"/proc/{pid}/cwd") == str(tmp_path)
    assert "Umask:\t0027" in Path(f"/proc/{pid}/status").read_text()
    slot = Path(standby.spec.standby.slot_path) if standby.spec.standby else None
    assert slot is not None
    assert not slot.exists()
    console = Path(standby.spec.state_dir, CONSOLE_LOG).read_text()
    greetings = [line for line in console.splitlines() if line.startswith("HELLO with flags")]
    assert set(greetings) == {f"HELLO with flags {HELLO_SET_TIME | HELLO_NEW_EPOCH}"}
    assert len(greetings) >= 3  # two of the rehearsal, and that of who took it

    standby.ask("stop")
    assert standby.event("ended") == {"event": "ended", "status": 0}
    assert standby.exit_status() == 0
    assert standby.left() == []


def test_the_end_of_who_took_it_is_its_end(start: Start) -> None:
    standby = start().ready().take(stdio=True)
    standby.event("ready")
    qemu = standby.qemu()
    standby.leave()
    assert standby.exit_status() == requests.EXIT_TERMINATED
    wait_gone(qemu.pid)
    assert standby.left() == []


def test_a_vm_that_does_not_come_up_says_so(start: Start) -> None:
    standby = start().ready()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        forward = {"host_port": taken.getsockname()[1], "guest_port": 80}
        standby.take(port_forward=[forward])
        failed = standby.event("failed")
    assert failed["error"]["code"] == "PORT_IN_USE"
    assert standby.event("ended")["status"] == requests.EXIT_QEMU_START_FAILED
    assert standby.exit_status() == requests.EXIT_QEMU_START_FAILED
    assert standby.left() == []


# -- what is no claim -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        b"\xff\xff\xff\xff",
        b"\2\0\0\0{}",
        b"\4\0\0\0null",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\1\0\0\0{more",
    ],
)
def test_who_says_something_else_is_hung_up_on(start: Start, data: bytes) -> None:
    standby = start().ready()
    before = len(os.listdir(f"/proc/{standby.process.pid}/fd"))
    client = standby.connect()
    descriptors = [os.open("/", os.O_PATH) for _ in range(3)]
    with suppress(BrokenPipeError, ConnectionResetError):
        socket.send_fds(client, [data], descriptors)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""
    for descriptor in descriptors:
        os.close(descriptor)
    assert standby.connect()  # it goes on, and so has done with the one before
    assert len(os.listdir(f"/proc/{standby.process.pid}/fd")) <= before + 1
    assert standby.take().event("ready")


def test_who_wants_another_machine_is_hung_up_on(start: Start) -> None:
    standby = start().ready()
    standby.take(machine=replace(CARDLESS, cpus=1))
    with pytest.raises(AssertionError, match="no started"):
        standby.event("started")
    assert standby.take().event("ready")


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "other"},
        {"restore": None},
        {"extra_args": ["-s"]},
        {"dtb": "/x.dtb"},
        {"template_dir": "/x"},
        {"owned_dirs": ["/x"]},
        {"cgroups": [CgroupSpec(path="/sys/fs/cgroup/x", values={})]},
        {"confine": True},
        {"give_back": False},
        {"passt_binary": "/usr/bin/passt"},
        {"machine": replace(CARDLESS, memory_mib=8)},
        {
            "mount_disk": MountDiskSpec(
                guest="/mnt/x", lower="/l", base="/b", layers=[], overlay_template="/t"
            )
        },
    ],
)
def test_what_a_standby_cannot_become_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    own = restored(make_spec(tmp_path, machine=CARDLESS, confine=False), tmp_path)
    assert own.restore is not None
    own = replace(own, restore=replace(own.restore, template=True))
    claimed = replace(own, name="web", run_dir="/elsewhere", kernel="/elsewhere/vmlinux")
    adopted = adopt(own, claimed)
    assert (adopted.name, adopted.run_dir, adopted.kernel) == ("web", own.run_dir, own.kernel)
    with pytest.raises(VmmError) as caught:
        adopt(own, replace(claimed, **changes))
    assert caught.value.code == "SPEC_INVALID"


# -- the end of one that nobody took --------------------------------------------------------------


def test_nobody_comes(start: Start) -> None:
    standby = start(idle_s=0.4)
    assert standby.exit_status() == 0
    assert standby.left() == []


def test_its_template_goes(start: Start, tmp_path: Path) -> None:
    standby = start(idle_s=8).ready()
    (tmp_path / "template").rmdir()
    assert standby.exit_status() == 0
    assert standby.left() == []


def test_the_host_runs_short_of_memory(start: Start) -> None:
    standby = start(idle_s=8, least_available_bytes=1 << 60)
    assert standby.exit_status() == 0
    assert standby.left() == []


def test_it_was_withdrawn_by_somebody_who_never_came(start: Start) -> None:
    standby = start(idle_s=4).ready()
    standby.path().rename(standby.path(TAKEN_SOCKET))
    assert standby.exit_status() == 0
    assert standby.left() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_it_is_told_to_end(start: Start, number: signal.Signals) -> None:
    standby = start().ready()
    standby.process.send_signal(number)
    assert standby.exit_status() == 0
    assert standby.left() == []


def test_its_qemu_is_killed(start: Start) -> None:
    standby = start().ready()
    standby.qemu().kill()
    assert standby.exit_status() == 0
    assert standby.left() == []


def test_it_is_killed_and_its_qemu_goes_along(start: Start) -> None:
    standby = start().ready()
    qemu = standby.qemu()
    standby.process.kill()
    wait_gone(qemu.pid)


@pytest.mark.parametrize("mode", ["broken", "bad state"])
def test_a_machine_that_does_not_come_up_is_no_standby(start: Start, mode: str) -> None:
    standby = start(mode)
    assert standby.exit_status() == requests.EXIT_QEMU_START_FAILED
    assert standby.left() == []


@pytest.mark.parametrize("changes", [{"template_identity": [1, 2, 3]}, {"template_lock": "/no"}])
def test_a_template_that_is_another_one_by_now_is_not_begun_with(
    start: Start, changes: dict[str, Any]
) -> None:
    standby = start(**changes)
    assert standby.exit_status() == requests.EXIT_QEMU_START_FAILED
    assert standby.left() == []


# -- a moment in which nobody is disturbed --------------------------------------------------------


def test_patience_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmm.standby_slot.idle_seconds", lambda: 0.0)
    wait_for_leisure(0.5)


def test_an_idle_processor_is_leisure(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = iter(float(number) for number in range(1000))
    monkeypatch.setattr("vmm.standby_slot.idle_seconds", lambda: next(passed))
    wait_for_leisure(3600)


def test_idle_time_only_grows() -> None:
    first = idle_seconds()
    assert 0 < first <= idle_seconds()
