"""One VM's life: the task group that owns everything below it.

Bring-up: QEMU is already running when this module is imported. Cold boot: speak QMP, wait for the
agent, start the workload. Restore: load the device state, greet the agent with a new epoch, let the
guest run on. Then serve until QEMU ends.
"""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack, closing, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup

from vmm import requests
from vmm.auto_pause import AutoPause
from vmm.confine import confinement_notes
from vmm.console import ConsoleLog, copy_console, read_last_words
from vmm.control import ControlServer, EventBus
from vmm.debugger import Debugger
from vmm.device_state import bring_back, run_on
from vmm.disk_room import DiskRoom
from vmm.errors import VmmError, as_os_error, first_error
from vmm.event_log import EventLog
from vmm.forwards import PortForwards
from vmm.frames import HELLO_NEW_EPOCH, HELLO_PROXY, HELLO_RESTORED, HELLO_SET_TIME, Hello
from vmm.guest_streams import GuestStreams
from vmm.io_limits import limit_disks
from vmm.live_mounts import LiveMounts
from vmm.main_session import Pipes, attach_main, run_workload
from vmm.mount_requests import mount_disks
from vmm.mux import ChannelMux
from vmm.observer import Observer
from vmm.operations import Operations
from vmm.phases import PhaseClock
from vmm.qemu import QemuProcess, why_qemu_ended
from vmm.qmp import Qmp, qmp_session
from vmm.records import OperationRecord
from vmm.requests import CONSOLE_LOG, EVENT_LOG, PhasesEvent, StateEvent, VmEvent
from vmm.sampler import Sampler
from vmm.snapshot_vmstate import VmstateEngine
from vmm.spec import VmSpec
from vmm.stats import STATS_FILE, StatsFile, cpu_seconds
from vmm.status import LET_GO, report
from vmm.telemetry import Telemetry
from vmm.template import keep_template
from vmm.vsock_server import HangupWatch, serve_vsock

if TYPE_CHECKING:
    from vmm.proxy import Proxy

LAST_FRAME_TIMEOUT_S = 0.2


