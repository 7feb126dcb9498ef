"""Guest RAM as a file: find the pages a VM changed, copy them out of QEMU, write the next image.

A page counts as changed if QEMU's map holds its own copy: anonymous memory that is present or
swapped. Pages still shared with the image the VM was started from are not; pages never touched are
not there. Sources: Documentation/admin-guide/mm/pagemap.rst for PAGEMAP_SCAN (Linux 6.7) and the
pagemap file.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vmm.disks import clone_into, data_extents

PAGE_BYTES = 4096
GAP_PAGES = 4
"""Runs this close are copied as one: a system call costs more than a few pages."""

_PAGEMAP_SCAN = 0xC0606610
_SCAN_ARG = struct.Struct("<12Q")
_REGIONS_AT_ONCE = 8192
_IS_FILE, _IS_PRESENT, _IS_SWAPPED, _IS_PFNZERO = 1 << 2, 1 << 3, 1 << 4, 1 << 5
_BIT_PRESENT, _BIT_SWAPPED, _BIT_FILE = 1 << 63, 1 << 62, 1 << 61
_MADV_POPULATE_WRITE = 23  # madvise(2), Linux 5.14
_ZERO_PAGE = bytes(PAGE_BYTES)
_ZERO_BLOCK = bytes(16 * PAGE_BYTES)

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
    """Ascending runs with small gaps closed."""
    merged: list[Run] = []
    for offset, size in runs:
        if merged and offset - sum(merged[-1]) <= gap_bytes:
            merged[-1] = (merged[-1][0], offset + size - merged[-1][0])
        else:
            merged.append((offset, size))
    return merged


def _scan(descriptor: int, ram: RamMap) -> list[Run]:
    """Ask the kernel.

    Struct pm_scan_arg in, struct page_region (u64 start, end, categories) out.
    """
    regions = array.array("Q", bytes(24 * _REGIONS_AT_ONCE))
    address, _ = regions.buffer_info()
    position, end = ram.start, ram.start + ram.size
    found: list[Run] = []
    while position < end:
        argument = bytearray(
            _SCAN_ARG.pack(
                *(_SCAN_ARG.size, 0, position, end, 0, address, _REGIONS_AT_ONCE, 0),
                *(_IS_FILE | _IS_PFNZERO, _IS_FILE | _IS_PFNZERO),  # inverted, so: none of these
                *(_IS_PRESENT | _IS_SWAPPED, _IS_PRESENT),  # any of these; what to tell us
            )
        )
        count = fcntl.ioctl(descriptor, _PAGEMAP_SCAN, argument)
        for index in range(0, 3 * count, 3):
            found.append((regions[index] - ram.start, regions[index + 1] - regions[index]))
        position = _SCAN_ARG.unpack(argument)[4]
    return found


def _read_pagemap(descriptor: int, ram: RamMap) -> Iterable[Run]:
    words = array.array("Q")
    words.frombytes(os.pread(descriptor, ram.size // PAGE_BYTES * 8, ram.start // PAGE_BYTES * 8))
    wanted = _BIT_PRESENT | _BIT_SWAPPED
    for index, word in enumerate(words):
        if word & wanted and not word & _BIT_FILE:
            yield index * PAGE_BYTES, PAGE_BYTES


class PageCopy:
    """Pages copied out of a paused QEMU, held until they are written to the next image."""

    def __init__(self, expected_bytes: int) -> None:
        """Reserve and touch room for about `expected_bytes` while the VM still runs."""
        self.runs: list[Run] = []
        self._memory = _populated(expected_bytes)

    def take(self, ram: RamMap) -> int:
        """Copy every changed page; the VM must be paused. Returns the bytes copied."""
        self.runs = changed_runs(ram)
        total = sum(size for _, size in self.runs)
        if len(self._memory) < total:
            self._memory.close()
            self._memory = _populated(total)
        room = memoryview(self._memory)
        position = 0
        descriptor = os.open(f"/proc/{ram.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
        try:
            for offset, size in self.runs:
                _read_fully(descriptor, room[position : position + size], ram.start + offset)
                position += size
        finally:
            os.close(descriptor)
            room.release()
        return total

    def write_image(self, path: str, size_bytes: int, base_fd: int | None) -> None:
        """Write the image.

        What `base_fd` holds, overlaid with the copied pages. Fails if it exists.
        """
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            if base_fd is None:
                os.ftruncate(descriptor, size_bytes)
            else:
                clone_into(base_fd, descriptor)
            self._write_runs(descriptor, keep_zeros=base_fd is not None)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()

    def _write_runs(self, descriptor: int, *, keep_zeros: bool) -> None:
        position = 0
        for offset, size in self.runs:
            if keep_zeros:
                _write_fully(descriptor, self._memory, position, size, offset)
            else:
                for start, length in _nonzero_parts(self._memory, position, size):
                    _write_fully(descriptor, self._memory, start, length, offset + start - position)
            position += size


def image_data_bytes(descriptor: int) -> int:
    """How much of an image is not a hole: what its guest could still fault in."""
    size = os.fstat(descriptor).st_size
    return sum(end - start for start, end in data_extents(descriptor, size))


def _populated(size_bytes: int) -> mmap.mmap:
    """Anonymous memory whose pages are there already, huge ones where that is possible."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, max(size_bytes, PAGE_BYTES), flags=flags)
    for advice in (mmap.MADV_HUGEPAGE, _MADV_POPULATE_WRITE):
        with suppress(OSError):  # a kernel without one of them is slower, nothing else
            memory.madvise(advice)
    return memory


def _read_fully(descriptor: int, room: memoryview, address: int) -> None:
    done = 0
    while done < len(room):
        got = os.preadv(descriptor, [room[done:]], address + done)
        if got == 0:
            raise OSError("guest RAM ended early")
        done += got


def _write_fully(descriptor: int, memory: mmap.mmap, start: int, size: int, offset: int) -> None:
    with memoryview(memory) as view:
        done = 0
        while done < size:
            done += os.pwrite(descriptor, view[start + done : start + size], offset + done)


def _nonzero_parts(memory: mmap.mmap, start: int, size: int) -> Iterable[Run]:
    """Runs of pages that are not all zero: a huge page brings many that are."""
    block, pages = len(_ZERO_BLOCK), PAGE_BYTES
    keep: Callable[[int], bool] = lambda at: memory[at : at + pages] != _ZERO_PAGE  # noqa: E731
    begun: int | None = None
    position, end = start, start + size
    while position < end:
        if (
            begun is None
            and end - position >= block
            and memory[position : position + block] == _ZERO_BLOCK
        ):
            position += block
            continue
        if keep(position):
            begun = position if begun is None else begun
        elif begun is not None:
            yield begun, position - begun
            begun = None
        position += pages
    if begun is not None:
        yield begun, end - begun
