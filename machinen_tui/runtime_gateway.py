"""The one door to machinen_runtime: the calls of `gateway.Gateway`, and nothing else.

The runtime is imported by the first call that needs it: the first paint does not wait for it.
"""

from __future__ import annotations

import importlib
import itertools
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from machinen_runtime.paths import ensure_private_dir, home_root, registry_root_path, snapshots_root
from machinen_runtime.shelf import change_times
from machinen_tui import bundle_shelf, probe, remembered
from machinen_tui.figures import mib
from machinen_tui.gateway import (
    BeforeEnd,
    Console,
    OnOutput,
    OnStage,
    Report,
    Sandbox,
    SnapshotInfo,
)

if TYPE_CHECKING:
    from anyio.abc import ByteReceiveStream

    from machinen_runtime.bundle_notes import BundleNotes
    from machinen_runtime.compare import VmDifference
    from machinen_runtime.file_difference import TextDifference
    from machinen_runtime.handle import VmHandle
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

SETTLE_POLLS = 3
"""The registry is read this many times after it changed: an entry's directory comes before the
entry."""

PROBE_MS = 10_000
"""A guest that takes longer to say two short files is not asked further."""

PAUSED = "paused {:.0f} ms"
"""The last report of what stops a guest for a moment."""


class RuntimeGateway:
    """The real one. Snapshots lie in `~/.machinen/snapshots` unless another place is named."""

    def __init__(self, snapshot_root: Path | None = None) -> None:
        self._seen: tuple[int, ...] = ()
        self._reads_left = SETTLE_POLLS
        self._snapshot_root = snapshot_root or snapshots_root()
        self._coming: set[str] = set()
        """Names of sandboxes that are being made."""

    # -- looking ----------------------------------------------------------------------------------

    def changed(self) -> bool:
        """Whether the registry or our snapshots may look different from the last reading."""
        root = registry_root_path()
        now = tuple(_mtime(path) for path in (root, root / "names", self._snapshot_root))
        now += tuple(change_times(root)) + tuple(change_times(self._snapshot_root))
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
        return bundle_shelf.bundles_in(self._snapshot_root)

    async def attach(self, pid: int) -> Sandbox:
        """A handle to a live VM."""
        await _preload()
        from machinen_runtime.attach import attach

        return await attach(pid=pid)

    def console(self, entry: RegistryEntry) -> Console:
        """Its console while it runs, its boot log afterwards."""
        from machinen_tui.console_tail import open_console

        return open_console(entry)

    # -- whole machines ---------------------------------------------------------------------------

    async def boot(self, wanted: NewSandbox, report: Report) -> Sandbox:
        """Boot what was asked for, under a name of its own."""
        await _preload()
        from machinen_runtime.boot import boot

        report("kernel and agent")
        with self._name_for(wanted.name, "sandbox") as name:
            return await boot(name=name, on_wait=report, **wanted.options())

    async def listen(self, sandbox: Sandbox) -> None:
        """Take what a sandbox that is not detached writes to us, or it would stand still."""
        import anyio

        handle = cast("VmHandle", sandbox)

        async def drain(stream: ByteReceiveStream) -> None:
            async for _ in stream:
                continue  # its terminal comes over the channel

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(drain, handle.stdout)
            tasks.start_soon(drain, handle.stderr)

    async def fork(self, source: Sandbox, wanted: WantedFork, report: Report) -> list[Sandbox]:
        """Siblings; one is called `name`, several `name-1`, `name-2`, …"""
        stem = wanted.name or source.name or "fork"
        report("snapshot and start")
        if wanted.keep:
            ensure_private_dir(Path(wanted.keep).parent)
        handle = cast("VmHandle", source)
        with self._name_for(wanted.name, stem, wanted.count) as name:
            siblings = await handle.fork_many(
                wanted.count, name=name, on_wait=report, **wanted.options()
            )
        if siblings[0].forked_by is not None:
            report(PAUSED.format(siblings[0].forked_by.paused_ms))
        return list(siblings)

    async def snapshot(self, source: Sandbox, wanted: WantedSnapshot, report: Report) -> Path:
        """Save `source`, into our own directory if no other is named."""
        directory = Path(wanted.directory)
        if not wanted.directory:
            directory = self.new_directory(source.name or str(source.pid))
            ensure_private_dir(self._snapshot_root)
        report("writing memory and disk")
        result = await cast("VmHandle", source).snapshot(out_dir=directory, **wanted.options())
        report(PAUSED.format(result.paused_ms))
        return Path(result.snap_dir)

    async def restore(self, wanted: WantedRestore, report: Report) -> Sandbox:
        """Start from a bundle, under the source's name if that is free."""
        await _preload()
        from machinen_runtime.restore import restore

        report("mapping memory")
        info = bundle_shelf.bundle_info(wanted.bundle)
        with self._name_for(wanted.name, info.name if info else "restored") as name:
            return await restore(name=name, on_wait=report, **wanted.options())

    async def rewind(
        self, source: Sandbox, bundle: Path | None, report: Report, before_end: BeforeEnd
    ) -> Sandbox:
        """Put a bundle in the place of `source`; what it is now is kept first."""
        await _preload()
        from machinen_runtime.rewind import rewind

        report("keeping what runs now")

        async def takes_over(vm: VmHandle) -> None:
            report("taking over")
            await before_end(vm)

        return (await rewind(bundle, pid=source.pid, before_end=takes_over)).vm

    async def compare(self, a: RegistryEntry, b: RegistryEntry) -> VmDifference:
        """How two running sandboxes differ."""
        await _preload()
        from machinen_runtime.compare import compare

        return await compare(a, b)

    async def compare_file(self, a: RegistryEntry, b: RegistryEntry, name: bytes) -> TextDifference:
        """How one file of theirs differs."""
        await _preload()
        from machinen_runtime.file_difference import file_difference

        return await file_difference(a, b, name)

    async def run_in_each(
        self,
        entries: Sequence[RegistryEntry],
        command: str,
        on_done: Callable[[RunOutcome], None],
    ) -> None:
        """Run a shell command in many at once."""
        await _preload()
        from machinen_runtime.run_many import run_in_each

        await run_in_each(entries, command, on_done=on_done)

    def plan_promotion(self, entry: RegistryEntry) -> PromotePlan:
        """What a promotion would do."""
        from machinen_runtime.promote import plan_promotion

        return plan_promotion(entry)

    async def promote(self, plan: PromotePlan, report: Report) -> list[Path]:
        """Carry it out."""
        from machinen_runtime.promote import promote

        result = await promote(plan, report)
        return [Path(path) for _, path in result.kept]

    async def provision(self, wanted: WantedImage, output: OnOutput, stage: OnStage) -> Path:
        """Build an image."""
        await _preload()
        from machinen_tui.image_build import build_image

        return await build_image(wanted, output, stage)

    def new_directory(self, stem: str) -> Path:
        """Where the next snapshot of `stem` goes: `<ours>/<stem>-<date>-<time>`."""
        return self._snapshot_root / f"{stem.replace('/', '_')}-{time.strftime('%Y%m%d-%H%M%S')}"

    # -- inside a guest ---------------------------------------------------------------------------

    async def add_port(self, source: Sandbox, wanted: PortForward | int) -> PortForward:
        """Lead a host port into the guest."""
        return await cast("VmHandle", source).add_port_forward(wanted)

    async def remove_port(self, source: Sandbox, forward: PortForward) -> None:
        """Stop one of its forwards."""
        handle = cast("VmHandle", source)
        await handle.remove_port_forward(forward.host_port, forward.host_addr)

    async def rename(self, source: Sandbox, name: str) -> None:
        """Give a sandbox another name."""
        await cast("VmHandle", source).rename(name)

    async def send_secrets(self, source: Sandbox, secrets: Mapping[str, str]) -> int:
        """Replace the guest's secrets; how many it took."""
        from machinen_runtime.channel_secrets import VsockSecrets

        return await VsockSecrets.send(cast("VmHandle", source).vsock_path, secrets)

    async def probe(self, source: Sandbox) -> bytes:
        """The guest's counters of disks and network; no more than what is looked at."""
        said = bytearray()

        def on_chunk(data: bytes) -> None:
            said.extend(data[: probe.MAX_BYTES - len(said)])

        handle = cast("VmHandle", source)
        await handle.exec_raw(probe.COMMAND, on_stdout=on_chunk, connect_timeout_ms=PROBE_MS,
                              exec_timeout_ms=PROBE_MS)  # fmt: skip
        return bytes(said)

    async def copy(self, source: Sandbox, wanted: WantedCopy, report: Report) -> str:
        """Copy files either way, as cp(1) names them; where they are then."""
        from machinen_runtime.guest_copy import copy_into, copy_out

        copied_bytes = 0

        def on_bytes(size: int) -> None:
            nonlocal copied_bytes
            copied_bytes += size
            report(mib(copied_bytes))

        path, excludes = cast("VmHandle", source).vsock_path, wanted.excludes
        if wanted.into_guest:
            return await copy_into(path, wanted.host, wanted.guest, recursive=True,
                                   excludes=excludes, on_bytes=on_bytes)  # fmt: skip
        target = await copy_out(path, wanted.guest, wanted.host, recursive=True,
                                excludes=excludes, on_bytes=on_bytes)  # fmt: skip
        return str(target)

    # -- bundles, and what is kept between two runs -----------------------------------------------

    def bundles(self, more: list[Path]) -> list[SnapshotInfo]:
        """Those in our directory and those in `more`, oldest first."""
        return bundle_shelf.find_bundles([self._snapshot_root, *more])

    def bundle_size(self, bundle: Path) -> int:
        """Bytes on disk."""
        from machinen_runtime.shelf import disk_bytes

        return disk_bytes(bundle)

    def check_bundle(self, bundle: Path, *, read_all: bool = False) -> None:
        """MachinenError if it cannot be restored here."""
        bundle_shelf.check_bundle(bundle, read_all=read_all)

    def delete_bundle(self, bundle: Path, *, force: bool = False) -> None:
        """Remove a bundle with all in it."""
        from machinen_runtime.shelf import delete_snapshot

        delete_snapshot(bundle, force=force)

    def change_notes(self, bundle: Path, **changes: Any) -> BundleNotes:
        """Another label or note, pinned or not."""
        from machinen_runtime.bundle_notes import change_notes

        return change_notes(bundle, **changes)

    def new_recording(self, stem: str) -> Path:
        """Where the next recording of `stem` goes: `<ours>/<stem>-<date>-<time>.cast`."""
        directory = ensure_private_dir(home_root() / "recordings")
        return directory / f"{stem.replace('/', '_')}-{time.strftime('%Y%m%d-%H%M%S')}.cast"

    def newest_recording(self) -> Path | None:
        """The one that was made last."""
        return max((home_root() / "recordings").glob("*.cast"), key=_mtime, default=None)

    def recall(self) -> Mapping[str, Any]:
        """What `remember` kept."""
        return remembered.read(home_root())

    def recall_session(self) -> Mapping[str, Any]:
        """Layout, selection and marks of the last run."""
        return remembered.read(home_root(), remembered.SESSION_FILE)

    def remember_session(self, values: Mapping[str, Any]) -> None:
        """Keep them."""
        remembered.write(home_root(), values, remembered.SESSION_FILE)

    def remember(self, values: Mapping[str, Any]) -> None:
        """Keep `values` for the next time."""
        remembered.write(home_root(), values)

    # -- names ------------------------------------------------------------------------------------

    @contextmanager
    def _name_for(self, wanted: str, stem: str, count: int = 1) -> Generator[str]:
        """`wanted`, or `stem`, `stem-2`, `stem-3`, … whichever nobody has or is about to get, which
        is so until the block ends. Of several it is what their names begin with."""
        taken = {entry.name for entry in self.entries()} | self._coming
        free = (name for name in _numbered(stem) if not taken & _names(name, count))
        chosen = wanted if wanted and count == 1 else next(free)
        coming = _names(chosen, count) - self._coming
        self._coming |= coming
        try:
            yield chosen
        finally:
            self._coming -= coming


def _names(name: str, count: int) -> set[str]:
    """Those of `count` forks that are called `name`."""
    return {name} if count == 1 else {f"{name}-{number}" for number in range(1, count + 1)}


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
