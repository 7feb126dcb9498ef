"""rewind(): a snapshot takes the place of a running VM, under its name and with its ports.

What it is now is kept first, to go back to. The old VM stands still, not dead, until the new one
answers and has everything: if anything fails before, it goes on as if nothing had happened.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import anyio
from anyio import to_thread

from machinen_runtime.attach import attach
from machinen_runtime.bundle_check import open_bundle
from machinen_runtime.bundle_notes import MAX_LABEL_CHARS, change_notes
from machinen_runtime.errors import BootError, ErrorCode, MachinenError
from machinen_runtime.handle import VmHandle
from machinen_runtime.launch import ended_on_failure
from machinen_runtime.launch_bundle import BundleLaunch, launch_bundle
from machinen_runtime.log_events import OnLog
from machinen_runtime.memory_queue import OnWait, memory_turn
from machinen_runtime.monitor_client import MonitorClient
from machinen_runtime.option_types import PortForward, StrPath
from machinen_runtime.options import RestoreOptions, SnapshotOptions
from machinen_runtime.paths import ensure_private_dir, snapshots_root
from machinen_runtime.port_forwards import add_forward, list_forwards, remove_forward
from machinen_runtime.registry import claim_name, find, live_entries, rename_entry, step_aside
from machinen_runtime.registry_entry import RegistryEntry
from machinen_runtime.shelf import (
    find_snapshot,
    kept_snapshot,
    kept_snapshots,
    new_snapshot_path,
    prune_automatic,
)
from machinen_runtime.snapshot import take_snapshot
from vmm.limits import NO_LIMITS, Limits

KEPT_UNDOS = 5
"""So many automatic snapshots of one name are kept; pinned ones do not count."""

BeforeEnd = Callable[[VmHandle], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RewindResult:
    """What runs now, and what leads back."""

    vm: VmHandle
    """The VM in the old one's place; it is detached."""
    snap_dir: str
    """The snapshot it goes on from."""
    undo_dir: str | None
    """The automatic snapshot of what ran before; None if none was wanted."""
    elapsed_ms: float


async def rewind(
    snap_dir: StrPath | None = None,
    *,
    name: str | None = None,
    pid: int | None = None,
    undo: bool = True,
    before_end: BeforeEnd | None = None,
    on_log: OnLog | None = None,
    limits: Limits | None = None,
    wait_for_memory_ms: float | None = 0,
    on_wait: OnWait | None = None,
) -> RewindResult:
    """Put the snapshot `snap_dir` in the place of the live VM `name` or `pid`.

    Without `snap_dir` it is the last automatic snapshot of that name: back to before the last
    rewind. `wait_for_memory_ms` and `on_wait` are those of `RestoreOptions`.
    `limits` change what the live VM is held to, not what the snapshot was.
    `undo=False` takes no snapshot first. `before_end` is awaited when the new VM answers
    and the old one still stands; if it raises, the old one goes on.

    Raises:
        RegistryError: REGISTRY_VM_NOT_FOUND.
        BootError: BOOT_SNAPSHOT_NOT_FOUND, FORK_MEMORY_BACKPRESSURE and those of restore();
            VM_CONTROL_FAILED.
        SnapshotError: SNAPSHOT_NO_DISK, SNAPSHOT_DUMP_FAILED, SNAPSHOT_TIMEOUT.
    """
    started = time.monotonic()
    entry = find(name=name, pid=pid)
    bundle = find_snapshot(snap_dir) if snap_dir is not None else _last_undo(entry)
    options = RestoreOptions(
        snap_dir=bundle,
        name=entry.name,
        detached=True,
        on_log=on_log,
        limits=_limits_of(entry, limits),
        wait_for_memory_ms=wait_for_memory_ms,
        on_wait=on_wait,
    )
    wanted = BundleLaunch.from_options(bundle, options)
    await to_thread.run_sync(open_bundle, bundle)
    async with memory_turn(options):
        kept = await _keep(entry, bundle, on_log) if undo else None
        vm = await _take_its_place(entry, wanted, options, before_end)
    with anyio.CancelScope(shield=True):
        with suppress(MachinenError):  # it is gone already
            await (await attach(pid=entry.pid)).kill()
        if entry.name is not None:
            used = [each.forked_from or "" for each in live_entries()] + [str(kept)]
            prune = partial(prune_automatic, entry.name, KEPT_UNDOS, used)
            await to_thread.run_sync(prune)
    elapsed_ms = (time.monotonic() - started) * 1000
    return RewindResult(vm=vm, snap_dir=str(bundle), undo_dir=str(kept) if kept else None,
                        elapsed_ms=elapsed_ms)  # fmt: skip


