"""Take a snapshot of a VM and fill a bundle: by its monitor (vmstate) or from within it (criu)."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import cast

import anyio
from anyio import to_thread

from machinen_runtime import paths
from machinen_runtime.bundle import IMG_DIR, VM_DIR, SnapshotMeta, meta_of_report, write_meta
from machinen_runtime.bundle_check import with_sums
from machinen_runtime.bundle_mounts import (
    LAZY_DIR,
    LiveMountMeta,
    MountDiskMeta,
    mount_disk_meta,
    place_mount_files,
)
from machinen_runtime.errors import ErrorCode, SnapshotError
from machinen_runtime.gc_orphans import ephemeral_bundle_name, unfinished_path
from machinen_runtime.host_refusals import host_refusals
from machinen_runtime.log_events import ChunkLogEvent, PhaseTimer
from machinen_runtime.machines import machine_for
from machinen_runtime.monitor_client import MonitorClient
from machinen_runtime.options import SnapshotOptions
from machinen_runtime.pids import wait_process_gone
from machinen_runtime.registry_entry import RegistryEntry
from vmm.requests import CONSOLE_LOG, SnapshotReport, VmStatus
from vmm.spec import Network

CONSOLE_TAIL_CHARS = 2000
MAX_CONSOLE_BYTES = 1 << 20
END_TIMEOUT_MS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotResult:
    """Where the bundle is, and what taking it cost. Milliseconds."""

    snap_dir: str
    """The bundle's directory, absolute."""
    img_dir: str
    """The directory with the engine's files inside the bundle."""
    elapsed_ms: float
    """From the call to the end of it; without `leave_running` that is the VM's end."""
    console_log: str = ""
    """What the guest's console said during the snapshot."""
    paused_ms: float = 0.0
    """How long the source stood still; 0 if its engine cannot tell. Ours."""
    phases: dict[str, float] = field(default_factory=dict[str, float])
    """Phase → milliseconds. Ours."""


@host_refusals(SnapshotError, "the snapshot cannot be kept", ErrorCode.SNAPSHOT_DUMP_FAILED)
async def take_snapshot(
    entry: RegistryEntry, options: SnapshotOptions, *, keep: bool = True
) -> SnapshotResult:
    """Write a bundle of the VM `entry` to `options.out_dir`: absent, or an empty directory.

    `keep`: the bundle is for later, so it is synced and carries checksums.

    Raises:
        SnapshotError: SNAPSHOT_NO_DISK, SNAPSHOT_DUMP_FAILED, SNAPSHOT_TIMEOUT; the VM runs on and
            nothing is left.
    """
    require_disk(entry)
    out_dir = _checked_out_dir(Path(options.out_dir))
    timer = PhaseTimer("snapshot")
    console = _Console(entry)
    taken = _Taken(entry, options, timer)
    with console.in_errors(), _staging(out_dir) as staging:
        async with taken.dumped(staging, keep=keep) as meta:
            if keep:
                with timer.phase("checksums"):
                    meta = await to_thread.run_sync(with_sums, staging, meta)
            await to_thread.run_sync(write_meta, staging, meta)
            staging.rename(out_dir)
            if not options.leave_running:  # in here: until it ends the guest stands still
                await taken.end_source()
    if options.on_log is not None and (said := console.new_bytes()):
        options.on_log(ChunkLogEvent(source="guest-console", chunk=said))
    timer.flush(options.on_log)
    engine_dir = VM_DIR if meta.engine == "vmstate" else IMG_DIR
    return SnapshotResult(
        snap_dir=str(out_dir),
        img_dir=str(out_dir / engine_dir),
        elapsed_ms=timer.total_ms,
        console_log=console.new_text(),
        paused_ms=taken.paused_ms,
        phases=timer.phases,
    )


def require_disk(entry: RegistryEntry) -> None:
    """SNAPSHOT_NO_DISK if the VM was booted so that it cannot be snapshotted."""
    if entry.disk_path is None:
        raise SnapshotError(
            ErrorCode.SNAPSHOT_NO_DISK,
            "this VM was booted with snapshot=False; boot it without to snapshot or fork it",
        )


