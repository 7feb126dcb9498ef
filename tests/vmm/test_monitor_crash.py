"""Which ends of a VM leave a report, what is in it, and that it is there before the sockets close.

The monitors run on the fake QEMU of test_monitor.py.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.vmm.test_monitor import WAIT_S, Monitor, Start, start
from vmm import requests
from vmm.crash_report import reports_in
from vmm.spec import ForwardSpec

__all__ = ["start"]


@pytest.fixture
def crash_dir(tmp_path: Path) -> Path:
    return tmp_path / "crashes"


@pytest.fixture
def crashing(start: Start, crash_dir: Path) -> Start:
    def start_one(mode: str = "", **changes: Any) -> Monitor:
        return start(mode, crash_dir=str(crash_dir), **changes)

    return start_one


def report_in(crash_dir: Path) -> dict[str, Any]:
    (path,) = reports_in(crash_dir)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    return json.loads(path.read_bytes())


def test_a_killed_qemu_leaves_a_report_before_its_clients_are_let_go(
    crashing: Start, crash_dir: Path
) -> None:
    monitor = crashing().ready()
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(WAIT_S)
        client.connect(str(Path(monitor.spec.run_dir, requests.CONTROL_SOCKET)))
        os.kill(monitor.qemu_pid(), signal.SIGKILL)
        assert client.recv(1) == b""
        report = report_in(crash_dir)
    assert monitor.exit_status() == requests.EXIT_QEMU_DIED
    assert (report["reason"], report["qemu_status"]) == ("QEMU_DIED", -signal.SIGKILL)
    assert report["message"] == "QEMU ended unexpectedly (signal 9)"
    assert (report["name"], report["state"], report["vm_id"]) == ("web", "running", "abcd")
    assert "Linux version 6.12\n" in report["console_tail"]
    assert report["operations"][0]["kind"] == "boot"
    assert report["exit_status"] == requests.EXIT_QEMU_DIED
    assert "-machine" in report["argv"]
    assert {"machinen", "python", "host"} == set(report["versions"])
    assert [event["message"] for event in report["events"]][-2:] == ["running", "boot done"]
    assert monitor.left_files() == []


@pytest.mark.parametrize(
    ("mode", "reason", "said"),
    [
        ("panic", "GUEST_FAILED", "the guest went down by itself"),
        ("broken", "QEMU_START_FAILED", ""),
    ],
)
def test_a_start_that_fails_names_its_report(
    crashing: Start, crash_dir: Path, mode: str, reason: str, said: str
) -> None:
    failed = crashing(mode).event("failed")
    report = report_in(crash_dir)
    assert failed["crash_report"] == str(crash_dir / f"{report['id']}.json")
    assert report["reason"] in (reason, "QEMU_GONE")
    assert said in report["message"] or report["reason"] == "QEMU_GONE"
    if mode == "broken":
        assert "unsupported machine type" in report["qemu_stderr"]


def test_ends_that_were_asked_for_leave_no_report(crashing: Start, crash_dir: Path) -> None:
    monitor = crashing().ready()
    monitor.process.send_signal(signal.SIGTERM)
    monitor.exit_status()
    assert not crash_dir.exists()


def test_a_stop_is_no_crash(crashing: Start, crash_dir: Path) -> None:
    monitor = crashing().ready()
    monitor.ask("stop", grace_ms=0)
    monitor.exit_status()
    assert not crash_dir.exists()


@pytest.mark.parametrize("mode", ["exit 7 0", "exit 0 9", "bad workload"])
def test_the_workloads_own_end_is_no_crash(crashing: Start, crash_dir: Path, mode: str) -> None:
    crashing(mode).exit_status()
    assert not crash_dir.exists()


def test_a_port_that_is_taken_is_no_crash(crashing: Start, crash_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        forward = ForwardSpec(host_port=taken.getsockname()[1], guest_port=80)
        assert crashing(port_forward=[forward]).event("failed")["crash_report"] is None
    assert not crash_dir.exists()


def test_a_fault_of_the_monitor_is_reported_with_its_traceback(
    crashing: Start, crash_dir: Path
) -> None:
    monitor = crashing().ready()
    Path(monitor.spec.state_dir, "console.log").unlink()
    directory = Path(monitor.spec.state_dir)
    directory.rename(directory.with_name("elsewhere"))  # the next rotation has nowhere to go
    qemu = monitor.qemu_pid()
    os.kill(qemu, signal.SIGUSR2)  # fills the console
    assert monitor.exit_status() == requests.EXIT_MONITOR_FAILED
    report = report_in(crash_dir)
    assert report["reason"] == "MONITOR_FAILED"
    assert "FileNotFoundError" in report["message"]
    assert "console.py" in report["traceback"]


def test_without_room_for_a_report_the_end_is_the_same(
    crashing: Start, crash_dir: Path, tmp_path: Path
) -> None:
    crash_dir.write_text("in the way")
    monitor = crashing().ready()
    os.kill(monitor.qemu_pid(), signal.SIGKILL)
    assert monitor.exit_status() == requests.EXIT_QEMU_DIED
    assert monitor.left_files() == []


def test_the_monitors_log_tells_the_same_life(crashing: Start) -> None:
    monitor = crashing().ready()
    lines = Path(monitor.spec.state_dir, requests.EVENT_LOG).read_text().splitlines()
    events = [json.loads(line) for line in lines]
    told = [(each["event"], each["message"]) for each in events]
    assert ("state", "running") in told
    assert ("phases", "boot done") in told
    assert {each["vm"] for each in events} == {"web"}
    assert {each["pid"] for each in events} == {monitor.process.pid}
