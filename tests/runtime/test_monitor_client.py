"""Requests to a monitor that answers, refuses, hangs up, and one that is not there."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from machinen_runtime.errors import BootError, ErrorCode, MachinenError, SnapshotError
from machinen_runtime.monitor_client import MonitorClient, translate
from vmm.errors import VmmError
from vmm.requests import PhasesEvent, SnapshotReport, StateEvent, VmEvent, VmStatus

STATUS: dict[str, Any] = {
    "id": "abcd",
    "name": "web",
    "state": "running",
    "pid": 1,
    "qemu_pid": 2,
    "started_at_ms": 3,
    "accel": "tcg",
    "memory_mib": 64,
    "cpus": 1,
    "network": "full",
    "agent_ready": True,
    "restored": False,
    "port_forward": [],
    "phases": {},
}
REPORT: dict[str, Any] = {
    "directory": "/bundle",
    "id": "abcd",
    "name": None,
    "machine": {},
    "qemu_version": "10.0.0",
    "base": "/base",
    "layers": [],
    "state": "state",
    "ram_image": "ram.img",
    "ram_copied_bytes": 0,
    "paused_ms": 1.0,
    "quiesced": True,
    "phases": {},
}


class Monitor:
    """Answers every request with the next of the given lines, and keeps what was asked."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = [*answers]
        self.asked: list[dict[str, Any]] = []

    async def serve(self, client: SocketStream) -> None:
        async with client:
            line = await BufferedByteReceiveStream(client).receive_until(b"\n", 1 << 20)
            self.asked.append(json.loads(line))
            for answer in self.answers:
                if answer is None:
                    await anyio.sleep_forever()
                else:
                    await client.send(answer)


def reply(result: object) -> bytes:
    return json.dumps({"id": 1, "result": result}).encode() + b"\n"


def refusal(code: str, *, retryable: bool = False) -> bytes:
    error = {"code": code, "message": "not now", "retryable": retryable}
    return json.dumps({"id": 1, "error": error}).encode() + b"\n"


@asynccontextmanager
async def serving(directory: Path, *answers: bytes | None) -> AsyncGenerator[Monitor]:
    monitor = Monitor(*answers)
    with anyio.fail_after(60):
        async with (
            await anyio.create_unix_listener(str(directory / "control.sock")) as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, monitor.serve)
            yield monitor
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()


async def test_status_comes_back_as_a_record(tmp_path: Path) -> None:
    async with serving(tmp_path, reply(STATUS)) as monitor:
        assert await MonitorClient(tmp_path).status() == VmStatus(**STATUS)
    assert monitor.asked == [{"id": 1, "method": "status", "params": {}}]


async def test_a_snapshot_says_where_and_how(tmp_path: Path) -> None:
    async with (
        serving(tmp_path, reply(REPORT)) as monitor,
        MonitorClient(tmp_path).snapshot(
            Path("/bundle"), leave_running=True, durable=False, timeout_s=5
        ) as report,
    ):
        assert report == SnapshotReport(**REPORT)
    params = {"directory": "/bundle", "leave_running": True, "durable": False}
    assert monitor.asked[0]["params"] == params


async def test_an_answer_may_come_in_pieces(tmp_path: Path) -> None:
    whole = reply(STATUS)
    async with serving(tmp_path, whole[:10], whole[10:]):
        assert (await MonitorClient(tmp_path).status()).id == "abcd"


Call = Callable[[MonitorClient], Awaitable[object]]
CALLS: dict[str, Call] = {
    "status": lambda monitor: monitor.status(),
    "pause": lambda monitor: monitor.pause(),
    "resume": lambda monitor: monitor.resume(),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.provokes(ErrorCode.VM_DIED)
async def test_without_a_monitor_the_vm_is_gone(tmp_path: Path, call: Call) -> None:
    with pytest.raises(BootError) as caught:
        await call(MonitorClient(tmp_path))
    assert caught.value.code is ErrorCode.VM_DIED


@pytest.mark.parametrize("answer", [b"", b'{"id": 1, "res'])
async def test_a_monitor_that_hangs_up_is_gone(tmp_path: Path, answer: bytes) -> None:
    async with serving(tmp_path, answer):
        with pytest.raises(BootError) as caught:
            await MonitorClient(tmp_path).status()
    assert caught.value.code is ErrorCode.VM_DIED


@pytest.mark.parametrize(
    "answer", [b"hello\n", b"[]\n", b"{}\n", reply(None), reply({}), reply([]), reply({"a": 1})]
)
@pytest.mark.provokes(ErrorCode.VM_CONTROL_FAILED)
async def test_a_monitor_of_another_version_is_named(tmp_path: Path, answer: bytes) -> None:
    async with serving(tmp_path, answer):
        with pytest.raises(BootError, match="another version") as caught:
            await MonitorClient(tmp_path).status()
    assert caught.value.code is ErrorCode.VM_CONTROL_FAILED


@pytest.mark.provokes(ErrorCode.SNAPSHOT_TIMEOUT)
async def test_a_snapshot_that_takes_too_long_is_a_timeout(tmp_path: Path) -> None:
    async with serving(tmp_path, None):
        with pytest.raises(SnapshotError) as caught:
            async with MonitorClient(tmp_path).snapshot(
                Path("/bundle"), leave_running=True, durable=True, timeout_s=0.05
            ):
                raise AssertionError("there was no answer")
    assert caught.value.code is ErrorCode.SNAPSHOT_TIMEOUT


async def test_a_monitor_that_does_not_answer_is_worth_another_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MonitorClient._request, "__defaults__", (None, 0.05))  # pyright: ignore[reportPrivateUsage]
    async with serving(tmp_path, None):
        with pytest.raises(BootError, match="did not answer") as caught:
            await MonitorClient(tmp_path).status()
    assert caught.value.code is ErrorCode.VM_CONTROL_FAILED
    assert caught.value.retryable


