"""What clients can do to a running VM: status, pause, resume, snapshot, stop. One at a time."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import anyio

from vmm.control import EventBus, Handler
from vmm.disk_room import LEAST_BYTES, STOPPED_BY_DISK, free_bytes, no_room
from vmm.errors import HOST_REFUSED, VmmError
from vmm.forwards import PortForwards
from vmm.mux import ChannelMux
from vmm.qemu import QemuProcess
from vmm.qmp import Qmp
from vmm.records import OperationRecord
from vmm.rename import MAX_TEXT_BYTES, tell_guest
from vmm.requests import PhasesEvent, SnapshotReport, State, StateEvent, VmStatus
from vmm.snapshot_engine import SnapshotEngine, SnapshotRequest
from vmm.spec import VmSpec
from vmm.telemetry import Telemetry, now_us

DEFAULT_GRACE_MS = 2000
MAX_GRACE_MS = 600_000


class Operations:
    """The verbs of control.sock for one VM, and the state they move it through."""

    def __init__(
        self,
        spec: VmSpec,
        qemu: QemuProcess,
        qmp: Qmp,
        mux: ChannelMux,
        bus: EventBus,
        phases: dict[str, float],
        telemetry: Telemetry | None = None,
    ) -> None:
        self._spec = spec
        self._qemu = qemu
        self._qmp = qmp
        self._mux = mux
        self._bus = bus
        self._phases = phases
        self._telemetry = telemetry or Telemetry()
        self._engine: SnapshotEngine | None = None
        self._one_at_a_time = anyio.Lock()
        self._started_at_ms = time.time_ns() // 1_000_000
        self._state: State = "restoring" if spec.is_copy else "booting"
        self.forwards: PortForwards | None = None
        """Set by the monitor as soon as it listens."""
        self._telemetry.state_changed(self._state)

        self.name = spec.name
        """What the VM is called now; the spec says what it was called at start."""
        self.hostname = spec.hostname
        self.debugger = ""
        """As in VmStatus; set by the debugger (vmm/debugger.py)."""
        self.qemu_ended = anyio.Event()
        """Set by the monitor when QEMU has ended."""
        self.stopping = False
        """True once somebody asked for the VM's end."""
        self.auto_pause_ms: int | None = None
        """After how long without anything happening it falls asleep; None: never."""
        self._awake = anyio.Event()
        self._awake.set()
        self.waits_for_room = False
        """QEMU stands still for want of room on the host's disk, and nobody paused it."""
        self._held_from: State | None = None
        """What the VM did before a snapshot it is to end with; None if there is none."""

    def start(self, engine: SnapshotEngine) -> None:
        """The guest is up: from here on every verb works."""
        self._engine = engine
        self._set_state("running")

    def handlers(self) -> dict[str, Handler]:
        """The verbs by name."""
        return {
            "status": self._on_status,
            "pause": self._on_pause,
            "resume": self._on_resume,
            "rename": self._on_rename,
            "snapshot": self._on_snapshot,
            "release": self._on_release,
            "freeze_mount": self._on_freeze_mount,
            "stop": self._on_stop,
        }

    @property
    def state(self) -> State:
        """What the VM is doing."""
        return self._state

    async def _on_status(self, _params: dict[str, Any]) -> VmStatus:
        machine = self._spec.machine
        return VmStatus(
            id=self._spec.id,
            name=self.name,
            state=self._state,
            pid=os.getpid(),
            qemu_pid=self._qemu.pid,
            started_at_ms=self._started_at_ms,
            accel=machine.accel,
            memory_mib=machine.memory_mib,
            cpus=machine.cpus,
            network=machine.network,
            agent_ready=self._mux.ready.is_set(),
            restored=self._spec.is_copy,
            warm=self._spec.restore is not None and self._spec.restore.template,
            port_forward=[
                dataclasses.asdict(each) for each in (self.forwards.active if self.forwards else [])
            ],
            phases=self._phases,
            allow_hosts=self._spec.allow_hosts,
            origin=self._spec.origin,
            root_in_ram=machine.root_in_ram,
            limits=self._spec.limits.to_object(),
            debugger=self.debugger,
            auto_pause_ms=self.auto_pause_ms,
            asleep=self.is_asleep,
            trouble=no_room(self._spec.state_dir) if self.waits_for_room else "",
        )

    async def _on_pause(self, params: dict[str, Any]) -> VmStatus:
        async with self._one_at_a_time:
            self._require_up()
            if self._state == "running":
                await self._qmp.execute("stop")
            if self._state in ("running", "disk-full") or self.is_asleep:
                self._awake.set()  # from here on only `resume` helps
                self.waits_for_room = False
                self._set_state("paused")
        return await self._on_status(params)

    @property
    def is_asleep(self) -> bool:
        """Whether it is paused until somebody wants something of the guest."""
        return not self._awake.is_set()

    async def sleep_until(self, wanted: anyio.Event) -> None:
        """Stop a running VM's processors until `wanted` is set, or somebody wakes or ends it."""
        async with self._one_at_a_time:
            if self._state != "running" or self.debugger or wanted.is_set():
                return
            awake = self._awake = anyio.Event()
            await self._qmp.execute("stop")
            self._set_state("paused", "asleep")
        async with anyio.create_task_group() as tasks:

            async def wake_when_wanted() -> None:
                await wanted.wait()
                await self.wake()

            tasks.start_soon(wake_when_wanted)
            await awake.wait()
            tasks.cancel_scope.cancel()

    async def wake(self) -> None:
        """Let a VM that sleeps run on; nothing happens to any other."""
        async with self._one_at_a_time:
            if self.is_asleep and not self.stopping and self._held_from is None:
                await self._run_on("awake")

    async def _on_resume(self, params: dict[str, Any]) -> VmStatus:
        async with self._one_at_a_time:
            self._require_up()
            if self.debugger == "holding":
                message = "gdb holds the VM: continue or detach there, or end it by debug --stop"
                raise VmmError("NOT_RUNNING", message)
            if self._state == "disk-full" and self.free_bytes < LEAST_BYTES:
                raise VmmError(HOST_REFUSED, no_room(self._spec.state_dir), retryable=True)
            if self._state in ("paused", "disk-full"):
                await self._run_on()
        return await self._on_status(params)

    async def _run_on(self, detail: str = "") -> None:
        """Let the processors run, whatever they were stopped for."""
        await self._qmp.execute("cont")
        self._awake.set()
        self.waits_for_room = False
        self._mux.tell_time()
        self._set_state("running", detail)

    @property
    def free_bytes(self) -> int:
        """How much room there is where the VM's disks are."""
        return free_bytes(self._spec.state_dir)

    async def follow_disk(self) -> bool:
        """After QEMU has stopped: True if the host's disk was full, which is the VM's state now.

        Raises:
            VmmError: HOST_REFUSED (retryable) if the guest is not up yet.
        """
        async with self._one_at_a_time:
            starting = self._engine is None
            if self.stopping or not (starting or self._state == "running"):
                return False
            try:
                status = await self._qmp.execute("query-status")
            except VmmError:
                return False  # it hangs or has ended: who watches QEMU sees to that
            if status["status"] != STOPPED_BY_DISK:
                return False
            if starting:
                directory = self._spec.state_dir
                message = f"the VM cannot be started: there is no space left for {directory}"
                raise VmmError(HOST_REFUSED, f"{message}: free some there", retryable=True)
            self.waits_for_room = True
            self._set_state("disk-full", no_room(self._spec.state_dir))
        return True

    async def go_on_with_room(self) -> None:
        """Let a VM that waits for room run on; nothing happens to any other."""
        async with self._one_at_a_time:
            if self._state == "disk-full" and not self.stopping:
                await self._run_on("there is room on the host's disk again")

    async def follow_qemu(self) -> None:
        """Take the state QEMU is in, which a debugger changes behind our back."""
        async with self._one_at_a_time:
            self._require_up()
            status = await self._qmp.execute("query-status")
            if status["status"] == STOPPED_BY_DISK:
                return  # that is no doing of gdb's
            runs = status["running"]
            if self.debugger:
                held = not runs and (self._state == "running" or self.debugger == "holding")
                self.debugger = "holding" if held else "listening"
            if not runs and self._state == "running":
                self._set_state("paused", "by gdb")
            elif runs and self._state in ("paused", "disk-full"):
                self.waits_for_room = False
                self._mux.tell_time()
                self._set_state("running")

    @property
    def is_paused(self) -> bool:
        """Whether somebody stopped the VM's processors."""
        return self._state == "paused"

    def require_up(self) -> None:
        """NOT_RUNNING unless the guest is up and shall stay so."""
        self._require_up()

    async def _on_snapshot(self, params: dict[str, Any]) -> SnapshotReport:
        request = _snapshot_request(params)
        async with self._one_at_a_time:
            engine = self._require_up()
            before = self._state
            self._set_state("snapshotting")
            try:
                report = await self._observed(engine, request)
            except BaseException:
                self._set_state(before)
                raise
            if request.leave_running:
                self._set_state(before)
            else:
                self._held_from = before
            self._bus.publish(
                PhasesEvent(
                    kind="snapshot",
                    phases=report.phases,
                    total_ms=round(sum(report.phases.values()), 2),
                )
            )
        return dataclasses.replace(report, name=self.name)

    async def _on_release(self, _params: dict[str, Any]) -> dict[str, Any]:
        """Let the guest go on after a snapshot it was to end with; nothing else happens."""
        async with self._one_at_a_time:
            before, self._held_from = self._held_from, None
            if before is not None and not self.stopping:
                if before == "running":
                    await self._qmp.execute("cont")
                self._mux.resume()
                self._set_state(before)
        return {}

    async def _observed(self, engine: SnapshotEngine, request: SnapshotRequest) -> SnapshotReport:
        """Take a snapshot, and remember how it went."""
        begun_us, begun = now_us(), time.monotonic()

        def remember(error: str = "", **fields: Any) -> None:
            total_ms = round((time.monotonic() - begun) * 1000, 2)
            fields = {"phases": {}, **fields}
            self._telemetry.operation_ended(
                OperationRecord(
                    kind="snapshot", begun_us=begun_us, total_ms=total_ms, error=error, **fields
                )
            )

        try:
            report = await engine.snapshot(request)
        except VmmError as error:
            remember(error.code)
            raise
        size, paused = report.ram_copied_bytes, report.paused_ms
        remember(phases=report.phases, paused_ms=paused, size_bytes=size)
        return report

    async def _on_freeze_mount(self, params: dict[str, Any]) -> dict[str, Any]:
        """Keep the mount's disks as they are; the guest runs on."""
        directory = params.get("directory")
        if not isinstance(directory, str) or not os.path.isabs(directory):
            raise VmmError("PARAMS_INVALID", "freeze_mount needs the path of a directory")
        async with self._one_at_a_time:
            engine = self._require_up()
            durable = bool(params.get("durable", True))
            return {"layers": await engine.freeze_mount(Path(directory), durable=durable)}

    async def _on_rename(self, params: dict[str, Any]) -> VmStatus:
        """Take a new name, and have the guest take it."""
        name, hostname = _new_names(params)
        await self.wake()
        async with self._one_at_a_time:
            self._require_up()
            if self._state != "running":
                message = f"the VM is {self._state}: its guest hears nothing; resume it first"
                if self.waits_for_room:
                    message = no_room(self._spec.state_dir)
                raise VmmError("NOT_RUNNING", message, retryable=True)
            if not await tell_guest(self._mux, name, hostname):
                self._bus.publish(StateEvent(state=self._state, detail="guest kept its hostname"))
            self.name, self.hostname = name, hostname
        return await self._on_status(params)

    async def _on_stop(self, params: dict[str, Any]) -> dict[str, Any]:
        """Power the guest off within the grace, then kill it.

        The reply comes when QEMU has been told.
        """
        grace_ms = params.get("grace_ms", DEFAULT_GRACE_MS)
        if not isinstance(grace_ms, int) or not 0 <= grace_ms <= MAX_GRACE_MS:
            raise VmmError("PARAMS_INVALID", f"grace_ms must be 0 to {MAX_GRACE_MS}")
        await self.wake()  # to hear that it shall end
        self.stopping = True
        asked = grace_ms > 0 and self._state == "running" and self._mux.power_off(grace_ms)
        self._set_state("stopping")
        if asked:
            with anyio.move_on_after(grace_ms / 1000 + 1):  # the guest syncs after the grace
                await self.qemu_ended.wait()
        self._qemu.kill()
        return {}

    def _require_up(self) -> SnapshotEngine:
        if self._engine is None:
            raise VmmError("NOT_RUNNING", f"the VM is {self._state}", retryable=True)
        if self.stopping:
            raise VmmError("NOT_RUNNING", "the VM is stopping")
        if self._held_from is not None:
            message = "the VM stands still: somebody keeps it in a snapshot, and ends it then"
            raise VmmError("NOT_RUNNING", message, retryable=True)
        return self._engine

    def _set_state(self, state: State, detail: str = "") -> None:
        self._state = state
        self._telemetry.state_changed(state)
        self._bus.publish(StateEvent(state=state, detail=detail))


def _new_names(params: dict[str, Any]) -> tuple[str, str]:
    match params:
        case {"name": str(name), "hostname": str(hostname)} if name and hostname:
            if max(len(name.encode()), len(hostname.encode())) <= MAX_TEXT_BYTES:
                return name, hostname
        case _:
            pass
    raise VmmError("PARAMS_INVALID", "rename needs a name and a hostname")


def _snapshot_request(params: dict[str, Any]) -> SnapshotRequest:
    match params:
        case {"directory": str(directory)}:
            return SnapshotRequest(
                directory=Path(directory),
                leave_running=bool(params.get("leave_running", False)),
                durable=bool(params.get("durable", True)),
            )
        case _:
            raise VmmError("PARAMS_INVALID", "snapshot needs a directory")
