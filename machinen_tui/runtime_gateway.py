"""The one door to machinen_runtime: the few calls the application makes, and nothing else.

The types say what the application relies on, so that tests can put sandboxes behind it whose
sessions are
local pseudo-terminals. The runtime itself is imported by the first call: the first paint does not
wait for it.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from machinen_runtime.paths import ensure_private_dir, home_root, registry_root_path

if TYPE_CHECKING:
    from machinen_runtime.channel_sessions import SessionEvent, SessionInfo
    from machinen_runtime.handle import VmHandle
    from machinen_runtime.registry_entry import RegistryEntry
    from vmm.requests import VmEvent, VmStatus

SETTLE_POLLS = 3
"""The registry is read this many times after it changed: an entry's directory comes before the
entry."""

MAX_META_BYTES = 1 << 20
PAUSED = "paused {:.0f} ms"
"""The last report of what stops a guest for a moment."""

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


class RuntimeGateway:
    """The real one. Snapshots lie in `~/.machinen/snapshots` unless another place is named."""

    def __init__(self, snapshot_root: Path | None = None) -> None:
        self._seen: tuple[int, ...] = ()
        self._reads_left = SETTLE_POLLS
        self._snapshot_root = snapshot_root or home_root() / "snapshots"

    # -- looking ----------------------------------------------------------------------------------

    def changed(self) -> bool:
        """Whether the registry or our snapshots may look different from the last reading."""
        root = registry_root_path()
        now = tuple(_mtime(path) for path in (root, root / "names", self._snapshot_root))
        if now != self._seen:
            self._seen, self._reads_left = now, SETTLE_POLLS
        self._reads_left -= 1
        return self._reads_left >= 0

    def entries(self) -> list[RegistryEntry]:
        """The live VMs, oldest first."""
        from machinen_runtime.registry import live_entries

        return live_entries()

    def snapshots(self) -> list[SnapshotInfo]:
        """The bundles in our own directory, oldest first. What is torn or foreign is passed
        over."""
        found = [_snapshot_info(path) for path in _directories(self._snapshot_root)]
        return sorted((i for i in found if i is not None), key=lambda info: info.taken_at_ms)

    async def attach(self, pid: int) -> Sandbox:
        """A handle to a live VM."""
        await _preload()
        from machinen_runtime.attach import attach

        return await attach(pid=pid)

    # -- doing ------------------------------------------------------------------------------------

    async def boot(self, wanted: NewSandbox, report: Report) -> Sandbox:
        """Boot what was asked for, detached, under a name of its own."""
        await _preload()
        from machinen_runtime.boot import boot
        from machinen_runtime.options import PortForward

        report("kernel and agent")
        options: dict[str, Any] = {
            "name": wanted.name or self._free_name("sandbox"),
            "port_forward": [PortForward(host_port=h, guest_port=g) for h, g in wanted.ports],
            "env": dict(wanted.env),
        }
        if wanted.image:
            options["image"] = _image_path(wanted.image)
        if wanted.cmd:
            options["cmd"] = list(wanted.cmd)
        if wanted.memory_mib:
            options["memory"] = wanted.memory_mib
        return await boot(detached=True, **options)

    async def fork(self, source: Sandbox, count: int, name: str, report: Report) -> list[Sandbox]:
        """`count` siblings; one is called `name`, several `name-1`, `name-2`, …"""
        stem = name or source.name or "fork"
        report("snapshot and start")
        one = count == 1
        chosen = (name or self._free_name(stem)) if one else self._free_prefix(stem, count)
        handle = cast("VmHandle", source)
        siblings = await handle.fork_many(count, name=chosen, detached=True)
        if siblings[0].forked_by is not None:
            report(PAUSED.format(siblings[0].forked_by.paused_ms))
        return list(siblings)

    async def snapshot(self, source: Sandbox, report: Report) -> Path:
        """Save `source` into our directory; it runs on."""
        safe = (source.name or str(source.pid)).replace("/", "_")
        directory = self._snapshot_root / f"{safe}-{time.strftime('%Y%m%d-%H%M%S')}"
        ensure_private_dir(self._snapshot_root)
        report("writing memory and disk")
        result = await cast("VmHandle", source).snapshot(out_dir=directory, leave_running=True)
        report(PAUSED.format(result.paused_ms))
        return Path(result.snap_dir)

    async def restore(self, snapshot: Path, name: str, report: Report) -> Sandbox:
        """Start from a bundle, under the source's name if that is free."""
        await _preload()
        from machinen_runtime.restore import restore

        report("mapping memory")
        info = _snapshot_info(snapshot)
        chosen = name or self._free_name(info.name if info else "restored")
        return await restore(snap_dir=snapshot, name=chosen, detached=True)

    def _free_name(self, stem: str) -> str:
        """`stem`, or `stem-2`, `stem-3`, … whichever nobody has."""
        taken = {entry.name for entry in self.entries()}
        return next(n for n in _numbered(stem) if n not in taken)

    def _free_prefix(self, stem: str, count: int) -> str:
        taken = {entry.name for entry in self.entries()}
        return next(
            prefix
            for prefix in _numbered(stem)
            if not taken & {f"{prefix}-{number}" for number in range(1, count + 1)}
        )


def _image_path(text: str) -> Path:
    return Path(text).expanduser()


def _numbered(stem: str) -> Iterator[str]:
    yield stem
    for number in itertools.count(2):
        yield f"{stem}-{number}"


async def _preload() -> None:
    """Import the runtime beside the event loop, so that the screen does not stand still."""
    import anyio.to_thread

    await anyio.to_thread.run_sync(importlib.import_module, "machinen_runtime.handle")


def _mtime(path: Path) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


def _directories(root: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(root) if entry.is_dir()]
    except OSError:
        return []


def _snapshot_info(path: Path) -> SnapshotInfo | None:
    """What a bundle says of itself, without checking its files."""
    try:
        raw: object = json.loads((path / "meta.json").read_bytes()[:MAX_META_BYTES])
        if not isinstance(raw, dict):
            return None
        meta = cast("dict[str, Any]", raw)
        return SnapshotInfo(
            path=path,
            name=str(meta.get("sourceName") or path.name),
            taken_at_ms=float(meta["snappedAt"]),
            source_pid=meta.get("sourcePid"),
            source_started_at=meta.get("sourceStartedAt"),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
