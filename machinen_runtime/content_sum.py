"""Checksums of big files by content: the same whether their zeros are holes or written out.

`blake2b-256:<hex>`, where the digest is BLAKE2b over `u64 size` and, for each MiB that is not all
zeros, `u64 index, 32-byte BLAKE2b of the MiB`; little-endian. The pieces are hashed by threads. A
sum is remembered by device, inode, size and modification time, so a file is read once.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from machinen_runtime.file_age import seconds_unchanged
from machinen_runtime.paths import cache_root, ensure_private_dir, write_atomically
from machinen_runtime.regular_file import open_regular

ALGORITHM = "blake2b-256"
PIECE_BYTES = 1 << 20
_DIGEST_BYTES = 32
_MAX_THREADS = 4
_RACY_NS = 100_000_000
"""A file changed this recently may change again within the same tick of its clock."""
_AHEAD_NS = 10_000_000_000
"""So far ahead the clock comes soon, and such a file may change again, too; further, it was set."""
_MAX_UNUSED_S = 90 * 86400
_ZEROS = bytes(PIECE_BYTES)


def content_sum(path: Path) -> str:
    """The sum of a regular file; symbolic links are not followed.

    Raises:
        OSError: it cannot be read, or is no regular file (EINVAL, ELOOP).
    """
    with open_regular(path, follow=False) as file:
        return _sum_of(file.fileno())


def known_sum(path: Path) -> str:
    """As `content_sum`, but a file that was read before and has not changed is not read again."""
    with open_regular(path, follow=False) as file:
        descriptor = file.fileno()
        info = os.fstat(descriptor)
        note = _note_of(info)
        if (remembered := _remembered(note, info)) is not None:
            return remembered
        found = _sum_of(descriptor)
        if _stamp(os.fstat(descriptor)) == _stamp(info):
            _remember(note, info, found)
        return found


def boot_origin(kernel: Path, initrd: Path) -> dict[str, str]:
    """What a cold boot starts from, for the bundles taken of it: content of kernel and initramfs.

    The initramfs is named by its content. Empty if the kernel cannot be read: QEMU will say why.
    """
    try:
        return {"kernel": known_sum(kernel.resolve()), "initramfs": f"sha256:{initrd.stem}"}
    except OSError:
        return {}


def _sum_of(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    total = hashlib.blake2b(size.to_bytes(8, "little"), digest_size=_DIGEST_BYTES)

    def digest(index: int) -> bytes:
        piece = os.pread(descriptor, PIECE_BYTES, index * PIECE_BYTES)
        if piece == _ZEROS[: len(piece)]:
            return b""
        return hashlib.blake2b(piece, digest_size=_DIGEST_BYTES).digest()

    indexes = list(_pieces_with_data(descriptor, size))
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as threads:
        for index, piece_sum in zip(indexes, threads.map(digest, indexes), strict=True):
            if piece_sum:
                total.update(index.to_bytes(8, "little") + piece_sum)
    return f"{ALGORITHM}:{total.hexdigest()}"


def _pieces_with_data(descriptor: int, size: int) -> Generator[int]:
    """Indexes of the pieces that are not all hole, ascending."""
    position = 0
    while position < size:
        try:
            start = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a hole up to the end
                return
            raise
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        first = max(start // PIECE_BYTES, -(-position // PIECE_BYTES))
        last = (end - 1) // PIECE_BYTES
        yield from range(first, last + 1)
        position = (last + 1) * PIECE_BYTES


# -- remembered sums ------------------------------------------------------------------------------


def _stamp(info: os.stat_result) -> list[int]:
    return [info.st_size, info.st_mtime_ns]


def _note_of(info: os.stat_result) -> Path:
    return cache_root() / "sums" / f"{info.st_dev:x}-{info.st_ino:x}.json"


def _check_of(info: os.stat_result, found: object) -> str:
    """What a note says once more: a damaged one would refuse a snapshot that is whole."""
    text = f"{info.st_dev} {info.st_ino} {_stamp(info)} {found}"
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _remembered(note: Path, info: os.stat_result) -> str | None:
    try:
        known = json.loads(note.read_text())
        if known["stamp"] == _stamp(info) and known["check"] == _check_of(info, known["sum"]):
            return str(known["sum"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _remember(note: Path, info: os.stat_result, found: str) -> None:
    """Keep a sum for next time; a cache that cannot be written only costs time."""
    if -_AHEAD_NS < time.time_ns() - info.st_mtime_ns < _RACY_NS:
        return
    with suppress(OSError):
        ensure_private_dir(note.parent)
        stamp, check = _stamp(info), _check_of(info, found)
        write_atomically(note, json.dumps({"stamp": stamp, "sum": found, "check": check}))
        _remove_unused(note.parent)


def _remove_unused(directory: Path) -> None:
    for note in directory.iterdir():
        if seconds_unchanged(note) > _MAX_UNUSED_S:
            note.unlink(missing_ok=True)
