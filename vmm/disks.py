"""Disk layers of one VM: overlays made by copying an empty one, layers kept by linking.

A layer is frozen as soon as something lies on top of it; frozen files are shared between VMs by
hard link, so a VM or a bundle keeps what it needs whatever happens to the others.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from vmm.requests import MOUNT_LOWER_FILE, MOUNT_UPPER_FILE
from vmm.spec import MountDiskSpec

ROOT_STEM, MOUNT_STEM = "disk", "mount"
"""What the files of the two chains are called, before their number."""
OWN_DISKS = "own"
"""Below a VM's state directory: all that its QEMU may write to."""
FICLONE = 0x40049409
"""ioctl_ficlone(2): share the blocks of another file."""


@dataclass(frozen=True, slots=True)
class MountFiles:
    """The files behind the two disks of a `mount`: the squashfs, and the upper's layers."""

    lower: str
    layers: list[str]


def own_disks_path(state_dir: str) -> str:
    """The directory with what this VM's QEMU writes."""
    return os.path.join(state_dir, OWN_DISKS)


def prepare_chain(
    base: str, layers: list[str], template: str, state_dir: str, stem: str
) -> list[str]:
    """Link frozen `layers` to `<stem>-<n>.qcow2` and put an empty overlay on top.

    All files of the chain, the raw `base` first. The overlay lies in a directory of its own: what
    is frozen is other VMs' too, and QEMU must not be able to write to it.
    """
    chain = [base]
    for index, source in enumerate(layers, start=1):
        chain.append(layer_path(os.path.join(state_dir, stem), index))
        link_layer(source, chain[-1])
    own = own_disks_path(state_dir)
    os.makedirs(own, mode=0o700, exist_ok=True)
    chain.append(layer_path(os.path.join(own, stem), len(chain)))
    create_overlay(template, chain[-1])
    return chain


def prepare_mount(spec: MountDiskSpec, state_dir: str) -> MountFiles:
    """The mount's files below `state_dir`, where nobody else removes them."""
    lower, base = (os.path.join(state_dir, name) for name in (MOUNT_LOWER_FILE, MOUNT_UPPER_FILE))
    link_layer(spec.lower, lower)
    link_layer(spec.base, base)
    template = spec.overlay_template
    return MountFiles(lower, prepare_chain(base, spec.layers, template, state_dir, MOUNT_STEM))


def layer_path(stem: str, index: int) -> str:
    """The file of layer `index`; layer 0, the base, lies elsewhere."""
    return f"{stem}-{index}.qcow2"


def create_overlay(template: str, path: str) -> None:
    """Copy the empty overlay `template` to `path`, which must not exist."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as new, open(template, "rb") as empty:
        shutil.copyfileobj(empty, new)


def link_layer(source: str, target: str) -> None:
    """Make the frozen file `source` also reachable as `target`.

    Hard link, else reflink, else copy.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        copy_sparse(source, target)


def copy_sparse(source: str, target: str) -> None:
    """Copy a file, sharing blocks where the file system can and keeping holes where it cannot."""
    with open(source, "rb") as old, open(target, "xb") as new:
        os.fchmod(new.fileno(), 0o600)
        clone_into(old.fileno(), new.fileno())


def clone_into(source_fd: int, target_fd: int) -> None:
    """Give the empty file `target_fd` the size and contents of `source_fd`."""
    try:
        fcntl.ioctl(target_fd, FICLONE, source_fd)
        return
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY):
            raise
    size = os.fstat(source_fd).st_size
    os.ftruncate(target_fd, size)
    for start, end in data_extents(source_fd, size):
        _copy_range(source_fd, target_fd, start, end)


def data_extents(descriptor: int, size: int) -> list[tuple[int, int]]:
    """The parts of a sparse file that hold data, as (start, end) offsets."""
    extents: list[tuple[int, int]] = []
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                break
            raise
        position = os.lseek(descriptor, start, os.SEEK_HOLE)
        extents.append((start, position))
    return extents


def _copy_range(source_fd: int, target_fd: int, start: int, end: int) -> None:
    while start < end:
        try:
            copied = os.copy_file_range(source_fd, target_fd, end - start, start, start)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                raise
            copied = 0
        if copied == 0:  # this pair of file systems cannot: through our memory then
            copied = os.pwrite(
                target_fd, os.pread(source_fd, min(end - start, 1 << 20), start), start
            )
            if copied == 0:
                raise OSError(errno.EIO, "the file shrank while it was copied")
        start += copied


def remove_files(*paths: str) -> None:
    """Remove files that may or may not be there."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
