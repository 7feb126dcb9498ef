"""Sandboxes without VMs: each one's session is a local pseudo-terminal, kept as the guest's agent
keeps it.

Everything the application sees is live: replay, sizes, exits, several clients. Only the VM is
missing.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from machinen_runtime.bundle_notes import BundleNotes
from machinen_runtime.channel_sessions import (
    Output,
    ReplayDone,
    Resized,
    SessionEvent,
    SessionInfo,
)
from machinen_runtime.compare import VmDifference
from machinen_runtime.errors import BootError, ErrorCode, MachinenError
from machinen_runtime.file_difference import TextDifference
from machinen_runtime.option_types import PortForward
from machinen_runtime.promote import PromotePlan, plan_promotion
from machinen_runtime.registry_entry import RegistryEntry
from machinen_runtime.run_many import RunOutcome
from machinen_tui.bundle_shelf import find_bundles
from machinen_tui.gateway import BeforeEnd, Report, Sandbox, SnapshotInfo
from machinen_tui.wanted import NewSandbox, WantedFork, WantedRestore, WantedSnapshot
from tests.tui.fake_doors import FakeDoors
from tests.tui.fake_terminal import FakeClient, FakeTerminal
from vmm.requests import State, StateEvent, StatsEvent, VmEvent, VmStatus

MIB = 1024 * 1024
SHELL = ("/bin/sh", "-c", "PS1='# ' exec /bin/sh -i")


@dataclass(eq=False)
class FakeSandbox:
    """Stands for a VmHandle and for the VM behind it."""

    world: FakeWorld
    entry: RegistryEntry
    terminal: FakeTerminal
    state: State = "running"
    listeners: list[MemoryObjectSendStream[VmEvent]] = field(
        default_factory=list[MemoryObjectSendStream[VmEvent]]
    )
    paces: list[int] = field(default_factory=list[int])
    """Of each subscription, in milliseconds."""

    @property
    def pid(self) -> int:
        return self.entry.pid

    @property
    def name(self) -> str | None:
        return self.entry.name

    async def status(self) -> VmStatus:
        return VmStatus(
            id=str(self.pid),
            name=self.name,
            state=self.state,
            pid=self.pid,
            qemu_pid=self.pid + 1,
            started_at_ms=int(self.entry.started_at),
            accel="tcg",
            memory_mib=512,
            cpus=1,
            network="none",
            agent_ready=True,
            restored=False,
            port_forward=[],
            phases={},
        )

    @asynccontextmanager
    async def events(self, stats_interval_ms: int = 1000) -> AsyncGenerator[AsyncIterator[VmEvent]]:
        send, receive = anyio.create_memory_object_stream[VmEvent](100)
        self.listeners.append(send)
        self.paces.append(stats_interval_ms)
        try:
            with send, receive:
                yield receive
        finally:
            self.listeners.remove(send)

    def tell(self, event: VmEvent) -> None:
        for listener in self.listeners:
            listener.send_nowait(event)

    def sample(
        self,
        cpu: float = 12.0,
        private_mib: int = 96,
        shared_mib: int = 40,
        at_ms: float | None = None,
    ) -> None:
        """One second's figures."""
        self.tell(
            StatsEvent(
                time_ms=int(time.time() * 1000 if at_ms is None else at_ms),
                cpu_percent=cpu,
                rss_bytes=(private_mib + shared_mib) * MIB,
                pss_bytes=private_mib * MIB,
                private_bytes=private_mib * MIB,
                shared_bytes=shared_mib * MIB,
                balloon_bytes=0,
                ceiling_mib=512,
                lazy_pages_pending=2048,
                last_output_ms=0,
            )
        )

    async def sessions(self) -> list[SessionInfo]:
        cols, rows = self.terminal.size
        return [SessionInfo(name="main", pid=1, cols=cols, rows=rows, clients=0, started_at=0.0)]

    @asynccontextmanager
    async def open_session(
        self, name: str = "main", *, cols: int, rows: int
    ) -> AsyncGenerator[FakeClient]:
        send, receive = anyio.create_memory_object_stream[SessionEvent](1000)
        terminal = self.terminal
        send.send_nowait(Resized(*terminal.size))
        if terminal.ring:
            send.send_nowait(Output(bytes(terminal.ring), replay=True))
        send.send_nowait(ReplayDone())
        if (cols, rows) != terminal.size:
            terminal.resize(cols, rows)
        terminal.clients.append(send)
        try:
            with send, receive:
                yield FakeClient(terminal, receive)
        finally:
            terminal.clients.remove(send)

    async def _set_state(self, state: State) -> None:
        self.state = state
        self.tell(StateEvent(state=state))

    async def pause(self) -> None:
        await self._set_state("paused")

    async def resume(self) -> None:
        await self._set_state("running")

    async def stop(self, *, grace_ms: int = 2000) -> None:
        self.world.end(self)


