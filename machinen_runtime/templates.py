"""The templates on disk: bundles below `<cache>/templates`, each named by its key.

    <key>/            a bundle (bundle.py) of a guest whose agent has just come up
    <key>.lock        locked: shared while a VM starts from it, exclusively while it is made
    <key>.failures    how often in a row a guest did not come up from it
    bundle-<pid>-…/   one being made, by that process

A template appears by a rename, whole and synced, or not at all; what a dead maker left goes with
the next one of that key, or with gc. Files that changed since they were written are read again and
compared with their checksums before anything starts from them.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import re
import secrets
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machinen_runtime.bundle import VM_DIR, SnapshotMeta, meta_of_report, write_meta
from machinen_runtime.bundle_check import open_bundle, with_sums
from machinen_runtime.file_age import seconds_unchanged
from machinen_runtime.file_lock import lock_file
from machinen_runtime.gc_orphans import BUNDLE_PREFIX, ephemeral_bundle_name
from machinen_runtime.paths import cache_root, ensure_private_dir, remove_tree, write_atomically
from machinen_runtime.standbys import end_standbys
from vmm.requests import SnapshotReport

MACHINE_SUM = "machine"
"""Under this name `SnapshotMeta.origin` holds what vmm.machine.machine_sum said."""
MAX_FAILURES = 3
FAILURES_LAST_S = 86400.0
_KEY = re.compile(r"[0-9a-f]{32}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """A whole template."""

    key: str
    path: Path
    meta: SnapshotMeta


def templates_root() -> Path:
    """`<cache>/templates`."""
    return cache_root() / "templates"


def template_path(key: str) -> Path:
    """Where the template of `key` lies, if there is one."""
    return templates_root() / key


def template_keys() -> list[str]:
    """The keys of all templates."""
    with suppress(FileNotFoundError):
        return sorted(path.name for path in templates_root().iterdir() if _KEY.fullmatch(path.name))
    return []


@contextmanager
def template_lock(key: str, *, exclusive: bool) -> Generator[bool]:
    """Hold the lock of `key`, or not: yields whether it could be had without waiting.

    The kernel frees it if we die. Who holds it exclusively may remove its file.
    """
    lock = lock_file(lock_path(key), fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def open_template(key: str) -> Template | None:
    """The template of `key`, compared with its checksums; None if there is none. Marks its use.

    Raises:
        BootError: BOOT_SNAPSHOT_INVALID, BOOT_IMAGE_NOT_FOUND: it is damaged, make it again.
    """
    path = template_path(key)
    if not path.is_dir():
        return None
    meta, _ = open_bundle(path)
    mark_used(key)
    return Template(key=key, path=path, meta=meta)


def mark_used(key: str) -> None:
    """The age of a template is that of its lock file."""
    with suppress(OSError):
        os.utime(lock_path(key))


def last_used(key: str) -> float:
    """When it was used last, in seconds since 1970; when it was made, if never."""
    for path in (lock_path(key), template_path(key)):
        with suppress(OSError):
            return time.time() - seconds_unchanged(path)
    return 0.0


def new_staging(key: str) -> Path:
    """A directory to make the template of `key` in. The caller holds its lock exclusively."""
    root = ensure_private_dir(templates_root())
    for left in root.glob(f"{BUNDLE_PREFIX}*-{key}-*"):
        remove_tree(left)
    staging = root / ephemeral_bundle_name(f"{key}-{secrets.token_hex(4)}")
    staging.mkdir(mode=0o700)
    return staging


def publish(
    staging: Path, key: str, report: dict[str, Any], machine_sum: str, image: str | None
) -> SnapshotMeta:
    """Make what the monitor wrote below `staging` the template of `key`. Syncs; blocks.

    Raises:
        OSError: the disk is full. TypeError, KeyError: no report of our monitor.
    """
    meta = meta_of_report(
        dataclasses.replace(SnapshotReport(**report), name=None),  # it is nobody's
        source_pid=os.getpid(),
        source_started_at=0,
        source_image=image,
        snapped_at=time.time_ns() // 1_000_000,
    )
    meta = dataclasses.replace(
        meta,
        machine=dataclasses.replace(meta.machine, mount_disk=False),  # a bundle without its files
        origin={**meta.origin, MACHINE_SUM: machine_sum},
        live_mounts=None,
        allow_hosts=[],
    )
    meta = with_sums(staging, meta)
    _sync(staging / VM_DIR)
    write_meta(staging, meta)
    target = template_path(key)
    remove_tree(target)
    staging.rename(target)
    _sync(target.parent)
    mark_used(key)
    return meta


def remove_template(key: str) -> bool:
    """Remove the template, unless a VM starts from it right now; True if it is gone."""
    end_standbys(key)
    with template_lock(key, exclusive=True) as locked:
        if not locked:
            return False
        gone = remove_tree(template_path(key))
        if gone:
            _failures_path(key).unlink(missing_ok=True)
            lock_path(key).unlink(missing_ok=True)
        return gone


def forget_unmade() -> None:
    """Remove locks and notes of keys that have no template and nobody at work."""
    for lock in templates_root().glob("*.lock"):
        if not template_path(lock.stem).is_dir():
            remove_template(lock.stem)


# -- templates whose guests do not come up --------------------------------------------------------


def note_failure(key: str) -> None:
    """Count a guest that did not come up, and forget the template: the next is made anew."""
    count = failures(key) + 1
    remove_template(key)
    with suppress(OSError):
        write_atomically(_failures_path(key), str(count))


def note_success(key: str) -> None:
    """A guest came up: what was before does not matter any more."""
    with suppress(OSError):
        _failures_path(key).unlink(missing_ok=True)


def failures(key: str) -> int:
    """How many guests in a row did not come up, lately."""
    path = _failures_path(key)
    with suppress(OSError, ValueError):
        age = time.time() - path.stat().st_mtime
        if 0 <= age < FAILURES_LAST_S:  # one from the future says nothing about lately
            return int(path.read_text())
    return 0


# -- inside ---------------------------------------------------------------------------------------


def lock_path(key: str) -> Path:
    """The file that is locked while a template is used or made."""
    return templates_root() / f"{key}.lock"


def _failures_path(key: str) -> Path:
    return templates_root() / f"{key}.failures"


def _sync(directory: Path) -> None:
    for path in [*(each for each in directory.iterdir() if each.is_file()), directory]:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