class _Taken:
    """One snapshot of one VM, by either engine."""

    def __init__(self, entry: RegistryEntry, options: SnapshotOptions, timer: PhaseTimer) -> None:
        self._entry = entry
        self._options = options
        self._timer = timer
        self._deadline = anyio.current_time() + options.timeout_ms / 1000
        self._monitor = MonitorClient(Path(entry.socket_path).parent)
        self.paused_ms = 0.0

    @asynccontextmanager
    async def dumped(self, staging: Path, *, keep: bool) -> AsyncGenerator[SnapshotMeta]:
        """Write the engine's files below `staging`; their meta, without checksums.

        A VM that is to end stands still in the block: it goes on if there comes no bundle of it.
        """
        if self._options.engine == "criu":
            yield await self._dump_tree(staging, keep=keep)
            return
        async with self._monitor.snapshot(
            staging / VM_DIR,
            leave_running=self._options.leave_running,
            durable=keep,
            timeout_s=self._options.timeout_ms / 1000,
        ) as report:
            yield await self._machine_meta(report)

    async def _machine_meta(self, report: SnapshotReport) -> SnapshotMeta:
        for phase, elapsed_ms in report.phases.items():
            self._timer.mark(phase, elapsed_ms)
        self.paused_ms = report.paused_ms
        if report.mount_guest is not None:
            await to_thread.run_sync(place_mount_files, Path(report.directory))
        return meta_of_report(
            report,
            source_pid=self._entry.pid,
            source_started_at=self._entry.started_at,
            source_image=self._entry.image_path,
            snapped_at=_now_ms(),
            machinen=_version(),
            ancestry=self._entry.ancestry,
            limits=self._entry.limits,
        )

    async def _dump_tree(self, staging: Path, *, keep: bool) -> SnapshotMeta:
        status = await self._monitor.status()
        mount = None
        with self._timer.phase("dump"), anyio.CancelScope(deadline=self._deadline) as scope:
            mount = await self._dump_images(staging, keep=keep)
        if scope.cancelled_caught:
            timeout_s = self._options.timeout_ms / 1000
            message = f"the dump did not end within {timeout_s:g} s; the VM runs on"
            raise SnapshotError(ErrorCode.SNAPSHOT_TIMEOUT, message)
        return self._tree_meta(staging, mount, status)

    async def _dump_images(self, staging: Path, *, keep: bool) -> MountDiskMeta | None:
        """CRIU's images, and the disks of the VM's mount as they are at that moment."""
        from machinen_runtime.snapshot_criu import dump_tree
        from machinen_runtime.snapshot_mount import DUMP_MOUNT, freeze_during

        options, mount = self._options, self._entry.mount_disk
        env = {"MACHINEN_DUMP_TCP_CLOSE": "1"} if options.tcp_close else {}
        env |= {DUMP_MOUNT: mount.guest} if mount is not None else {}
        vsock_path, layers_dir = Path(self._entry.socket_path), staging / VM_DIR
        dump = partial(
            dump_tree,
            vsock_path,
            staging / IMG_DIR,
            dump_cmd=options.dump_cmd,
            env=env,
            on_log=options.on_log,
        )
        if mount is None:
            await dump()
            return None
        layers_dir.mkdir(mode=0o700)
        freeze = partial(self._monitor.freeze_mount, layers_dir, durable=keep)
        layers = await freeze_during(dump, freeze, vsock_path)
        await to_thread.run_sync(place_mount_files, layers_dir)
        return mount_disk_meta(staging, mount.guest, layers)

    def _tree_meta(
        self, staging: Path, mount: MountDiskMeta | None, status: VmStatus
    ) -> SnapshotMeta:
        from machinen_runtime.snapshot_criu import image_files

        base = Path(self._entry.disk_path or "")
        names = [f"{IMG_DIR}/{name}" for name in image_files(staging / IMG_DIR)]
        names += [] if mount is None else mount.files(VM_DIR)
        machine = machine_for(
            memory_mib=status.memory_mib,
            cpus=status.cpus,
            network=cast("Network", status.network),
        )
        return SnapshotMeta(
            engine="criu",
            machinen=_version(),
            id=status.id,
            source_name=status.name,
            source_image=self._entry.image_path,
            source_pid=self._entry.pid,
            source_started_at=self._entry.started_at,
            snapped_at=_now_ms(),
            ancestry=self._entry.ancestry,
            qemu_version="",
            machine=replace(machine, root_in_ram=status.root_in_ram, mount_disk=mount is not None),
            mount_disk=mount,
            base_disk=str(base),
            base_disk_bytes=base.stat().st_size,
            allow_hosts=status.allow_hosts,
            limits=status.limits,
            live_mounts=[
                LiveMountMeta(guest=each.guest, host=str(each.host), mode=each.mode)
                for each in self._entry.live_mounts
                if each.guest != LAZY_DIR  # memory is in the new images
            ],
            origin=status.origin,
            tcp_close=self._options.tcp_close,
            files={name: (staging / name).stat().st_size for name in names},
        )

    async def end_source(self) -> None:
        """End the VM, of which there is a bundle now."""
        with self._timer.phase("end"):
            await self._monitor.stop(grace_ms=0)
            await wait_process_gone(self._entry.pid, self._entry, timeout_ms=END_TIMEOUT_MS)


