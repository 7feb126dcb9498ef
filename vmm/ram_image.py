"""Guest RAM as a file: copy the pages a VM changed out of QEMU, write the next image."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol

from vmm.disks import clone_into, data_extents
from vmm.ram_pages import RamMap, Run, changed_runs

_MADV_POPULATE_WRITE = 23  # madvise(2), Linux 5.14


class Tracker(Protocol):
    """Who knows what was written since the last image (vmm/write_tracker.py)."""

    def take_base(self) -> int | None:
        """The last image, open, to build on and to close; None: the one the VM was started from."""
        ...

    def protect(self, ram: RamMap) -> list[Run] | None:
        """What was written since; None if nobody knows."""
        ...

    def written(self, ram: RamMap) -> list[Run]:
        """What was written since `protect`."""
        ...

    def keep(self, image: int) -> None:
        """Build the next image on this one."""
        ...


class ImageWriter:
    """The next RAM image, mapped: pages go from QEMU's memory straight into the file's page cache.

    `prepare` does while the VM runs what would take long while it is paused. Where writes are
    tracked that is nearly everything: it copies the last image and what was written since, and
    `take` what is written meanwhile. Else it makes the file, copies the image the VM was started
    from, and touches the pages that `take` will write.
    """

    def __init__(
        self, path: str, size_bytes: int, base_fd: int | None, tracker: Tracker | None = None
    ) -> None:
        """The image at `path` (which must not exist) of a VM started from the image `base_fd`."""
        self._size = size_bytes
        self._base_fd = base_fd
        self._tracker = tracker
        self._tracked = False
        self._copied = 0
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._map: mmap.mmap | None = None

    def prepare(self, ram: RamMap) -> None:
        """Make room for every page that is changed by now, and copy what can be copied."""
        last = self._tracker.take_base() if self._tracker else None
        try:
            written = self._tracker.protect(ram) if self._tracker else None
            self._tracked = written is not None
            if written is None or last is None:  # the first image takes all there is
                written = changed_runs(ram)
            self._begin_with(self._base_fd if last is None else last)
        finally:
            if last is not None:
                os.close(last)
        self._map = mmap.mmap(self._descriptor, self._size, flags=mmap.MAP_SHARED)
        for offset, size in written:
            os.posix_fallocate(self._descriptor, offset, size)  # a full disk shows now, not later
            with suppress(OSError):  # before Linux 5.14 the copy itself touches them
                self._map.madvise(_MADV_POPULATE_WRITE, offset, size)
        if self._tracked:
            self._copy(ram, written)

    def _begin_with(self, base: int | None) -> None:
        if base is None:
            os.ftruncate(self._descriptor, self._size)
        else:
            clone_into(base, self._descriptor)

    def take(self, ram: RamMap) -> int:
        """Copy what is still missing; the VM must be paused. Returns the bytes copied in all."""
        if self._map is None:
            raise ValueError("take() before prepare()")
        if self._tracked and self._tracker:
            self._copy(ram, self._tracker.written(ram))
        else:
            self._copy(ram, changed_runs(ram))
        return self._copied

    def keep(self) -> None:
        """All of it is written: the next image may be built on this one."""
        if self._tracked and self._tracker:
            self._tracker.keep(self._descriptor)

    def _copy(self, ram: RamMap, runs: Iterable[Run]) -> None:
        assert self._map is not None
        with memoryview(self._map) as room:
            for offset, size in runs:
                with room[offset : offset + size] as target:
                    read_memory(ram.pid, ram.start + offset, target)
                self._copied += size

    def close(self) -> None:
        """Let go of the file; it stays."""
        if self._map is not None:
            self._map.close()
        os.close(self._descriptor)


def image_data_bytes(descriptor: int) -> int:
    """How much of an image is not a hole: what its guest could still fault in."""
    size = os.fstat(descriptor).st_size
    return sum(end - start for start, end in data_extents(descriptor, size))


class _IoVec(ctypes.Structure):
    """struct iovec, process_vm_readv(2)."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


_libc = ctypes.CDLL(None, use_errno=True)


def read_memory(pid: int, address: int, target: memoryview) -> None:
    """Fill `target` from another process' memory: 1.5 times as fast as through /proc/<pid>/mem.

    Raises:
        OSError: the process is gone, or `target` cannot be written (its disk is full).
    """
    first = ctypes.c_char.from_buffer(target)
    _move(_libc.process_vm_readv, "read", pid, address, ctypes.addressof(first), len(target))


def write_memory(pid: int, address: int, source: mmap.mmap, offset: int, size: int) -> None:
    """Copy a part of a file, mapped with ACCESS_COPY, into another process' memory.

    Raises:
        OSError: the process is gone.
    """
    first = ctypes.c_char.from_buffer(source, offset)
    _move(_libc.process_vm_writev, "written", pid, address, ctypes.addressof(first), size)


def _move(
    call: Callable[..., int], done_word: str, pid: int, address: int, ours: int, size: int
) -> None:
    """Move `size` bytes between `address` in the process and `ours` in this one: one may not do."""
    done = 0
    while done < size:
        local = _IoVec(ours + done, size - done)
        remote = _IoVec(address + done, size - done)
        moved = call(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
        if moved <= 0:
            error = ctypes.get_errno()
            raise OSError(error, f"guest RAM cannot be {done_word}: {os.strerror(error)}")
        done += moved
