"""What the application relies on of the runtime: every call it makes, as types.

`runtime_gateway.py` is the real thing; tests put sandboxes behind it whose sessions are local
pseudo-terminals.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from machinen_runtime.bundle_notes import BundleNotes

if TYPE_CHECKING:
    from machinen_runtime.ancestry import Ancestor
    from machinen_runtime.channel_sessions import SessionEvent, SessionInfo
    from machinen_runtime.compare import VmDifference
    from machinen_runtime.file_difference import TextDifference
    from machinen_runtime.option_types import PortForward
    from machinen_runtime.promote import PromotePlan
    from machinen_runtime.registry_entry import RegistryEntry
    from machinen_runtime.run_many import RunOutcome
    from machinen_tui.wanted import (
        NewSandbox,
        WantedCopy,
        WantedFork,
        WantedImage,
        WantedRestore,
        WantedSnapshot,
    )
    from vmm.requests import VmEvent, VmStatus

Report = Callable[[str], None]
"""Takes a short text about how far an operation is."""
OnOutput = Callable[[bytes], None]
BeforeEnd = Callable[["Sandbox"], Awaitable[None]]
OnStage = Callable[[str, int], None]
"""Takes the name of a stage (`boot`, `install`, `archive`) and the bytes written so far."""


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

    def events(
        self, stats_interval_ms: int = 1000
    ) -> AbstractAsyncContextManager[AsyncIterator[VmEvent]]: ...
    async def status(self) -> VmStatus: ...
    async def sessions(self) -> list[SessionInfo]: ...
    def open_session(
        self, name: str = "main", *, cols: int, rows: int
    ) -> AbstractAsyncContextManager[Session]: ...
    async def pause(self) -> None: ...
    async def resume(self) -> None: ...
    async def stop(self, *, grace_ms: int = 2000) -> Any: ...


class Console(Protocol):
    """The console log of a sandbox."""

    title: str
    """Which log it is, in words."""

    def read(self) -> bytes:
        """What was written since the last call; empty if nothing was."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotInfo:
    """One bundle, as its meta.json describes it."""

    path: Path
    name: str
    """The source's."""
    taken_at_ms: float
    source_pid: int | None = None
    source_started_at: float | None = None
    engine: str = "vmstate"
    machine: str = ""
    """Its machine in few words: memory, processors, accelerator."""
    qemu_version: str = ""
    image: str = ""
    mount: str = ""
    """Guest path of the directory copied in."""
    live_mounts: str = ""
    """As `form_fields.live_mounts` reads them."""
    ancestry: tuple[Ancestor, ...] = ()
    """Of the source, oldest first."""
    notes: BundleNotes = field(default_factory=BundleNotes)
    """Label, note and pin."""


class Gateway(Protocol):
    """Every call the application makes into the runtime. All raise MachinenError."""

    def changed(self) -> bool: ...
    def entries(self) -> list[RegistryEntry]: ...
    def snapshots(self) -> list[SnapshotInfo]: ...
    async def attach(self, pid: int) -> Sandbox: ...
    async def boot(self, wanted: NewSandbox, report: Report) -> Sandbox: ...
    async def listen(self, sandbox: Sandbox) -> None:
        """Take what a sandbox that ends with us writes to us, until it ends."""
        ...

    async def fork(self, source: Sandbox, wanted: WantedFork, report: Report) -> list[Sandbox]: ...
    async def snapshot(self, source: Sandbox, wanted: WantedSnapshot, report: Report) -> Path: ...
    async def restore(self, wanted: WantedRestore, report: Report) -> Sandbox: ...

    async def provision(self, wanted: WantedImage, output: OnOutput, stage: OnStage) -> Path:
        """Build an image; `output` takes what the guest says. Cancelled, it leaves nothing."""
        ...

    async def rewind(
        self, source: Sandbox, bundle: Path | None, report: Report, before_end: BeforeEnd
    ) -> Sandbox:
        """Put a bundle (None: the last automatic one of that name) in the place of `source`.

        `before_end` is awaited with the new one while the old one still stands.
        """
        ...

    async def compare(self, a: RegistryEntry, b: RegistryEntry) -> VmDifference:
        """How two running sandboxes differ since they were one."""
        ...

    async def compare_file(self, a: RegistryEntry, b: RegistryEntry, name: bytes) -> TextDifference:
        """How one file of theirs differs, line by line."""
        ...

    async def run_in_each(
        self,
        entries: Sequence[RegistryEntry],
        command: str,
        on_done: Callable[[RunOutcome], None],
    ) -> None:
        """Run a shell command in many at once; `on_done` gets each outcome."""
        ...

    def plan_promotion(self, entry: RegistryEntry) -> PromotePlan: ...
    async def promote(self, plan: PromotePlan, report: Report) -> list[Path]:
        """Carry out a plan; the snapshots it made."""
        ...

    def new_directory(self, stem: str) -> Path:
        """Where the next snapshot of `stem` would go."""
        ...

    def console(self, entry: RegistryEntry) -> Console:
        """Its console while it runs, its boot log afterwards. REGISTRY_VM_NOT_FOUND: neither."""
        ...

    async def add_port(self, source: Sandbox, wanted: PortForward | int) -> PortForward:
        """Lead a host port into the guest; a number is a guest port, for any free one here."""
        ...

    async def remove_port(self, source: Sandbox, forward: PortForward) -> None: ...
    async def rename(self, source: Sandbox, name: str) -> None: ...
    async def send_secrets(self, source: Sandbox, secrets: Mapping[str, str]) -> int: ...
    async def probe(self, source: Sandbox) -> bytes:
        """The guest's counters of disks and network, see `probe`."""
        ...

    async def copy(self, source: Sandbox, wanted: WantedCopy, report: Report) -> str:
        """Copy files either way; where they are then."""
        ...

    def bundles(self, more: list[Path]) -> list[SnapshotInfo]:
        """Those in our directory and those in `more`: bundles, or directories of bundles."""
        ...

    def bundle_size(self, bundle: Path) -> int:
        """Bytes on disk; holes cost nothing."""
        ...

    def check_bundle(self, bundle: Path, *, read_all: bool = False) -> None:
        """MachinenError if it cannot be restored here. Reads files: call it beside the loop.

        `read_all`: those it has read before, too.
        """
        ...

    def delete_bundle(self, bundle: Path, *, force: bool = False) -> None:
        """Remove it with all in it. Only ever a bundle; a pinned one only with `force`."""
        ...

    def change_notes(self, bundle: Path, **changes: Any) -> BundleNotes:
        """Another label or note, pinned or not: fields of `BundleNotes`."""
        ...

    def new_recording(self, stem: str) -> Path:
        """Where the next recording of `stem` goes; the directory is there."""
        ...

    def newest_recording(self) -> Path | None: ...
    def recall(self) -> Mapping[str, Any]:
        """What `remember` kept; empty if nothing or damaged."""
        ...

    def recall_session(self) -> Mapping[str, Any]:
        """What `remember_session` kept; empty if nothing or damaged."""
        ...

    def remember_session(self, values: Mapping[str, Any]) -> None: ...
    def remember(self, values: Mapping[str, Any]) -> None:
        """Keep `values` for the next time; a disk that takes nothing is no error."""
        ...