async def test_a_refusal_keeps_its_words_and_whether_to_try_again(tmp_path: Path) -> None:
    async with serving(tmp_path, refusal("NOT_RUNNING", retryable=True)):
        with pytest.raises(BootError, match="not now") as caught:
            await MonitorClient(tmp_path).pause()
    assert caught.value.code is ErrorCode.VM_CONTROL_FAILED
    assert caught.value.retryable


async def test_stopping_a_vm_that_is_gone_is_no_error(tmp_path: Path) -> None:
    await MonitorClient(tmp_path).stop(1000)
    async with serving(tmp_path, b""):
        await MonitorClient(tmp_path).stop(1000)


async def test_stopping_says_the_grace(tmp_path: Path) -> None:
    async with serving(tmp_path, reply({})) as monitor:
        await MonitorClient(tmp_path).stop(1500)
    assert monitor.asked[0]["params"] == {"grace_ms": 1500}


async def test_events_come_until_the_vm_is_gone(tmp_path: Path) -> None:
    lines = [
        reply(STATUS),
        b'{"event": "state", "data": {"state": "paused", "detail": ""}}\n',
        b'{"event": "weather", "data": {"sunny": true}}\n',
        b'{"event": "phases", "data": {"kind": "boot", "phases": {"agent": 1.5}, "total_ms": 2}}\n',
    ]
    received: list[VmEvent] = []
    async with (
        serving(tmp_path, *lines) as monitor,
        MonitorClient(tmp_path).events(500) as events,
    ):
        async for event in events:
            received.append(event)
    assert received == [
        StateEvent(state="paused"),
        PhasesEvent(kind="boot", phases={"agent": 1.5}, total_ms=2),
    ]
    assert monitor.asked[0]["method"] == "subscribe"
    assert monitor.asked[0]["params"] == {"stats_interval_ms": 500}


async def test_events_of_a_vm_that_is_gone_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(BootError) as caught:
        async with MonitorClient(tmp_path).events():
            raise AssertionError("subscribed")
    assert caught.value.code is ErrorCode.VM_DIED


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "family", "ours"),
    [
        ("QEMU_START_FAILED", BootError, ErrorCode.BOOT_VMM_MISSING),
        ("QEMU_DIED", BootError, ErrorCode.VM_DIED),
        ("RESTORE_FAILED", BootError, ErrorCode.BOOT_SNAPSHOT_INVALID),
        ("AGENT_UNAVAILABLE", BootError, ErrorCode.BOOT_TIMEOUT),
        ("WORKLOAD_FAILED", BootError, ErrorCode.BOOT_CMD_FAILED),
        ("PORT_IN_USE", BootError, ErrorCode.BOOT_PORT_FORWARD_IN_USE),
        ("SNAPSHOT_FAILED", SnapshotError, ErrorCode.SNAPSHOT_DUMP_FAILED),
        ("SOMETHING_NEW", BootError, ErrorCode.VM_CONTROL_FAILED),
    ],
)
def test_a_monitors_code_has_a_place_in_our_family(
    code: str, family: type[MachinenError], ours: ErrorCode
) -> None:
    error = translate(VmmError(code, "what happened", retryable=True), "console: panic")
    assert type(error) is family
    assert (error.code, error.retryable) == (ours, True)
    assert str(error) == "what happened\nconsole: panic"


@pytest.mark.parametrize("value", [None, "x", {}, {"code": 5, "message": "x"}, []])
def test_an_error_nobody_can_read_is_still_one(value: object) -> None:
    assert VmmError.from_json(value).code == "PROTOCOL"


def test_an_error_survives_the_wire() -> None:
    error = VmmError("NOT_RUNNING", "the VM is booting", retryable=True)
    again = VmmError.from_json(error.to_json())
    assert (again.code, str(again), again.retryable) == ("NOT_RUNNING", "the VM is booting", True)
