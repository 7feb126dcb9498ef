"""Bundles on disk: which there are, what they say of themselves, whether they can be restored, and
their end."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from machinen_runtime.errors import BootError, ErrorCode
from machinen_tui.gateway import SnapshotInfo

META_FILE = "meta.json"
MAX_META_BYTES = 1 << 20
BLOCK_BYTES = 512
"""The unit of st_blocks, inode(7)."""


def bundles_in(root: Path) -> list[SnapshotInfo]:
    """The bundles in a directory, oldest first. What is torn or foreign is passed over."""
    found = [bundle_info(path) for path in directories(root)]
    return _by_age(each for each in found if each is not None)


def find_bundles(roots: Iterable[Path]) -> list[SnapshotInfo]:
    """The bundles that `roots` are or hold, each once, oldest first."""
    found: dict[Path, SnapshotInfo] = {}
    for root in roots:
        own = bundle_info(root)
        for info in [own] if own is not None else bundles_in(root):
            found.setdefault(info.path.resolve(), info)
    return _by_age(found.values())


def bundle_info(path: Path) -> SnapshotInfo | None:
    """What a bundle says of itself, without looking at its files. None: it is none."""
    try:
        with open(path / META_FILE, "rb") as file:
            raw: object = json.loads(file.read(MAX_META_BYTES))
        if not isinstance(raw, dict):
            return None
        return _info(path, cast("dict[str, Any]", raw))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _info(path: Path, meta: Mapping[str, Any]) -> SnapshotInfo:
    taken_at = float(meta["snappedAt"])
    pid, started = meta.get("sourcePid"), meta.get("sourceStartedAt")
    return SnapshotInfo(
        path=path,
        name=_shown(meta.get("sourceName")) or path.name,
        taken_at_ms=taken_at if 0 <= taken_at < 1e14 else 0.0,
        source_pid=pid if isinstance(pid, int) else None,
        source_started_at=float(started) if isinstance(started, int | float) else None,
        engine=_shown(meta.get("engine")) or "vmstate",
        machine=_machine(meta.get("machine")),
        qemu_version=_shown(meta.get("qemuVersion")),
        image=_shown(meta.get("sourceImage")),
        mount=_mount(meta.get("mountDisk")),
        live_mounts=_live_mounts(meta.get("liveMounts")),
    )


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


def check_bundle(path: Path, *, read_all: bool = False) -> None:
    """Raise MachinenError if the bundle cannot be restored here: torn, edited, a disk missing.

    `read_all`: read every byte, also of files whose checksums are remembered.
    """
    from machinen_runtime import bundle_check

    if read_all:
        bundle_check.check_bundle(path)
    bundle_check.open_bundle(path)


def delete_bundle(path: Path) -> None:
    """Remove a bundle with all in it.

    Raises:
        BootError: BOOT_SNAPSHOT_INVALID if `path` is no bundle or a link: nothing is removed.
    """
    from machinen_runtime.paths import remove_tree

    if path.is_symlink() or bundle_info(path) is None:
        raise BootError(ErrorCode.BOOT_SNAPSHOT_INVALID, f"{path} is no snapshot; it stays")
    if not remove_tree(path):
        message = f"{path} could not be removed whole; check who owns what is left"
        raise BootError(ErrorCode.BOOT_SNAPSHOT_INVALID, message)


def _by_age(infos: Iterable[SnapshotInfo]) -> list[SnapshotInfo]:
    return sorted(infos, key=lambda info: info.taken_at_ms)


def directories(root: Path) -> list[Path]:
    """The directories in a directory; none if it cannot be read."""
    try:
        return [
            Path(entry.path)
            for entry in os.scandir(root)
            if entry.is_dir() and not entry.name.startswith(".")  # those are being written
        ]
    except OSError:
        return []


def _shown(value: object) -> str:
    """A text of a bundle as it may be drawn: whoever wrote it may have meant harm."""
    return "".join(c for c in value if c.isprintable())[:200] if isinstance(value, str) else ""


def _machine(raw: object) -> str:
    if not isinstance(raw, dict):
        return ""
    machine = cast("dict[str, Any]", raw)
    memory, cpus = machine.get("memory_mib"), machine.get("cpus")
    parts = [
        f"{memory} MiB" if isinstance(memory, int) else "",
        f"{cpus} cpu" if isinstance(cpus, int) else "",
        _shown(machine.get("accel")),
        _shown(machine.get("arch")),
        f"network {_shown(machine.get('network'))}" if machine.get("network") else "",
    ]
    return " · ".join(part for part in parts if part)


def _mount(raw: object) -> str:
    return _shown(cast("dict[str, Any]", raw).get("guest")) if isinstance(raw, dict) else ""


def _live_mounts(raw: object) -> str:
    """`HOST:GUEST:MODE`, quoted where a blank needs it."""
    import shlex

    items = cast("list[Any]", raw) if isinstance(raw, list) else []
    mounts = [cast("dict[str, Any]", item) for item in items if isinstance(item, dict)]
    spelled = [
        ":".join(_shown(each.get(key)) for key in ("host", "guest", "mode")) for each in mounts
    ]
    return " ".join(shlex.quote(each) for each in spelled)
