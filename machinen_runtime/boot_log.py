"""The boot console that a detached VM leaves: `<logs>/<pid>.boot.log`, at most 1 MiB."""

from __future__ import annotations

from pathlib import Path

from machinen_runtime.paths import ensure_private_dir, logs_root, write_atomically

MAX_BOOT_LOG_CHARS = 1 << 20


def detached_log_root() -> Path:
    """Where boot logs lie: `~/.machinen/logs`, or `MACHINEN_DETACHED_LOG_DIR`."""
    return logs_root()


def boot_snapshot_path(pid: int) -> Path:
    """Where the boot log of `pid` goes."""
    return detached_log_root() / f"{pid}.boot.log"


def write_boot_snapshot(path: Path, contents: str) -> bool:
    """Write a boot log, its tail if it is too long. False if that failed: the VM runs anyway."""
    try:
        ensure_private_dir(path.parent)
        write_atomically(path, contents[-MAX_BOOT_LOG_CHARS:])
    except OSError:
        return False
    return True
