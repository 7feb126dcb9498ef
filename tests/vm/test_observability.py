"""What a real VM tells of itself: figures, timelines, logs, and reports of forks that crash."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest

from machinen_runtime.crashes import read_crash
from machinen_runtime.errors import BootError, ErrorCode, ExecError
from machinen_runtime.handle import VmHandle
from machinen_runtime.metrics import SandboxMetrics, metrics_text, read_metrics
from machinen_runtime.trace import chrome_trace
from tests.runtime.test_metrics import value
from tests.vm.child import MACHINEN
from tests.vm.conftest import qemu_of
from vmm.records import VmMetrics

pytestmark = pytest.mark.vm


async def figures(vm: VmHandle) -> VmMetrics:
    for each in await read_metrics():
        if each.pid == vm.pid:
            assert each.figures is not None
            return each.figures
    raise AssertionError("it is not among them")


async def test_figures_grow_with_what_is_done(vm: VmHandle) -> None:
    before = await figures(vm)
    await vm.exec("dd if=/dev/zero of=/srv/big bs=1M count=8 conv=fsync")
    with pytest.raises(ExecError):
        await vm.exec("exit 3")
    await vm.pause()
    assert (await figures(vm)).state == "paused"
    await vm.resume()
    after = await figures(vm)
    assert after.disk_written_bytes - before.disk_written_bytes >= 8 << 20
    assert after.disk_allocated_bytes - before.disk_allocated_bytes >= 8 << 20
    assert after.commands["ok"] - before.commands["ok"] == 1
    assert after.commands["failed"] - before.commands["failed"] == 1
    assert sum(after.command_seconds.counts) == sum(after.commands.values())
    assert after.cpu_seconds["qemu"] > before.cpu_seconds["qemu"]
    assert after.rss_bytes > after.private_bytes > 0
    assert after.paused_seconds > before.paused_seconds
    assert after.operations["boot"].done == 1
    text = await metrics_text()
    assert value(text, "machinen_sandbox_info", id=after.id, sandbox="shared") == 1
    assert value(text, "machinen_sandbox_disk_bytes_total", direction="written") > 8 << 20


async def test_a_fork_is_a_snapshot_in_its_source_and_a_fork_in_itself(
    vm: VmHandle, tmp_path: Path
) -> None:
    async with await vm.fork(name="sibling") as fork:
        await fork.exec("true")
        of_source, of_fork = await figures(vm), await figures(fork)
        assert of_source.operations["snapshot"].last_paused_ms > 0
        assert of_source.operations["snapshot"].size_bytes > 0
        assert of_fork.operations.keys() == {"fork"}
        assert of_fork.operations["fork"].last_phases["device-state"] > 0
        assert of_fork.shared_bytes > 0
        assert [type(each) for each in await read_metrics()] == [SandboxMetrics] * 2

        trace = await chrome_trace([vm.entry, fork.entry])
        path = tmp_path / "trace.json"
        argv = [*MACHINEN, "trace", "--all", "-o", str(path)]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert (done.returncode, done.stderr, done.stdout) == (0, "", "")
        written = json.loads(path.read_text())["traceEvents"]
        assert {each["pid"] for each in written} == {vm.pid, fork.pid}
    snapshot, forked = (
        span(trace, pid, name) for pid, name in ((vm.pid, "snapshot"), (fork.pid, "fork"))
    )
    assert snapshot["ts"] < forked["ts"] + forked["dur"]
    for phase in ("qemu-start", "device-state", "agent"):
        inner = span(trace, fork.pid, phase)
        assert forked["ts"] <= inner["ts"]
        assert inner["ts"] + inner["dur"] <= forked["ts"] + forked["dur"] + 1
    assert span(trace, fork.pid, "true")["args"]["exit_code"] == 0


def span(trace: dict[str, Any], pid: int, name: str) -> dict[str, Any]:
    """The last span of this name in this VM."""
    events = trace["traceEvents"]
    return [e for e in events if (e["pid"], e["name"], e["ph"]) == (pid, name, "X")][-1]


async def test_the_monitors_log_is_shown_as_objects(vm: VmHandle) -> None:
    argv = [*MACHINEN, "logs", "shared", "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert {each["id"] for each in events} == {(await vm.status()).id}
    took = next(each["fields"]["took"] for each in events if each["event"] == "phases")
    assert took["phases"]["agent"] > 0
    short = subprocess.run([*argv, "--tail", "1"], capture_output=True, text=True, check=True)
    assert short.stdout in done.stdout
    gone = [*MACHINEN, "exec", "nobody", "--", "true"]
    env = {**os.environ, "MACHINEN_LOG_FORMAT": "json"}
    failed = subprocess.run(gone, capture_output=True, text=True, env=env)
    assert json.loads(failed.stderr)["fields"]["code"] == "REGISTRY_VM_NOT_FOUND"


async def test_who_waits_for_a_fork_that_crashes_is_told_of_its_report(vm: VmHandle) -> None:
    """Its kernel panics while a command runs; then a caller asks for it."""
    fork = await vm.fork(name="doomed")
    try:
        with pytest.raises(ExecError) as caught:
            await fork.exec("echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger; sleep 60")
        report = read_crash("doomed")
        assert report.id in str(caught.value)
        assert not caught.value.retryable
        with pytest.raises(BootError) as asked:
            await fork.status()
        assert asked.value.code is ErrorCode.VM_DIED
        assert report.id in str(asked.value)
    finally:
        await fork.kill()
    assert report.reason == "GUEST_FAILED"
    assert "kernel panic: sysrq triggered crash" in report.message
    assert "sysrq: Trigger a crash" in report.console_tail
    assert report.operations[-1]["kind"] == "fork"
    assert report.qemu_status == 0
    argv = [*MACHINEN, "crashes", "show", "doomed"]
    shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert "kernel panic" in shown


async def test_a_shell_whose_qemu_is_killed_is_told_of_the_report(vm: VmHandle) -> None:
    fork = await vm.fork(name="shot")
    try:
        argv = [*MACHINEN, "exec", "shot", "--", "sh", "-c", "echo up; sleep 60"]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as command:
            assert command.stdout is not None
            assert command.stderr is not None
            assert await anyio.to_thread.run_sync(command.stdout.readline) == b"up\n"
            qemu_of(fork).kill()
            said = (await anyio.to_thread.run_sync(command.stderr.read)).decode()
        report = read_crash("shot")
    finally:
        await fork.kill()
    assert report.id in said
    assert (report.reason, report.qemu_status) == ("QEMU_DIED", -signal.SIGKILL)
