"""Bundles on disk: which there are, what they say of themselves, whether they can be restored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from machinen_runtime.shelf import KeptSnapshot, directories, kept_snapshot, read_meta
from machinen_runtime.shelf import shown_text as _shown
from machinen_tui.gateway import SnapshotInfo


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
    kept, meta = kept_snapshot(path), read_meta(path)
    return _info(kept, meta) if kept is not None and meta is not None else None


def _info(kept: KeptSnapshot, meta: Mapping[str, Any]) -> SnapshotInfo:
    return SnapshotInfo(
        path=kept.path,
        name=kept.name,
        taken_at_ms=kept.taken_at_ms,
        source_pid=kept.source_pid,
        source_started_at=kept.source_started_at,
        engine=kept.engine,
        machine=_machine(meta.get("machine")),
        qemu_version=_shown(meta.get("qemuVersion")),
        image=_shown(meta.get("sourceImage")),
        mount=_mount(meta.get("mountDisk")),
        live_mounts=_live_mounts(meta.get("liveMounts")),
        ancestry=kept.ancestry,
        notes=kept.notes,
    )


def check_bundle(path: Path, *, read_all: bool = False) -> None:
    """Raise MachinenError if the bundle cannot be restored here: torn, edited, a disk missing.

    `read_all`: read every byte, also of files whose checksums are remembered.
    """
    from machinen_runtime import bundle_check

    if read_all:
        bundle_check.check_bundle(path)
    bundle_check.open_bundle(path)


def _by_age(infos: Iterable[SnapshotInfo]) -> list[SnapshotInfo]:
    return sorted(infos, key=lambda info: info.taken_at_ms)


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