class FakeWorld(FakeDoors):
    """The registry and the runtime: implements `Gateway`."""

    def __init__(self, snapshot_root: Path = Path("/nonexistent")) -> None:
        super().__init__()
        self.sandboxes: dict[int, FakeSandbox] = {}
        self.snapshot_list: list[SnapshotInfo] = []
        self.answer: Callable[[RegistryEntry, str], RunOutcome] | None = None
        self.difference: Callable[[RegistryEntry, RegistryEntry], VmDifference] | None = None
        self.fail_next: MachinenError | None = None
        self.slow: anyio.Event | None = None
        """If set, operations wait for it."""
        self._saved: dict[Path, FakeSandbox] = {}
        self._snapshot_root = snapshot_root
        self._changed = True
        self._next_pid = 1000

    def add(
        self,
        name: str,
        cmd: Sequence[str] = SHELL,
        source: FakeSandbox | None = None,
        ports: Sequence[PortForward] = (),
        forked_from: Path | None = None,
    ) -> FakeSandbox:
        """A sandbox that runs from now on."""
        self._next_pid += 1
        entry = RegistryEntry(
            pid=self._next_pid,
            socket_path="",
            started_at=time.time() * 1000 + self._next_pid,
            name=name,
            memory_ceiling_mib=512,
            disk_path="/base",
            port_forward=tuple(ports),
            forked_from_name=source.name if source else None,
            forked_from_pid=source.pid if source else None,
            forked_from=str(forked_from) if forked_from else None,
        )
        past = bytes(source.terminal.ring) if source else b""
        size = source.terminal.size if source else (80, 24)
        sandbox = FakeSandbox(self, entry, FakeTerminal(cmd, size, past))
        self.sandboxes[entry.pid] = sandbox
        self._changed = True
        return sandbox

    def end(self, sandbox: FakeSandbox) -> None:
        """The VM is gone."""
        sandbox.terminal.close()
        self.sandboxes.pop(sandbox.pid, None)
        for listener in list(sandbox.listeners):
            listener.close()
        self._changed = True

    def close(self) -> None:
        for sandbox in list(self.sandboxes.values()):
            self.end(sandbox)

    # -- Gateway ----------------------------------------------------------------------------------

    def changed(self) -> bool:
        return self._changed

    def entries(self) -> list[RegistryEntry]:
        self._changed = False
        return [sandbox.entry for sandbox in self.sandboxes.values()]

    def snapshots(self) -> list[SnapshotInfo]:
        return list(self.snapshot_list)

    async def attach(self, pid: int) -> Sandbox:
        if pid not in self.sandboxes:
            raise BootError(ErrorCode.REGISTRY_VM_NOT_FOUND, f"no running VM has pid {pid}")
        return self.sandboxes[pid]

    async def boot(self, wanted: NewSandbox, report: Report) -> Sandbox:
        await self._work(report, "kernel")
        self.asked.append(wanted)
        return self.add(
            wanted.name or f"sandbox-{self._next_pid}", wanted.cmd or SHELL, ports=wanted.ports
        )

    async def fork(self, source: Sandbox, wanted: WantedFork, report: Report) -> list[Sandbox]:
        assert isinstance(source, FakeSandbox)
        await self._work(report, "snapshot")
        self.asked.append(wanted)
        count, stem = wanted.count, wanted.name or f"{source.name}-fork"
        names = [stem if count == 1 else f"{stem}-{number + 1}" for number in range(count)]
        return [self.add(each, source=source, ports=wanted.ports) for each in names]

    async def snapshot(self, source: Sandbox, wanted: WantedSnapshot, report: Report) -> Path:
        assert isinstance(source, FakeSandbox)
        await self._work(report, "saving")
        self.asked.append(wanted)
        path = self._snapshot_root / f"{source.name}-{len(self.snapshot_list)}"
        info = SnapshotInfo(
            path=path,
            name=source.name or "",
            taken_at_ms=time.time() * 1000 + 100_000,
            source_pid=source.pid,
            source_started_at=source.entry.started_at,
        )
        self.snapshot_list.append(info)
        self._saved[path] = replace(source)
        self._changed = True
        if not wanted.runs_on:
            self.end(source)
        return path

    async def restore(self, wanted: WantedRestore, report: Report) -> Sandbox:
        await self._work(report, "loading")
        self.asked.append(wanted)
        source = self._saved[wanted.bundle]
        name = wanted.name or f"{source.name}-restored"
        return self.add(name, source=source, ports=wanted.ports, forked_from=wanted.bundle)

    async def run_in_each(
        self, entries: Sequence[RegistryEntry], command: str, on_done: Callable[[RunOutcome], None]
    ) -> None:
        assert self.answer is not None
        for entry in entries:
            on_done(self.answer(entry, command))

    def plan_promotion(self, entry: RegistryEntry) -> PromotePlan:
        return plan_promotion(entry, living=self.entries())

    async def promote(self, plan: PromotePlan, report: Report) -> list[Path]:
        kept: list[Path] = []
        for other in plan.others:
            wanted = WantedSnapshot(runs_on=False)
            kept.append(await self.snapshot(self.sandboxes[other.pid], wanted, report))
        await self.rename(self.sandboxes[plan.entry.pid], plan.name)
        return kept

    async def compare(self, a: RegistryEntry, b: RegistryEntry) -> VmDifference:
        await self._work(lambda phase: None, "")
        assert self.difference is not None
        return self.difference(a, b)

    async def compare_file(self, a: RegistryEntry, b: RegistryEntry, name: bytes) -> TextDifference:
        await self._work(lambda phase: None, "")
        lines = ["--- a", "+++ b", f"-old {name.decode()}", "+new"]
        return TextDifference(a=a, b=b, path=name.decode(), same=False, lines=lines)

    async def rewind(
        self, source: Sandbox, bundle: Path | None, report: Report, before_end: BeforeEnd
    ) -> Sandbox:
        assert isinstance(source, FakeSandbox)
        name = source.name or ""
        await self._work(report, "keeping")
        undo = next((i for i in reversed(self.snapshot_list) if i.notes.automatic), None)
        saved = self._saved[bundle or (undo.path if undo is not None else Path())]
        kept = await self.snapshot(source, WantedSnapshot(), report)
        self.change_notes(kept, automatic=True)
        self.set_entry(source, name=f"{name}~{source.pid}")
        new = self.add(name, source=saved, forked_from=bundle)
        await before_end(new)
        self.end(source)
        return new

    def new_directory(self, stem: str) -> Path:
        return self._snapshot_root / f"{stem}-next"

    def bundles(self, more: list[Path]) -> list[SnapshotInfo]:
        return [*self.snapshot_list, *(i for p in more for i in find_bundles([p]))]

    def change_notes(self, bundle: Path, **changes: Any) -> BundleNotes:
        info = next(info for info in self.snapshot_list if info.path == bundle)
        notes = replace(info.notes, **changes)
        at = self.snapshot_list.index(info)
        self.snapshot_list[at] = replace(info, notes=notes)
        self._changed = True
        return notes

    def delete_bundle(self, bundle: Path, *, force: bool = False) -> None:
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error
        self.snapshot_list = [info for info in self.snapshot_list if info.path != bundle]
        self._changed = True

    def set_entry(self, sandbox: FakeSandbox, **changes: Any) -> None:
        """The registry says something else from now on."""
        sandbox.entry = replace(sandbox.entry, **changes)
        self._changed = True

    async def rename(self, source: Sandbox, name: str) -> None:
        assert isinstance(source, FakeSandbox)
        await self._work(lambda phase: None, "")
        self.set_entry(source, name=name)

    async def add_port(self, source: Sandbox, wanted: PortForward | int) -> PortForward:
        assert isinstance(source, FakeSandbox)
        await self._work(lambda phase: None, "")
        if isinstance(wanted, int):
            wanted = PortForward(host_port=40000 + wanted, guest_port=wanted)
        self.set_entry(source, port_forward=(*source.entry.port_forward, wanted))
        return wanted

    async def remove_port(self, source: Sandbox, forward: PortForward) -> None:
        assert isinstance(source, FakeSandbox)
        await self._work(lambda phase: None, "")
        left = tuple(each for each in source.entry.port_forward if each != forward)
        self.set_entry(source, port_forward=left)

    async def _work(self, report: Report, phase: str) -> None:
        report(phase)
        if self.slow is not None:
            await self.slow.wait()
        if self.fail_next is not None:
            error, self.fail_next = self.fail_next, None
            raise error
