"""Guest RAM as a file: find the pages a VM changed, copy them out of QEMU, write the next image.

A page counts as changed if QEMU's map holds its own copy: anonymous memory that is present or
swapped. Pages still shared with the image the VM was started from are not; pages never touched are
not there. Sources: Documentation/admin-guide/mm/pagemap.rst for PAGEMAP_SCAN (Linux 6.7) and the
pagemap file.
"""

from __future__ import annotations

import array
import ctypes
import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vmm.disks import clone_into, data_extents

PAGE_BYTES = 4096
GAP_PAGES = 4
"""Runs this close are copied as one: a system call costs more than a few pages."""

_PAGEMAP_SCAN = 0xC0606610
_SCAN_ARG = struct.Struct("<12Q")
_REGIONS_AT_ONCE = 8192
_IS_WRITTEN, _IS_FILE, _IS_PRESENT, _IS_SWAPPED, _IS_PFNZERO = (
    1 << 1,
    1 << 2,
    1 << 3,
    1 << 4,
    1 << 5,
)
_PROTECT_MATCHING, _CHECK_TRACKED = 1 << 0, 1 << 1
"""PM_SCAN_WP_MATCHING; PM_SCAN_CHECK_WPASYNC: fail where nobody tracks."""
_BIT_PRESENT, _BIT_SWAPPED, _BIT_FILE = 1 << 63, 1 << 62, 1 << 61
_MADV_POPULATE_WRITE = 23  # madvise(2), Linux 5.14

Run = tuple[int, int]
"""(offset, size) in bytes from the start of guest RAM."""


@dataclass(frozen=True, slots=True)
class RamMap:
    """Where guest RAM lies in QEMU's address space, in bytes."""

    pid: int
    start: int
    size: int


def find_ram(pid: int, size_bytes: int, image_path: str | None) -> RamMap:
    """Locate guest RAM of QEMU `pid`.

    It is the map of exactly `size_bytes` of the image file, or, after a cold boot, of anonymous
    memory.

    Raises:
        ValueError: no such map, or more than one.
    """
    starts: list[int] = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        fields = line.split(maxsplit=5)
        start, end = (int(part, 16) for part in fields[0].split("-"))
        if end - start != size_bytes or not fields[1].startswith("rw"):
            continue
        named = len(fields) > 5 and fields[5].startswith("/")
        if named == (image_path is not None):
            starts.append(start)
    if len(starts) != 1:
        raise ValueError(f"{len(starts)} maps of {size_bytes} bytes in process {pid}, expected one")
    return RamMap(pid, starts[0], size_bytes)


def changed_runs(ram: RamMap) -> list[Run]:
    """The parts of guest RAM that QEMU holds its own copy of, in ascending order."""
    with open(f"/proc/{ram.pid}/pagemap", "rb", buffering=0) as pagemap:
        try:
            regions = _scan(pagemap.fileno(), ram)
        except OSError:  # before Linux 6.7
            regions = list(_read_pagemap(pagemap.fileno(), ram))
    return merge_runs(regions)


def merge_runs(runs: Iterable[Run], gap_bytes: int = GAP_PAGES * PAGE_BYTES) -> list[Run]:
    """Runs with ascending starts, those that overlap or lie close made one."""
    merged: list[Run] = []
    for offset, size in runs:
        if merged and offset - sum(merged[-1]) <= gap_bytes:
            start, end = merged[-1][0], max(sum(merged[-1]), offset + size)
            merged[-1] = (start, end - start)
        else:
            merged.append((offset, size))
    return merged


def scan_written(ram: RamMap, *, protect: bool) -> list[Run]:
    """The pages that are QEMU's own and were written since they were protected, or never were.

    `protect`: they are from now on, each in the moment it is found. For vmm/write_tracker.py.

    Raises:
        OSError: nobody tracks writes there.
    """
    with open(f"/proc/{ram.pid}/pagemap", "rb", buffering=0) as pagemap:
        flags = _CHECK_TRACKED | (_PROTECT_MATCHING if protect else 0)
        return merge_runs(_scan(pagemap.fileno(), ram, all_of=_IS_WRITTEN, flags=flags))


def _scan(descriptor: int, ram: RamMap, *, all_of: int = 0, flags: int = 0) -> list[Run]:
    """Ask the kernel for the pages that are QEMU's own."""
    regions = _scan_regions(
        *(descriptor, ram.start, ram.start + ram.size),
        none_of=_IS_FILE | _IS_PFNZERO,
        any_of=_IS_PRESENT | _IS_SWAPPED,
        all_of=all_of,
        flags=flags,
    )
    return [(start - ram.start, end - start) for start, end in regions]


def _scan_regions(
    descriptor: int,
    start: int,
    end: int,
    *,
    none_of: int,
    any_of: int,
    all_of: int = 0,
    flags: int = 0,
) -> list[tuple[int, int]]:
    """Address ranges whose pages have all of `all_of`, one of `any_of` and none of `none_of`,
    ascending.

    Struct pm_scan_arg in, struct page_region (u64 start, end, categories) out. Linux 6.18 stops
    after 512 regions or so, and says then that it walked less far than it told: going on from
    there would tell the last regions twice.
    """
    regions = array.array("Q", bytes(24 * _REGIONS_AT_ONCE))
    address, _ = regions.buffer_info()
    position = start
    found: list[tuple[int, int]] = []
    while position < end:
        argument = bytearray(
            _SCAN_ARG.pack(
                *(_SCAN_ARG.size, flags, position, end, 0, address, _REGIONS_AT_ONCE, 0),
                *(none_of, none_of | all_of),  # inverted, so: none of these; all of those
                *(any_of, _IS_PRESENT),  # any of these; what to tell us
            )
        )
        count = fcntl.ioctl(descriptor, _PAGEMAP_SCAN, argument)
        for index in range(0, 3 * count, 3):
            found.append((regions[index], regions[index + 1]))
        position = _SCAN_ARG.unpack(argument)[4]
        if count:
            position = max(position, found[-1][1])
    return found


def present_pages(ram: RamMap, extents: Iterable[tuple[int, int]]) -> int:
    """How many pages within `extents` (start, end offsets) QEMU has an entry for, file or own."""
    with open(f"/proc/{ram.pid}/pagemap", "rb", buffering=0) as pagemap:
        descriptor = pagemap.fileno()
        try:
            wanted = _IS_PRESENT | _IS_SWAPPED
            return (
                sum(
                    to - since
                    for start, end in extents
                    for since, to in _scan_regions(
                        descriptor, ram.start + start, ram.start + end, none_of=0, any_of=wanted
                    )
                )
                // PAGE_BYTES
            )
        except OSError:  # before Linux 6.7
            return sum(_count_present(descriptor, ram, *extent) for extent in extents)


def _count_present(descriptor: int, ram: RamMap, start: int, end: int) -> int:
    words = array.array("Q")
    first = (ram.start + start) // PAGE_BYTES
    words.frombytes(os.pread(descriptor, (end - start) // PAGE_BYTES * 8, first * 8))
    return sum(1 for word in words if word & (_BIT_PRESENT | _BIT_SWAPPED))


def _read_pagemap(descriptor: int, ram: RamMap) -> Iterable[Run]:
    words = array.array("Q")
    words.frombytes(os.pread(descriptor, ram.size // PAGE_BYTES * 8, ram.start // PAGE_BYTES * 8))
    wanted = _BIT_PRESENT | _BIT_SWAPPED
    for index, word in enumerate(words):
        if word & wanted and not word & _BIT_FILE:
            yield index * PAGE_BYTES, PAGE_BYTES


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
