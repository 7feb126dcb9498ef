"""The verbs of one VM: states, refusals, parameters."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

import anyio
import pytest

from tests.vmm.specs import make_spec
from vmm.control import EventBus
from vmm.disk_room import LEAST_BYTES
from vmm.errors import VmmError
from vmm.mux import ChannelMux
from vmm.operations import MAX_GRACE_MS, Operations
from vmm.qemu import QemuProcess
from vmm.qmp import Qmp
from vmm.requests import PhasesEvent, SnapshotReport, StateEvent, VmEvent
from vmm.snapshot_engine import SnapshotRequest

REPORT = SnapshotReport(
    directory="/bundle",
    id="abcd",
    name="web",
    machine={},
    qemu_version="10.0.0",
    base="/base",
    layers=[],
    state="state",
    ram_image="ram.img",
    ram_copied_bytes=0,
    paused_ms=1.0,
    quiesced=True,
    phases={"stop": 1.0},
)


class Bus(EventBus):
    """Keeps what was published."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[VmEvent] = []

    def publish(self, event: VmEvent) -> None:
        self.events.append(event)

    @property
    def states(self) -> list[str]:
        return [event.state for event in self.events if isinstance(event, StateEvent)]


class Vm:
    """One VM: a real process for QEMU, the rest plays along."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(["sleep", "1000"])
        self.pid = self.process.pid
        self.commands: list[str] = []
        self.requests: list[SnapshotRequest] = []
        self.frozen: list[tuple[Path, bool]] = []
        self.agent_answers = True
        self.powers_off = True
        self.times_told = 0
        self.resumed = 0
        self.run_state = "running"
        self.ready = anyio.Event()
        self.fails: VmmError | None = None
        self.bus = Bus()
        self.operations = Operations(
            make_spec(directory),
            cast("QemuProcess", self),
            cast("Qmp", self),
            cast("ChannelMux", self),
            self.bus,
            {"agent": 5.0},
        )

    # QEMU
    def kill(self) -> None:
        self.process.kill()

    async def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        if command == "query-status":
            return {"status": self.run_state, "running": self.run_state == "running"}
        self.commands.append(command)

    # the mux
    def tell_time(self) -> None:
        self.times_told += 1

    def resume(self) -> None:
        self.resumed += 1

    def power_off(self, grace_ms: int) -> bool:
        if self.agent_answers and self.powers_off:
            self.process.terminate()
            self.operations.qemu_ended.set()  # the monitor's part
        return self.agent_answers

    # the engine
    async def freeze_mount(self, directory: Path, *, durable: bool) -> list[str]:
        self.frozen.append((directory, durable))
        return ["mount-1.qcow2"]

    async def snapshot(self, request: SnapshotRequest) -> SnapshotReport:
        self.requests.append(request)
        if self.fails:
            raise self.fails
        return REPORT

    async def do(self, verb: str, **params: object) -> Any:
        return await self.operations.handlers()[verb](params)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def booting(tmp_path: Path) -> Generator[Vm]:
    vm = Vm(tmp_path)
    yield vm
    vm.close()


@pytest.fixture
def vm(booting: Vm) -> Vm:
    booting.operations.start(booting)
    booting.bus.events.clear()
    return booting


async def test_status_says_who_and_how_the_vm_is(vm: Vm) -> None:
    status = await vm.do("status")
    assert (status.id, status.name, status.state) == ("abcd", "web", "running")
    assert (status.pid, status.qemu_pid) == (os.getpid(), vm.process.pid)
    assert (status.memory_mib, status.cpus, status.accel) == (4, 2, "tcg")
    assert not status.agent_ready
    assert status.phases == {"agent": 5.0}


@pytest.mark.parametrize("verb", ["pause", "resume", "snapshot"])
async def test_a_vm_that_is_not_up_yet_asks_to_try_again(booting: Vm, verb: str) -> None:
    with pytest.raises(VmmError, match="booting") as caught:
        await booting.do(verb, directory="/bundle")
    assert caught.value.code == "NOT_RUNNING"
    assert caught.value.retryable


async def test_pausing_twice_stops_once(vm: Vm) -> None:
    await vm.do("pause")
    assert (await vm.do("pause")).state == "paused"
    assert vm.commands == ["stop"]
    assert vm.bus.states == ["paused"]


async def test_resuming_steps_the_guests_clock(vm: Vm) -> None:
    await vm.do("pause")
    assert (await vm.do("resume")).state == "running"
    assert vm.commands == ["stop", "cont"]
    assert vm.times_told == 1


async def test_resuming_a_running_vm_does_nothing(vm: Vm) -> None:
    await vm.do("resume")
    assert vm.commands == []


async def test_a_snapshot_passes_through_its_state_and_goes_on(vm: Vm) -> None:
    assert await vm.do("snapshot", directory="/bundle", leave_running=True) == REPORT
    assert vm.bus.states == ["snapshotting", "running"]
    assert PhasesEvent(kind="snapshot", phases={"stop": 1.0}, total_ms=1.0) in vm.bus.events
    assert (await vm.do("status")).state == "running"
    assert vm.requests == [
        SnapshotRequest(directory=Path("/bundle"), leave_running=True, durable=True)
    ]


async def test_a_mount_is_frozen_where_the_client_says(vm: Vm) -> None:
    assert await vm.do("freeze_mount", directory="/staging/vm") == {"layers": ["mount-1.qcow2"]}
    assert vm.frozen == [(Path("/staging/vm"), True)]
    with pytest.raises(VmmError) as caught:
        await vm.do("freeze_mount", directory="staging")
    assert caught.value.code == "PARAMS_INVALID"


async def test_a_snapshot_of_a_paused_vm_leaves_it_paused(vm: Vm) -> None:
    await vm.do("pause")
    await vm.do("snapshot", directory="/bundle", leave_running=True)
    assert (await vm.do("status")).state == "paused"


async def test_a_vm_that_is_to_end_with_a_snapshot_stands_still_until_it_is_stopped(vm: Vm) -> None:
    await vm.do("snapshot", directory="/bundle")
    assert vm.process.poll() is None
    assert (await vm.do("status")).state == "snapshotting"
    for verb in ("pause", "snapshot", "rename"):
        with pytest.raises(VmmError, match="stands still") as caught:
            await vm.do(verb, directory="/other", name="a", hostname="a")
        assert caught.value.retryable
    await vm.do("stop")
    assert vm.process.wait(60) == -9
    await vm.do("release")
    assert vm.commands == []


@pytest.mark.parametrize("paused", [False, True])
async def test_a_vm_that_did_not_end_with_its_snapshot_goes_on_as_it_was(
    vm: Vm, paused: bool
) -> None:
    if paused:
        await vm.do("pause")
    vm.commands.clear()
    await vm.do("snapshot", directory="/bundle")
    await vm.do("release")
    assert vm.commands == ([] if paused else ["cont"])
    assert vm.resumed == 1
    assert (await vm.do("status")).state == ("paused" if paused else "running")
    await vm.do("release")
    assert vm.resumed == 1


async def test_a_snapshot_that_fails_leaves_the_vm_running(vm: Vm) -> None:
    vm.fails = VmmError("SNAPSHOT_FAILED", "no space")
    with pytest.raises(VmmError, match="no space"):
        await vm.do("snapshot", directory="/bundle")
    assert (await vm.do("status")).state == "running"
    assert vm.process.poll() is None


@pytest.mark.parametrize("params", [{}, {"directory": 5}, {"directory": None}])
async def test_a_snapshot_needs_a_directory(vm: Vm, params: dict[str, object]) -> None:
    with pytest.raises(VmmError) as caught:
        await vm.do("snapshot", **params)
    assert caught.value.code == "PARAMS_INVALID"


@pytest.mark.parametrize("grace_ms", [-1, MAX_GRACE_MS + 1, 1.5, "2000", None])
async def test_a_grace_that_is_none_is_refused(vm: Vm, grace_ms: object) -> None:
    with pytest.raises(VmmError) as caught:
        await vm.do("stop", grace_ms=grace_ms)
    assert caught.value.code == "PARAMS_INVALID"
    assert vm.process.poll() is None
    assert not vm.operations.stopping


async def test_stopping_lets_the_guest_power_off(vm: Vm) -> None:
    with anyio.fail_after(60):
        assert await vm.do("stop", grace_ms=600_000) == {}
    assert vm.process.wait(60) == -15


async def test_without_a_grace_qemu_is_killed_at_once(vm: Vm) -> None:
    await vm.do("stop", grace_ms=0)
    assert vm.process.wait(60) == -9


async def test_a_guest_that_does_not_answer_is_killed_at_once(vm: Vm) -> None:
    vm.agent_answers = False
    with anyio.fail_after(60):
        await vm.do("stop", grace_ms=600_000)
    assert vm.process.wait(60) == -9


async def test_a_paused_guest_is_killed_at_once(vm: Vm) -> None:
    await vm.do("pause")
    with anyio.fail_after(60):
        await vm.do("stop", grace_ms=600_000)
    assert vm.process.wait(60) == -9


async def test_a_guest_that_ignores_power_off_is_killed_when_the_grace_is_over(vm: Vm) -> None:
    vm.powers_off = False
    with anyio.fail_after(60):
        await vm.do("stop", grace_ms=1)
    assert vm.process.wait(60) == -9


async def test_a_vm_that_still_boots_can_be_stopped(booting: Vm) -> None:
    await booting.do("stop")
    assert booting.process.wait(60) == -9


# -- the host's disk is full ----------------------------------------------------------------------


async def test_a_guest_that_waits_for_room_says_so_and_goes_on_with_it(vm: Vm) -> None:
    vm.run_state = "io-error"
    assert await vm.operations.follow_disk()
    status = await vm.do("status")
    assert status.state == "disk-full"
    assert "goes on by itself" in status.trouble
    assert not await vm.operations.follow_disk()  # it is told once
    await vm.operations.go_on_with_room()
    assert (vm.commands, vm.times_told) == (["cont"], 1)
    assert (await vm.do("status")).trouble == ""
    assert vm.bus.states == ["disk-full", "running"]


async def test_a_stop_for_another_reason_is_no_full_disk(vm: Vm) -> None:
    vm.run_state = "paused"
    assert not await vm.operations.follow_disk()
    assert vm.bus.states == []


async def test_a_guest_that_waits_for_room_and_is_paused_waits_for_its_owner(vm: Vm) -> None:
    vm.run_state = "io-error"
    await vm.operations.follow_disk()
    await vm.do("pause")
    await vm.operations.go_on_with_room()
    assert vm.commands == []
    assert (await vm.do("resume")).state == "running"
    assert vm.commands == ["cont"]


async def test_resume_without_any_room_says_what_is_missing(
    vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    vm.run_state = "io-error"
    await vm.operations.follow_disk()
    free = [LEAST_BYTES - 1]
    monkeypatch.setattr(Operations, "free_bytes", property(lambda _: free[0]))  # pyright: ignore
    with pytest.raises(VmmError, match="disk is full") as caught:
        await vm.do("resume")
    assert (caught.value.code, caught.value.retryable) == ("HOST_REFUSED", True)
    free[0] += 1
    assert (await vm.do("resume")).state == "running"


async def test_a_snapshot_of_a_guest_that_waits_for_room_leaves_it_waiting(vm: Vm) -> None:
    vm.run_state = "io-error"
    await vm.operations.follow_disk()
    await vm.do("snapshot", directory="/bundle")
    await vm.operations.go_on_with_room()  # not now: somebody keeps it
    await vm.do("release")
    assert vm.commands == []
    assert (await vm.do("status")).state == "disk-full"


async def test_a_full_disk_ends_a_start_at_once(booting: Vm) -> None:
    booting.run_state = "io-error"
    with pytest.raises(VmmError, match="cannot be started: there is no space left") as caught:
        await booting.operations.follow_disk()
    assert (caught.value.code, caught.value.retryable) == ("HOST_REFUSED", True)
