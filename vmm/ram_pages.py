"""Which pages of guest RAM a VM changed: the kernel tells, by QEMU's page tables.

A page counts as changed if QEMU's map holds its own copy: anonymous memory that is present or
swapped. Pages still shared with the image the VM was started from are not; pages never touched are
not there. Sources: Documentation/admin-guide/mm/pagemap.rst for PAGEMAP_SCAN (Linux 6.7) and the
pagemap file.
"""

from __future__ import annotations

import array
import fcntl
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PAGE_BYTES = 4096
GAP_PAGES = 4
"""Runs this close are copied as one: a system call costs more than a few pages."""

_PAGEMAP_SCAN = 0xC0606610
_SCAN_ARG = struct.Struct("<12Q")
_REGIONS_AT_ONCE = 8192
_ASK_BYTES = 1 << 20
"""To look through this much for pages of QEMU's own costs no more than a system call."""
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

    Asked for nothing but protection, the kernel reads page tables alone: 0.3 ms per GiB. To tell
    whose a page is it looks the page up, 6 ms per GiB, so only where the first answer says so. It
    says so of the image's pages too, and of none: those are protected with the others.

    Raises:
        OSError: nobody tracks writes there.
    """
    flags = _CHECK_TRACKED | (_PROTECT_MATCHING if protect else 0)
    found: list[Run] = []
    with open(f"/proc/{ram.pid}/pagemap", "rb", buffering=0) as pagemap:
        descriptor = pagemap.fileno()
        for offset, size in _unprotected(descriptor, ram):
            start = ram.start + offset
            part = RamMap(ram.pid, start, size)
            own = _scan(descriptor, part, all_of=_IS_WRITTEN, flags=flags)
            found += [(offset + at, length) for at, length in own]
            if protect:
                # What becomes QEMU's own meanwhile is neither, and stays as it is.
                _scan_regions(
                    *(descriptor, start, start + size),
                    any_of=_IS_FILE | _IS_PFNZERO,
                    all_of=_IS_WRITTEN,
                    flags=flags,
                )
    return merge_runs(found)


def _unprotected(descriptor: int, ram: RamMap) -> list[Run]:
    """All that was written since it was protected, and whatever never was, in large runs.

    In the kernel's words this asks for one category and for no other, which is what it does fast
    (pagemap_scan_pmd_entry in fs/proc/task_mmu.c).
    """
    regions = _scan_regions(
        *(descriptor, ram.start, ram.start + ram.size),
        all_of=_IS_WRITTEN,
        tell=_IS_WRITTEN,
        flags=_CHECK_TRACKED,
    )
    return merge_runs(((start - ram.start, end - start) for start, end in regions), _ASK_BYTES)


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
    none_of: int = 0,
    any_of: int = 0,
    all_of: int = 0,
    tell: int = _IS_PRESENT,
    flags: int = 0,
) -> list[tuple[int, int]]:
    """Address ranges whose pages have all of `all_of`, one of `any_of` and none of `none_of`,
    ascending; runs of one kind in `tell` are one range.

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
                *(any_of, tell),  # any of these, if there are; what to tell us
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
                        descriptor, ram.start + start, ram.start + end, any_of=wanted
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
