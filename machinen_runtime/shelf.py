"""The snapshots that were kept: which there are, whose they are, their notes; and their end.

Cheap: a bundle's files are neither measured nor hashed (`bundle_check` does that).
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from machinen_runtime.ancestry import MAX_TIME_MS, Ancestor, line_from_object
from machinen_runtime.bundle_notes import META_FILE, BundleNotes, read_notes
from machinen_runtime.errors import BootError, ErrorCode, SnapshotError
from machinen_runtime.host_refusals import pass_exhaustion
from machinen_runtime.paths import remove_tree, snapshots_root
from machinen_runtime.regular_file import open_regular

MAX_META_BYTES = 1 << 20
BLOCK_BYTES = 512
"""The unit of st_blocks, inode(7)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSnapshot:
    """A bundle, as its meta.json and its notes describe it. Times in ms since 1970."""

    path: Path
    name: str
    """The source's; that of the directory if it had none."""
    taken_at_ms: float
    source_pid: int | None = None
    source_started_at: float | None = None
    engine: str = "vmstate"
    ancestry: tuple[Ancestor, ...] = ()
    """Of the source."""
    notes: BundleNotes = field(default_factory=BundleNotes)


def new_snapshot_path(stem: str) -> Path:
    """A place there that is not taken: `<stem>-<date>-<time>`."""
    name = f"{stem.replace('/', '_')}-{time.strftime('%Y%m%d-%H%M%S')}"
    path, number = snapshots_root() / name, 1
    while os.path.lexists(path):
        number += 1
        path = snapshots_root() / f"{name}-{number}"
    return path


def find_snapshot(text: str | os.PathLike[str]) -> Path:
    """The bundle a path names, or the name of one among ours.

    Raises:
        BootError: BOOT_SNAPSHOT_NOT_FOUND.
    """
    written = os.fspath(text)
    for path in (Path(written).absolute(), snapshots_root() / written):
        if written and os.path.isfile(path / META_FILE):
            return path
    message = f"there is no snapshot in {written!r}; `machinen bundles ls` lists yours"
    raise BootError(ErrorCode.BOOT_SNAPSHOT_NOT_FOUND, message)


def kept_snapshots(roots: Iterable[Path] = ()) -> list[KeptSnapshot]:
    """The bundles that `roots` are or hold, each once, oldest first; without roots ours.

    What is torn or foreign is passed over. Those from the future were taken before the clock was
    set back: they come first.
    """
    found: dict[Path, KeptSnapshot] = {}
    for root in list(roots) or [snapshots_root()]:
        for path in [root] if os.path.isfile(root / META_FILE) else directories(root):
            if (kept := kept_snapshot(path)) is not None:
                found.setdefault(path.resolve(), kept)
    now_ms = time.time() * 1000
    return sorted(found.values(), key=lambda kept: (kept.taken_at_ms <= now_ms, kept.taken_at_ms))


def readable_roots(named: Iterable[str]) -> list[Path]:
    """Directories somebody named, absolute: one that cannot be read is not taken for an empty one.

    Raises:
        BootError: BOOT_SNAPSHOT_NOT_FOUND for the first that is no directory we can list.
    """
    roots = [Path(each).absolute() for each in named]
    for root in roots:
        try:
            with os.scandir(root):
                pass
        except (OSError, ValueError) as error:
            pass_exhaustion(error)
            reason = error.strerror if isinstance(error, OSError) else error
            message = f"no snapshots can be listed in {root}: {reason}; check the path"
            raise BootError(ErrorCode.BOOT_SNAPSHOT_NOT_FOUND, message) from error
    return roots


def kept_snapshot(path: Path) -> KeptSnapshot | None:
    """What a bundle says of itself. None: it is none."""
    raw = read_meta(path)
    if raw is None:
        return None
    taken_at, started_at = _number(raw.get("snappedAt")), _number(raw.get("sourceStartedAt"))
    pid = raw.get("sourcePid")
    if taken_at is None:
        return None
    return KeptSnapshot(
        path=path,
        name=shown_text(raw.get("sourceName")) or path.name,
        taken_at_ms=taken_at,
        source_pid=pid if isinstance(pid, int) and not isinstance(pid, bool) else None,
        source_started_at=started_at,
        engine=shown_text(raw.get("engine")) or "vmstate",
        ancestry=line_from_object(raw.get("ancestry")),
        notes=read_notes(path),
    )


def read_meta(path: Path) -> Mapping[str, Any] | None:
    """The object in a bundle's meta.json, unchecked; None if there is none."""
    try:
        with open_regular(path / META_FILE) as file:
            raw: object = json.loads(file.read(MAX_META_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", raw) if isinstance(raw, dict) else None


def delete_snapshot(bundle: Path, *, force: bool = False) -> None:
    """Remove a bundle with all in it; one that is pinned only with `force`.

    Raises:
        SnapshotError: SNAPSHOT_PINNED; nothing is removed.
        BootError: BOOT_SNAPSHOT_INVALID if it is no bundle or a link, so that nothing is removed;
            or if something of it could not be.
    """
    if bundle.is_symlink() or kept_snapshot(bundle) is None:
        raise BootError(ErrorCode.BOOT_SNAPSHOT_INVALID, f"{bundle} is no snapshot; it stays")
    if not force:
        require_unpinned([bundle])
    if not remove_tree(bundle):
        message = f"{bundle} could not be removed whole; check who owns what is left"
        raise BootError(ErrorCode.BOOT_SNAPSHOT_INVALID, message)


def require_unpinned(bundles: Iterable[Path]) -> None:
    """SNAPSHOT_PINNED if one of them is pinned."""
    for bundle in bundles:
        if read_notes(bundle).pinned:
            message = f"{bundle} is pinned; unpin it first, or force it"
            raise SnapshotError(ErrorCode.SNAPSHOT_PINNED, message)


def prune_automatic(name: str, keep: int, used: Sequence[str] = ()) -> list[Path]:
    """Delete the automatic snapshots of sandboxes called `name` but the newest `keep`.

    Those that were pinned stay, as do those in `used` and those that cannot be removed. What went.
    """
    ours = [each for each in kept_snapshots() if each.name == name and not each.notes.is_kept]
    gone: list[Path] = []
    for kept in ours[: max(len(ours) - keep, 0)]:
        if str(kept.path) not in used and remove_tree(kept.path):
            gone.append(kept.path)
    return gone


def disk_bytes(path: Path) -> int:
    """Bytes the files below `path` take on disk; a bundle's RAM image is mostly holes."""
    total = 0
    for directory, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(os.path.join(directory, name)).st_blocks * BLOCK_BYTES
            except OSError:
                continue  # it went while we looked
    return total


def directories(root: Path) -> list[Path]:
    """The directories in a directory; none if it cannot be read."""
    return [Path(entry.path) for entry in _directories(root)]


def change_times(root: Path) -> list[int]:
    """When each directory in a directory was changed last (ns since the epoch), sorted: tells
    whether to look again, at a price one can pay every second."""
    times: list[int] = []
    for entry in _directories(root):
        with suppress(OSError):  # it went while we looked
            times.append(entry.stat().st_mtime_ns)
    return sorted(times)


def _directories(root: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(root) as entries:
            return [
                entry
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir()  # those are being written
            ]
    except OSError:
        return []


def shown_text(value: object) -> str:
    """A text of a bundle as it may be drawn: whoever wrote it may have meant harm."""
    return "".join(c for c in value if c.isprintable())[:200] if isinstance(value, str) else ""


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < MAX_TIME_MS else None
