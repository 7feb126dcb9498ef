"""Is a bundle what its meta.json says, byte for byte, and is there a base disk for it?

A bundle that is kept is checked before each restore. Files that were checked before and have kept
device, inode, size and modification time are not read again (machinen_runtime/content_sum.py).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from machinen_runtime.base_disks import find_base_disk, missing_base_disk
from machinen_runtime.bundle import (
    IMG_DIR,
    INVENTORY_FILE,
    META_FILE,
    SnapshotMeta,
    read_bundle,
)
from machinen_runtime.content_sum import content_sum, known_sum
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.host_refusals import pass_exhaustion


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleReport:
    """What `check_bundle` found. Milliseconds."""

    meta: SnapshotMeta
    base_disk: Path | None
    """The byte-exact base disk on this host; None if there is none."""
    elapsed_ms: float


def open_bundle(bundle: Path, *, trusted: bool = False) -> tuple[SnapshotMeta, Path | None]:
    """The meta of a whole bundle, and its base disk on this host.

    `trusted`: this process wrote it a moment ago, for a fork. The base disk may only be missing for
    engine criu, which can do with another one.

    Raises:
        BootError: BOOT_SNAPSHOT_NOT_FOUND, BOOT_SNAPSHOT_INVALID, BOOT_IMAGE_NOT_FOUND.
    """
    meta = read_bundle(bundle)
    if trusted:
        return meta, Path(meta.base_disk)
    verify_sums(bundle, meta)
    base = find_base_disk(Path(meta.base_disk), meta.base_disk_bytes, meta.base_disk_sum)
    if base is None and meta.engine == "vmstate":
        recorded = Path(meta.base_disk)
        raise missing_base_disk(
            bundle, recorded, meta.base_disk_bytes, meta.base_disk_sum, meta.source_image
        )
    return meta, base


def resolve_images(source: Path) -> Path:
    """CRIU's images to go on with: the tar `source`, or the directory they lie in.

    A bundle, which is known by its `meta.json` or its `img/`, is checked as for a restore. Images
    that are no part of one have no checksums to compare.

    Raises:
        BootError: BOOT_SNAPSHOT_NOT_FOUND, BOOT_SNAPSHOT_INVALID.
    """
    if not source.is_dir():
        return source
    if (source / META_FILE).exists() or (source / IMG_DIR).is_dir():
        meta = read_bundle(source)
        if meta.engine != "criu":
            raise _invalid(source, f"it is of engine {meta.engine}; pass it to restore() instead")
        verify_sums(source, meta)
        return source / IMG_DIR
    if not (source / INVENTORY_FILE).is_file():
        raise _invalid(source, f"there are no images of CRIU in it: {INVENTORY_FILE} is missing")
    return source


def check_bundle(bundle: Path) -> BundleReport:
    """Read every byte of a bundle, whatever is remembered of it, and look for its base disk.

    Raises:
        BootError: BOOT_SNAPSHOT_NOT_FOUND, BOOT_SNAPSHOT_INVALID.
    """
    started = time.monotonic()
    meta = read_bundle(bundle)
    verify_sums(bundle, meta, content_sum)
    base = find_base_disk(Path(meta.base_disk), meta.base_disk_bytes, meta.base_disk_sum)
    elapsed_ms = (time.monotonic() - started) * 1000
    return BundleReport(meta=meta, base_disk=base, elapsed_ms=elapsed_ms)


def verify_sums(
    bundle: Path, meta: SnapshotMeta, sum_of: Callable[[Path], str] = known_sum
) -> None:
    """BOOT_SNAPSHOT_INVALID unless every file has the contents that were recorded."""
    if not meta.sums or not meta.base_disk_sum:
        raise _invalid(bundle, f"{META_FILE} has no checksums; only a fork's own bundle may")
    for name, expected in meta.sums.items():
        try:
            found = sum_of(bundle / name)
        except OSError as error:
            pass_exhaustion(error)
            raise _invalid(bundle, f"{name} cannot be read: {error.strerror}") from error
        if found != expected:
            raise _invalid(bundle, f"{name} was changed: {found} instead of {expected}")


def with_sums(bundle: Path, meta: SnapshotMeta) -> SnapshotMeta:
    """The meta with checksums of every file and of the base disk."""
    return dataclasses.replace(
        meta,
        sums={name: known_sum(bundle / name) for name in meta.files},
        base_disk_sum=known_sum(Path(meta.base_disk)),
    )


def _invalid(bundle: Path, what: str) -> BootError:
    message = f"the snapshot in {bundle} cannot be trusted: {what}"
    return BootError(ErrorCode.BOOT_SNAPSHOT_INVALID, message)