async def _take_its_place(
    entry: RegistryEntry,
    wanted: BundleLaunch,
    options: RestoreOptions,
    before_end: BeforeEnd | None,
) -> VmHandle:
    """Launch `wanted` while the VM `entry` stands still; both stand when it returns."""
    async with _standing_still(entry) as aside:
        launched = await launch_bundle(wanted)
        async with ended_on_failure(launched), _forwards_moved(aside, launched.entry):
            vm = VmHandle(launched, timeout_ms=options.timeout_ms, on_log=options.on_log)
            if before_end is not None:
                await before_end(vm)
    return vm


def _limits_of(entry: RegistryEntry, changes: Limits | None) -> Limits:
    """The limits of the VM that is replaced, changed; what it has none of stays unlimited."""
    kept = (changes or Limits()).over(entry.limits).to_object()
    return replace(NO_LIMITS, **kept)  # pyright: ignore[reportArgumentType]


def _last_undo(entry: RegistryEntry) -> Path:
    """The newest automatic snapshot of VMs of that name."""
    undos = [each for each in kept_snapshots() if each.notes.automatic and each.name == entry.name]
    if not undos:
        message = f"{entry.name or entry.pid} was not rewound before: name a snapshot"
        raise BootError(ErrorCode.BOOT_SNAPSHOT_NOT_FOUND, message)
    return undos[-1].path


async def _keep(entry: RegistryEntry, bundle: Path, on_log: OnLog | None) -> Path:
    """A snapshot of what runs now, to go back to."""
    ensure_private_dir(snapshots_root())
    out_dir = new_snapshot_path(f"{entry.name or entry.pid}-before-rewind")
    options = SnapshotOptions(out_dir=out_dir, leave_running=True, on_log=on_log)
    await take_snapshot(entry, options)
    with anyio.CancelScope(shield=True):  # one that nobody marks as automatic is kept for ever
        label = _undo_label(bundle)
        await to_thread.run_sync(partial(change_notes, out_dir, automatic=True, label=label))
    return out_dir


def _undo_label(bundle: Path) -> str:
    """What stands in the list for a snapshot to go back to: where one went instead."""
    kept = kept_snapshot(bundle)
    if kept is None:
        return "before a rewind"
    at = time.strftime("%d %b %H:%M:%S", time.localtime(kept.taken_at_ms / 1000))
    own = kept.notes.label if kept.notes.is_kept else ""
    return f"before rewind to {own or at}"[:MAX_LABEL_CHARS]


@asynccontextmanager
async def _standing_still(entry: RegistryEntry) -> AsyncGenerator[RegistryEntry]:
    """The VM is paused and has lent its name to this process; after a failure it has it again."""
    monitor = MonitorClient(Path(entry.socket_path).parent)
    aside = entry
    was_paused = (await monitor.status()).state == "paused"
    try:
        await monitor.pause()
        if entry.name is not None:
            aside = step_aside(entry.pid, os.getpid())
        yield aside
    except BaseException:
        with anyio.CancelScope(shield=True):
            if not was_paused:
                with suppress(BootError):  # it died meanwhile: the first error says more
                    await monitor.resume()
            if aside is not entry and entry.name is not None:
                claim_name(entry.name, os.getpid())
                rename_entry(entry.pid, entry.name, os.getpid())
        raise


@asynccontextmanager
async def _forwards_moved(old: RegistryEntry, new: RegistryEntry) -> AsyncGenerator[None]:
    """The host ports of `old` lead into `new`; after a failure into `old` again."""
    moved: list[PortForward] = []
    try:
        for forward in await list_forwards(old):
            moved.append(forward)  # first: a step that is given up may have happened
            await remove_forward(old, forward.host_port, forward.host_addr)
            await add_forward(new, forward)
        yield
    except BaseException:
        with anyio.CancelScope(shield=True):
            for forward in moved:
                with suppress(BootError):  # `new` has died, or never had it
                    await remove_forward(new, forward.host_port, forward.host_addr)
                with suppress(BootError):  # `old` has died, or still has it
                    await add_forward(old, forward)
        raise