class Monitor:
    """Runs one VM from a spec and a QEMU that was just started, or of which `standing` has loaded
    the machine (vmm/standby.py)."""

    def __init__(
        self,
        spec: VmSpec,
        qemu: QemuProcess,
        base_image_fd: int | None,
        clock: PhaseClock,
        standing: Qmp | None = None,
    ) -> None:
        self._spec = spec
        self._standing = standing
        self._qemu = qemu
        self._base_image_fd = base_image_fd
        self._clock = clock
        self._bus = EventBus(self._note_event)
        self._watch = HangupWatch()
        self._operations: Operations | None = None
        self._console = ConsoleLog(Path(spec.state_dir, CONSOLE_LOG))
        self._stats = StatsFile(Path(spec.state_dir, STATS_FILE))
        self._stats.show_state("restoring" if spec.is_copy else "booting")
        self._events = EventLog(Path(spec.state_dir, EVENT_LOG), spec.id, lambda: self._name)
        self._mux = ChannelMux(self._greet, self._note)
        self._mux.reserved = spec.template_dir is not None and spec.restore is None
        self._mux.telemetry = self._telemetry = Telemetry()
        self._mux_ended = anyio.Event()
        self._state_changed = anyio.Event()
        self._last_words = b""
        self._last_words_read = anyio.Event()
        self._failure: VmmError | None = None
        self._crash_report: str | None = None
        self._ready = False
        self._returned_bytes = 0
        self._live_mounts: LiveMounts | None = None
        self._at_end = ExitStack()

    async def run(self) -> int:
        """Bring the VM up and serve it until it ends.

        The monitor's exit status (vmm/requests.py).
        """
        with closing(self._console), closing(self._stats), closing(self._events), self._at_end:
            for note in filter(None, (self._spec.note, *confinement_notes(self._spec))):
                self._note(note)
            try:
                status = self._exit_status(await self._run_until_qemu_ends())
            except Exception as error:
                self._keep_report(requests.EXIT_MONITOR_FAILED, None, error)
                raise
            self._report_end(status)
            return status

    @property
    def _name(self) -> str | None:
        """What the VM is called now."""
        return self._operations.name if self._operations else self._spec.name

    async def _run_until_qemu_ends(self) -> int:
        qemu_status = 0
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._collect_last_words)
            tasks.start_soon(self._live)
            await anyio.wait_readable(self._qemu.pidfd)
            qemu_status = self._qemu.process.wait()
            if self._operations is not None:
                self._operations.qemu_ended.set()
            with anyio.move_on_after(LAST_FRAME_TIMEOUT_S):
                await self._mux_ended.wait()  # the guest's last frame may still be in the socket
                await self._last_words_read.wait()
            self._failure = why_qemu_ended(self._failure, qemu_status, self._last_words)
            # Before control.sock closes: who hears of the end finds the report there.
            self._keep_report(self._exit_status(qemu_status), qemu_status)
            tasks.cancel_scope.cancel()
        return qemu_status

    # -- bring-up -------------------------------------------------------------------------------

    async def _live(self) -> None:
        """Everything that needs QMP; a failure here ends the VM."""
        try:
            async with (
                nullcontext(self._standing)
                if self._standing is not None
                else qmp_session(self._qemu.qmp_socket) as qmp,
                anyio.create_task_group() as tasks,
            ):
                await self._bring_up(qmp, tasks)
        except* VmmError as group:
            self._failure = first_error(group)
            self._qemu.kill()
        except* (OSError, MemoryError, RuntimeError) as group:
            refused = as_os_error(first_error(group))
            if self._ready or refused is None:
                raise
            self._failure = self._qemu.refusal(refused)
            self._qemu.kill()

    async def _bring_up(self, qmp: Qmp, tasks: TaskGroup) -> None:
        self._clock.mark("qemu-start" if self._standing is None else "standby")
        machine = (self._spec, self._qemu, qmp, self._mux, self._bus)
        operations = self._operations = Operations(*machine, self._clock.phases, self._telemetry)
        watches = (self._watch_signals, self._watch_lifeline, self._watch.run, self._watch_passt)
        room = DiskRoom(qmp, operations)
        for task in (*watches, room.run, self._copy_console, self._write_stats):
            tasks.start_soon(task)
        await self._serve(operations, self._observer(qmp, operations), tasks)
        self._live_mounts = live_mounts = self._open_live_mounts()
        await limit_disks(qmp, self._spec)
        if self._standing is None:
            await bring_back(self._spec, self._qemu, qmp, self._base_image_fd, self._clock)
        tasks.start_soon(self._run_mux)
        if self._spec.restore:
            await run_on(qmp)
            self._clock.mark("resume")
        held = (qmp, self._mux, self._base_image_fd, await qmp.version(), live_mounts)
        engine = VmstateEngine(self._spec, self._qemu, *held)
        self._at_end.callback(engine.close)
        tasks.start_soon(engine.drop_events)
        await self._bring_in(engine, live_mounts, tasks)
        operations.start(engine)
        self._report_ready()

    def _observer(self, qmp: Qmp, operations: Operations) -> Observer:
        return Observer(
            self._spec,
            self._qemu,
            qmp,
            self._mux,
            operations,
            self._telemetry,
            returned_bytes=lambda: self._returned_bytes,
        )

    async def _serve(self, operations: Operations, observer: Observer, tasks: TaskGroup) -> None:
        """Open every socket; the port forwards first, since they may be refused."""
        run_dir = Path(self._spec.run_dir)
        forwards = PortForwards(tasks, self._mux, self._watch)
        for forward in self._spec.port_forward:
            await forwards.add(forward)
        operations.forwards = forwards
        vsock = str(run_dir / requests.VSOCK_SOCKET)
        self._mux.on_guest_stream = GuestStreams(vsock, self._watch, self._proxy()).serve
        await tasks.start(serve_vsock, vsock, self._mux, self._watch, self._note)
        sampler = Sampler(
            self._spec,
            self._qemu,
            self._mux,
            self._base_image_fd,
            returned_bytes=lambda: self._returned_bytes,
            served_bytes=lambda: self._live_mounts.pages_bytes_served if self._live_mounts else 0,
        )
        handlers = operations.handlers() | forwards.handlers() | observer.handlers()
        auto_pause = AutoPause(self._mux, operations, lambda: cpu_seconds(self._qemu.pid))
        tasks.start_soon(auto_pause.run)
        debugger = Debugger(self._spec, observer.qmp, operations, tasks)
        handlers |= auto_pause.handlers() | debugger.handlers()
        server = ControlServer(handlers, self._bus, sampler.feed, self._note)
        await tasks.start(server.serve, str(run_dir / requests.CONTROL_SOCKET))
        self._report({"event": "serving"})

    def _proxy(self) -> Proxy | None:
        """The web proxy, imported where there is one."""
        if self._spec.machine.network != "allowlist":
            return None
        from vmm.proxy import Proxy

        try:
            return Proxy(self._spec.allow_hosts, self._note, self._watch)
        except ValueError as error:
            raise VmmError("SPEC_INVALID", str(error)) from error

    def _open_live_mounts(self) -> LiveMounts:
        """The sessions of the live mounts; closed when the VM is gone."""
        mounts = LiveMounts(self._spec.live_mounts, self._mux, self._note)
        self._at_end.callback(mounts.close)
        return mounts

    async def _meet_agent(self, engine: VmstateEngine) -> None:
        """Wait for the agent's HELLO; a template is kept before the guest learns who it is."""
        await self._mux.met.wait()
        self._clock.mark("agent")
        self._note(f"the guest's agent answers after {self._clock.total_ms / 1000:.2f} s")
        self._report({"event": "agent"})
        if self._mux.reserved:
            kept = await keep_template(self._spec, engine)
            self._note(f"template: {kept.get('error', {}).get('message', 'written')}")
            await self._mux.open_up()
            self._clock.mark("template")
            self._report(kept)
        await self._mux.ready.wait()

    async def _bring_in(
        self, engine: VmstateEngine, live_mounts: LiveMounts, tasks: TaskGroup
    ) -> None:
        """Meet the agent, mount, start the workload, unless the guest is a copy that has one."""
        with anyio.move_on_after(self._spec.boot_timeout_ms / 1000) as waiting:
            await self._meet_agent(engine)
            if self._spec.mount_disk and not self._spec.is_copy:
                exchanged = self._spec.restore is not None
                await mount_disks(self._mux, self._spec.mount_disk, exchanged=exchanged)
            await live_mounts.attach(tasks)
            if self._spec.mount_disk or live_mounts:
                self._clock.mark("mounts")
            if self._spec.workload and not self._mux.workload_started:
                await tasks.start(run_workload, self._mux, self._spec.workload, self._pipes())
                self._clock.mark("workload")
                self._note("the workload runs in session main")
            elif pipes := self._pipes():
                tasks.start_soon(attach_main, self._mux, *pipes)
        if waiting.cancelled_caught:
            raise VmmError("AGENT_UNAVAILABLE", "the guest's agent did not answer in time")

    def _pipes(self) -> Pipes | None:
        """Those to whoever started us and did not detach."""
        if self._spec.main_input_fd is None or self._spec.main_output_fd is None:
            return None
        return self._spec.main_input_fd, self._spec.main_output_fd

    def _greet(self, nonce: int) -> Hello:
        if self._mux.reserved:
            return Hello(
                nonce=nonce,
                realtime_ns=time.time_ns(),
                entropy=bytes(32),
                hostname="",
                name="",
                flags=HELLO_SET_TIME,
            )
        named = self._operations or self._spec  # the operations know of a new name
        flags = HELLO_SET_TIME
        if self._spec.machine.network == "allowlist":
            flags |= HELLO_PROXY
        if not self._mux.was_ready:
            flags |= HELLO_NEW_EPOCH
            restore = self._spec.restore
            if self._spec.is_copy and restore is not None and not restore.tcp_keep:
                flags |= HELLO_RESTORED
        return Hello(
            nonce=nonce,
            realtime_ns=time.time_ns(),
            entropy=os.urandom(32),
            hostname=named.hostname,
            name=named.name or "",
            flags=flags,
        )

    def _note_event(self, event: VmEvent) -> None:
        """The console log and the stats file tell which state the VM is in."""
        if isinstance(event, StateEvent):
            self._stats.show_state(event.state)
            self._state_changed.set()
            self._console.note(f"{event.state} {event.detail}".rstrip())
            self._events.write("state", event.state, detail=event.detail)
        elif isinstance(event, PhasesEvent):
            took = {"phases": event.phases, "total_ms": event.total_ms}
            self._events.write("phases", f"{event.kind} done", operation=event.kind, took=took)

    def _note(self, text: str) -> None:
        """A line of ours for both logs."""
        self._console.note(text)
        self._events.write("note", text)

    # -- background -----------------------------------------------------------------------------

    async def _run_mux(self) -> None:
        await self._mux.run(self._qemu.channel_path)
        self._mux_ended.set()

    async def _copy_console(self) -> None:
        to_stderr = self._spec.console_to_stderr
        await copy_console(self._qemu.console_socket, self._console, to_stderr=to_stderr)

    async def _collect_last_words(self) -> None:
        self._last_words = await read_last_words(self._qemu.stderr_fd)
        self._last_words_read.set()

    async def _write_stats(self) -> None:
        while True:
            self._state_changed = anyio.Event()
            with suppress(OSError):  # without a descriptor to spare, the figures are older
                self._stats.sample(self._qemu.pid)
            self._returned_bytes = self._stats.bytes_reported
            with anyio.move_on_after(self._stats.interval_s):
                await self._state_changed.wait()

    async def _watch_passt(self) -> None:
        """Keep the guest's way out open."""
        qemu = self._qemu
        if qemu.passt is not None:
            from vmm.passt_watch import keep_passt

            await keep_passt(qemu.passt, lambda: qemu.exit_status() is None, self._note)

    async def _watch_signals(self) -> None:
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for _ in signals:
                raise VmmError("TERMINATED", "the monitor was told to end")

    async def _watch_lifeline(self) -> None:
        """Whoever started us holds the other end: its end of file is their end."""
        if self._spec.lifeline_fd is not None:
            await anyio.wait_readable(self._spec.lifeline_fd)
            if os.read(self._spec.lifeline_fd, 1) != LET_GO:
                raise VmmError("TERMINATED", "the process that started this VM is gone")

    # -- what the starter hears -------------------------------------------------------------------

    def _report_ready(self) -> None:
        self._ready = True
        kind = "restore" if self._spec.is_copy else "boot"
        phases, total = self._clock.phases, self._clock.total_ms
        self._bus.publish(PhasesEvent(kind=kind, phases=phases, total_ms=total))
        self._telemetry.operation_ended(
            OperationRecord(
                kind="fork" if self._spec.is_fork else kind,
                begun_us=self._clock.begun_us,
                total_ms=total,
                phases=dict(phases),
            )
        )
        self._report({"event": "ready", "phases": phases})

    def _keep_report(
        self, status: int, qemu_status: int | None, error: Exception | None = None
    ) -> None:
        """Write a crash report, if this is a crash."""
        from vmm.crash import why_it_crashed

        asked = self._asked_to_stop() or self._mux.workload_exit is not None
        why = why_it_crashed(status, self._failure, error, asked=asked)
        if why is None or self._spec.crash_dir is None:
            return
        from vmm.crash import CONSOLE_SEARCHED_BYTES, keep_crash_report

        self._crash_report = keep_crash_report(
            self._spec,
            why,
            name=self._name,
            state=self._operations.state if self._operations else None,
            uptime_ms=round(self._clock.total_ms),
            status=status,
            qemu_status=qemu_status,
            argv=self._qemu.argv,
            operations=self._telemetry.operations,
            events=self._events,
            console=self._console.tail(CONSOLE_SEARCHED_BYTES),
            stderr=self._last_words,
            error=error,
        )

    def _report_end(self, status: int) -> None:
        """Tell a starter that still waits for `ready` why it will not come."""
        if self._ready:
            return
        failure = self._failure or VmmError(*_WHY.get(status, ("GUEST_FAILED", "the VM ended")))
        self._report(
            {
                "event": "failed",
                "error": failure.to_json(),
                "console": self._console.tail(),
                "qemu": self._last_words.decode("utf-8", "replace"),
                "crash_report": self._crash_report,
            }
        )

    def _report(self, message: dict[str, Any]) -> None:
        report(self._spec, message)

    def _exit_status(self, qemu_status: int) -> int:
        """What the monitor exits with: the workload's status if the guest ended by itself."""
        if self._failure and self._failure.code == "TERMINATED":
            return requests.EXIT_TERMINATED
        if exited := self._mux.workload_exit:
            return 128 + exited.signal if exited.signal else exited.code
        if self._asked_to_stop():
            return 0
        if self._failure and not self._ready:
            return requests.EXIT_QEMU_START_FAILED
        return requests.EXIT_QEMU_DIED if qemu_status else requests.EXIT_GUEST_FAILED

    def _asked_to_stop(self) -> bool:
        return self._operations is not None and self._operations.stopping


_WHY = {
    requests.EXIT_QEMU_DIED: ("QEMU_DIED", "QEMU ended unexpectedly"),
    requests.EXIT_GUEST_FAILED: ("GUEST_FAILED", "the guest powered off before its agent answered"),
    requests.EXIT_QEMU_START_FAILED: ("QEMU_START_FAILED", "QEMU could not be started"),
}
