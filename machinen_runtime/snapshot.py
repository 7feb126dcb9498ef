"""Freeze a VM through its monitor and fill a bundle."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from machinen_runtime import paths
from machinen_runtime.bundle import VM_DIR, meta_of_report, write_meta
from machinen_runtime.bundle_mounts import place_mount_files
from machinen_runtime.errors import ErrorCode, SnapshotError
from machinen_runtime.gc_orphans import ephemeral_bundle_name
from machinen_runtime.log_events import OnLog, PhaseLogEvent
from machinen_runtime.monitor_client import MonitorClient
from machinen_runtime.pids import wait_process_gone
from machinen_runtime.registry_entry import RegistryEntry
from vmm.requests import SnapshotReport


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotResult:
    """Where the bundle is, and what taking it cost. Milliseconds."""

    snap_dir: str
    img_dir: str
    """The directory with the engine's files inside the bundle."""
    elapsed_ms: float
    console_log: str = ""
    """Console output during the snapshot; the `vmstate` engine makes none."""
    paused_ms: float = 0.0
    """How long the source stood still. Ours."""
    phases: dict[str, float] = field(default_factory=dict[str, float])


async def take_snapshot(
    entry: RegistryEntry,
    out_dir: Path,
    *,
    leave_running: bool,
    durable: bool = True,
    timeout_ms: float = 90_000,
    on_log: OnLog | None = None,
) -> SnapshotResult:
    """Write a bundle of the VM `entry` to `out_dir`, which must be absent or an empty directory.

    Raises:
        SnapshotError: SNAPSHOT_DUMP_FAILED, SNAPSHOT_TIMEOUT; the VM runs on and nothing is left.
    """
    started = time.monotonic()
    out_dir = _checked_out_dir(out_dir)
    monitor = MonitorClient(Path(entry.socket_path).parent)
    with _staging(out_dir) as staging:
        report = await monitor.snapshot(
            staging / VM_DIR,
            leave_running=leave_running,
            durable=durable,
            timeout_s=timeout_ms / 1000,
        )
        place_mount_files(report)
        write_meta(
            staging,
            meta_of_report(
                report,
                source_pid=entry.pid,
                source_started_at=entry.started_at,
                source_image=entry.image_path,
            ),
        )
        staging.rename(out_dir)
    if not leave_running:
        await wait_process_gone(entry.pid, entry, timeout_ms=10_000)
    return _result(report, out_dir, started, on_log)


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
    staging = out_dir.with_name(f".{out_dir.name}.{secrets.token_hex(4)}")
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


def _result(
    report: SnapshotReport, out_dir: Path, started: float, on_log: OnLog | None
) -> SnapshotResult:
    elapsed_ms = (time.monotonic() - started) * 1000
    if on_log is not None:
        on_log(PhaseLogEvent(kind="snapshot", phases=report.phases, total_ms=elapsed_ms))
    return SnapshotResult(
        snap_dir=str(out_dir),
        img_dir=str(out_dir / VM_DIR),
        elapsed_ms=elapsed_ms,
        paused_ms=report.paused_ms,
        phases=report.phases,
    )
