"""An empty qcow2 overlay per virtual size, made once and copied for every layer of every VM.

One that was written to or torn is made again (cached_image.py).
Copying 200 KB takes a fraction of a millisecond where starting qemu-img takes 30.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

from machinen_runtime.cached_image import is_clean, publish, staging_dir
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.host_refusals import pass_exhaustion
from machinen_runtime.machines import confinement_wanted
from machinen_runtime.paths import cache_root, ensure_private_dir
from vmm.confined_tool import Confines, complaint_of, run_confined

MAX_DISK_BYTES = 16 << 40
"""ext4 with blocks of 4 KiB and 32-bit numbers; nobody means more."""


_QCOW2_HEAD = struct.Struct(">4sIQI4xQ40xQ")
"""magic, version, offset and length of the backing file's name, virtual size, features; QEMU's
docs/interop/qcow2.txt. Version 2, which we never write, has no features and may end earlier."""
_DATA_ELSEWHERE = 1 << 2


def ensure_overlay_template(base_disk: Path, size_bytes: int | None = None) -> Path:
    """An empty overlay of `size_bytes`, or as large as `base_disk`, from the cache.

    An overlay larger than what it lies on reads as zeros beyond it: that is how a disk grows.

    Raises:
        BootError: BOOT_IMAGE_NOT_FOUND if there is no base, BOOT_VMM_MISSING without qemu-img.
    """
    try:
        size = size_bytes or base_disk.stat().st_size
    except FileNotFoundError as error:
        message = f"the base disk {base_disk} is missing; run `machinen install`"
        raise BootError(ErrorCode.BOOT_IMAGE_NOT_FOUND, message) from error
    path = cache_root() / "overlays" / f"{size}.qcow2"
    if not is_clean(path):
        _create(path, size)
    return path


def overlay_size_bytes(overlay: Path) -> int:
    """The virtual size of a qcow2 file, from its header.

    Raises:
        BootError: BOOT_SNAPSHOT_INVALID if it is no qcow2 file, larger than a disk of ours, or
            names a file to read from: our layers name none, QEMU is told what they lie on.
    """
    try:
        with overlay.open("rb") as file:
            head = file.read(_QCOW2_HEAD.size)
            magic, version, named_at, named, size, features = _QCOW2_HEAD.unpack(head)
    except (OSError, struct.error) as error:
        pass_exhaustion(error)
        message = f"the disk layer {overlay} cannot be read: {error}"
        raise BootError(ErrorCode.BOOT_SNAPSHOT_INVALID, message) from error
    if magic != b"QFI\xfb" or version < 2 or not 0 < size <= MAX_DISK_BYTES or size % 512:
        message = f"{overlay} is no disk layer of a snapshot: take the snapshot again"
        raise BootError(ErrorCode.BOOT_SNAPSHOT_INVALID, message)
    # QEMU leaves the place of a name that has no length when it has merged layers.
    if (named_at and named) or (version > 2 and features & _DATA_ELSEWHERE):
        message = f"{overlay} wants to read another file: do not use this bundle, get it from"
        raise BootError(ErrorCode.BOOT_SNAPSHOT_INVALID, f"{message} somebody you trust")
    return int(size)


def _create(path: Path, size_bytes: int) -> None:
    qemu_img = shutil.which("qemu-img")
    if qemu_img is None:
        message = "qemu-img is missing; run `machinen doctor` to see which package has it"
        raise BootError(ErrorCode.BOOT_VMM_MISSING, message)
    ensure_private_dir(path.parent)
    with staging_dir(path.parent) as directory:
        new = directory / "new.qcow2"
        argv = [qemu_img, "create", "-q", "-f", "qcow2", str(new), str(size_bytes)]
        new.touch()  # so that qemu-img need not be let make files there
        try:
            run_confined(argv, Confines(wanted=confinement_wanted(), writes=[new]))
        except subprocess.CalledProcessError as error:
            message = f"qemu-img could not make an empty disk: {complaint_of(error)}"
            raise BootError(ErrorCode.BOOT_VMM_MISSING, message) from error
        with new.open("rb") as file:
            os.fsync(file.fileno())
        publish(new, path)