class _Console:
    """What the guest's console says from now on; the monitor writes it to a file."""

    def __init__(self, entry: RegistryEntry) -> None:
        self._path = next(
            (
                Path(each, CONSOLE_LOG)
                for each in entry.cleanup_paths
                if Path(each, CONSOLE_LOG).is_file()
            ),
            None,
        )
        self._start = self._path.stat().st_size if self._path else 0
        self._seen = b""

    def new_bytes(self) -> bytes:
        """What was said since; the last known of it once the VM and its log are gone."""
        if self._path is not None:
            with suppress(OSError), open(self._path, "rb") as file:
                file.seek(max(self._start, os.fstat(file.fileno()).st_size - MAX_CONSOLE_BYTES))
                self._seen = file.read(MAX_CONSOLE_BYTES)
        return self._seen

    def new_text(self) -> str:
        """The same as text."""
        return self.new_bytes().decode("utf-8", "replace")

    @contextmanager
    def in_errors(self) -> Generator[None]:
        """Let a SnapshotError of the block carry the end of what the console said."""
        try:
            yield
        except SnapshotError as error:
            text = self.new_text()[-CONSOLE_TAIL_CHARS:].strip()
            if not text:
                raise
            printable = "".join(char for char in text if char.isprintable() or char == "\n")
            message = f"{error}\nthe guest's console said:\n{printable}"
            raise SnapshotError(error.code, message, retryable=error.retryable) from error
        self.new_bytes()


def ephemeral_bundle_path() -> Path:
    """A fresh place, on the file system of the VMs' disks, for a bundle that goes after use."""
    name = ephemeral_bundle_name(secrets.token_hex(4))
    return paths.ensure_private_dir(paths.state_root()) / name


def _checked_out_dir(out_dir: Path) -> Path:
    """`out_dir` as an absolute path at which a bundle can be written."""
    out_dir = out_dir.absolute()
    problem = None
    if out_dir.exists() and not out_dir.is_dir():
        problem = "is not a directory"
    elif out_dir.is_dir() and any(out_dir.iterdir()):
        problem = "is not empty; choose another directory"
    elif not out_dir.parent.is_dir():
        problem = "has no parent directory; make it first"
    if problem:
        raise SnapshotError(ErrorCode.SNAPSHOT_DUMP_FAILED, f"{out_dir} {problem}")
    return out_dir


@contextmanager
def _staging(out_dir: Path) -> Generator[Path]:
    """A directory beside `out_dir` to write into; gone afterwards unless it was renamed."""
    staging = unfinished_path(out_dir)
    try:
        staging.mkdir(mode=0o700)
    except OSError as error:
        message = f"cannot write a snapshot to {out_dir}: {error.strerror}"
        raise SnapshotError(ErrorCode.SNAPSHOT_DUMP_FAILED, message) from error
    try:
        yield staging
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(staging)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _version() -> str:
    try:
        return version("machinen")
    except PackageNotFoundError:
        return "unknown"
