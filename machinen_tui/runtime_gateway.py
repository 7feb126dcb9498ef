"""The one door to machinen_runtime: the few calls the application makes, and nothing else.

The types say what the application relies on, so that tests can put sandboxes behind it whose
sessions are
local pseudo-terminals. The runtime itself is imported by the first call: the first paint does not
wait for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from machinen_runtime.channel_sessions import SessionEvent, SessionInfo
    from machinen_runtime.registry_entry import RegistryEntry
    from vmm.requests import VmEvent, VmStatus

SETTLE_POLLS = 3
"""The registry is read this many times after it changed: an entry's directory comes before the
entry."""

Report = Callable[[str], None]
"""Takes a short text about how far an operation is."""


class Session(Protocol):
    """A client's end of a named terminal in a guest."""

    async def receive(self) -> SessionEvent: ...
    async def send(self, data: bytes) -> None: ...
    async def resize(self, cols: int, rows: int) -> None: ...


class Sandbox(Protocol):
    """What the application asks of a `VmHandle`."""

    @property
    def pid(self) -> int: ...
    @property
    def name(self) -> str | None: ...
    @property
    def entry(self) -> RegistryEntry: ...

    def events(self) -> AbstractAsyncContextManager[AsyncIterator[VmEvent]]: ...
    async def status(self) -> VmStatus: ...
    async def sessions(self) -> list[SessionInfo]: ...
    def open_session(
        self, name: str = "main", *, cols: int, rows: int
    ) -> AbstractAsyncContextManager[Session]: ...
    async def pause(self) -> None: ...
    async def resume(self) -> None: ...
    async def stop(self, *, grace_ms: int = 2000) -> Any: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInfo:
    """One snapshot in our own directory."""

    path: Path
    name: str
    """The source's."""
    taken_at_ms: float
    source_pid: int | None = None
    source_started_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewSandbox:
    """What the dialog for a new sandbox asks for; empty means the runtime's default."""

    name: str = ""
    image: str = ""
    cmd: Sequence[str] = ()
    memory_mib: int | None = None
    ports: Sequence[tuple[int, int]] = ()
    """Pairs of host port, guest port."""
    env: Mapping[str, str] = field(default_factory=dict[str, str])


class Gateway(Protocol):
    """Every call the application makes into the runtime."""

    def changed(self) -> bool: ...
    def entries(self) -> list[RegistryEntry]: ...
    def snapshots(self) -> list[SnapshotInfo]: ...
    async def attach(self, pid: int) -> Sandbox: ...
    async def boot(self, wanted: NewSandbox, report: Report) -> Sandbox: ...
    async def fork(
        self, source: Sandbox, count: int, name: str, report: Report
    ) -> list[Sandbox]: ...
    async def snapshot(self, source: Sandbox, report: Report) -> Path: ...
    async def restore(self, snapshot: Path, name: str, report: Report) -> Sandbox: ...
