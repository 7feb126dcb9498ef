"""The disk a VM boots from: which image it reads through its overlay, and how large it looks.

Nobody writes to the image: every VM has an overlay of its own. A larger size is the overlay's; the
guest's init grows the file system to it when it boots.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from machinen_runtime.assets import resolve_base_disk
from machinen_runtime.cached_image import OnPhase
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.host_refusals import pass_exhaustion
from machinen_runtime.oci_image import split_reference
from machinen_runtime.oci_store import INDEX_FILE, LAYOUT_FILE
from machinen_runtime.option_types import StrPath
from machinen_runtime.overlay_template import MAX_DISK_BYTES
from machinen_runtime.rootfs_image import ensure_rootfs_image

_EXT4_MAGIC_OFFSET = 1080
_EXT4_MAGIC = b"\x53\xef"
_SIZE_UNIT = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class RootDisk:
    """An ext4 image to read through, and the size in bytes the guest sees; None: the image's."""

    base: Path
    size_bytes: int | None = None


def resolve_image(image: StrPath | None, cwd: StrPath | None = None) -> Path | None:
    """`image` against `cwd` as an absolute path; None stays None.

    Raises:
        BootError: BOOT_IMAGE_NOT_FOUND.
    """
    if image is None:
        return None
    path = Path(cwd or ".", image).absolute()
    file, _ = split_reference(path)
    candidates = (file, file / LAYOUT_FILE, file / INDEX_FILE)
    if not any(os.path.isfile(each) for each in candidates):  # False for what can be no path, too
        message = f"there is no image at {path}; check the path"
        raise BootError(ErrorCode.BOOT_IMAGE_NOT_FOUND, message)
    return path


def prepare_root_disk(
    image: Path | None,
    *,
    root_disk: bool | StrPath | None = None,
    size_bytes: int | None = None,
    cwd: StrPath | None = None,
    on_phase: OnPhase | None = None,
) -> RootDisk:
    """Find or make the disk that the options `image`, `root_disk`, `root_disk_size_bytes` mean.

    Args:
        root_disk: a path: that ext4 image, taken as it is. False: the disk is only read. In both
            cases `size_bytes` does not matter.
        on_phase: told what a first use of `image` spends its milliseconds on.

    Raises:
        BootError: BOOT_IMAGE_NOT_FOUND (no such root disk), BOOT_OPTION_INVALID (it holds no
            ext4, or `size_bytes` is less than the image).
        ProvisionError: those of `ensure_rootfs_image` and `resolve_base_disk`.
    """
    if root_disk is not None and not isinstance(root_disk, bool):
        return RootDisk(base=_checked_ext4(Path(cwd or ".", root_disk).absolute()))
    base = resolve_base_disk() if image is None else ensure_rootfs_image(image, on_phase=on_phase)
    if root_disk is False:
        return RootDisk(base=base)
    return RootDisk(base=base, size_bytes=_checked_size(base, size_bytes))


def _checked_ext4(path: Path) -> Path:
    try:
        with path.open("rb") as file:
            file.seek(_EXT4_MAGIC_OFFSET)
            magic = file.read(len(_EXT4_MAGIC))
    except OSError as error:
        pass_exhaustion(error)
        message = f"the root disk {path} cannot be read: {error.strerror}; check the path"
        raise BootError(ErrorCode.BOOT_IMAGE_NOT_FOUND, message) from error
    if magic != _EXT4_MAGIC or path.stat().st_size % 512:
        message = f"{path} is no ext4 image: pass a raw disk without partitions, or a tarball"
        raise BootError(ErrorCode.BOOT_OPTION_INVALID, message)
    return path


def _checked_size(base: Path, size_bytes: int | None) -> int | None:
    if size_bytes is None:
        return None
    least = base.stat().st_size
    if not least <= size_bytes <= MAX_DISK_BYTES:
        message = (
            f"root_disk_size_bytes must be from {least}, which the image needs, to "
            f"{MAX_DISK_BYTES}, not {size_bytes}; leave it out for the image's own size"
        )
        raise BootError(ErrorCode.BOOT_OPTION_INVALID, message)
    return -(-size_bytes // _SIZE_UNIT) * _SIZE_UNIT
