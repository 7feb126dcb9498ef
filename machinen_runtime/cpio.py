"""The archive the kernel unpacks as its initramfs: cpio, format "newc".

Layout from the kernel's Documentation/driver-api/early-userspace/buffer-format.rst: per entry the
magic `070701`, thirteen fields of eight hexadecimal digits, the name with its NUL padded to four
bytes, the data padded to four bytes. Hard links share an inode; the data is with the last of them.
Equal input gives equal bytes, those of `cpio -o -H newc --reproducible` for an equal tree.
"""

from __future__ import annotations

import io
import os
import stat
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import IO

TRAILER = "TRAILER!!!"
BLOCK_BYTES = 512
MAX_DATA_BYTES = 1 << 32
COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileSlice:
    """The data of an entry as a part of a file: read when the archive is written."""

    path: str
    offset: int = 0
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CpioEntry:
    """One file, directory, link or device node. `name` has no leading slash."""

    name: str
    mode: int
    """File type and permissions, as in stat(2)."""
    data: bytes | FileSlice = b""
    """Contents of a file, or target of a symbolic link."""
    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device node."""
    uid: int = 0
    gid: int = 0
    link_key: Hashable = None
    """Entries with equal keys are names of one file. None: it has one name."""

    def __post_init__(self) -> None:
        if not self.name or self.name.startswith("/") or "\0" in self.name:
            raise ValueError(f"not a name for an archive entry: {self.name!r}")
        if self.size >= MAX_DATA_BYTES:
            raise ValueError(f"{self.name}: newc holds files below 4 GiB only")

    @property
    def size(self) -> int:
        """Bytes of data."""
        return self.data.size if isinstance(self.data, FileSlice) else len(self.data)


def directory(name: str, permissions: int = 0o755) -> CpioEntry:
    """A directory."""
    return CpioEntry(name=name, mode=stat.S_IFDIR | permissions)


def regular_file(name: str, data: bytes, permissions: int = 0o644) -> CpioEntry:
    """A file with its contents."""
    return CpioEntry(name=name, mode=stat.S_IFREG | permissions, data=data)


def character_device(name: str, major: int, minor: int, permissions: int = 0o600) -> CpioEntry:
    """A character device node."""
    return CpioEntry(name=name, mode=stat.S_IFCHR | permissions, device=(major, minor))


def build_cpio(entries: Iterable[CpioEntry]) -> bytes:
    """The whole archive, trailer included, padded to 512 bytes as cpio(1) does."""
    archive = io.BytesIO()
    write_cpio(entries, archive)
    return archive.getvalue()


def write_cpio(entries: Iterable[CpioEntry], archive: IO[bytes]) -> int:
    """Write the whole archive to a file and return its size in bytes.

    Raises:
        ValueError: a file became shorter while it was read, or the data does not fit the format.
    """
    written = 0
    for header, entry in _numbered(list(entries)):
        written += _write(archive, header, written)
        written += _copy(entry, archive)
        written += _pad(archive, written, 4)
    written += _write(archive, _trailer(), written)
    return written + _pad(archive, written, BLOCK_BYTES)


def _numbered(entries: list[CpioEntry]) -> Iterator[tuple[bytes, CpioEntry]]:
    """Headers and entries in the order cpio(1) writes them.

    Names of one file are held back until the last is seen, then come newest first, and only the
    last has data.
    """
    names = Counter(entry.link_key for entry in entries if entry.link_key is not None)
    below = Counter(entry.name.rpartition("/")[0] for entry in entries if _is_directory(entry))
    inodes: dict[Hashable, int] = {}
    held: dict[Hashable, list[CpioEntry]] = {}
    inode_count = 0
    for entry in entries:
        inode = inodes.get(entry.link_key) if entry.link_key is not None else None
        if inode is None:
            inode = inodes[entry.link_key] = inode_count  # from 0, as --reproducible numbers
            inode_count += 1
        links = 2 + below[entry.name] if _is_directory(entry) else names.get(entry.link_key, 1)
        if not _is_directory(entry) and links > 1:
            group = held.setdefault(entry.link_key, [])
            if len(group) + 1 < links:
                group.append(entry)
                continue
            for each in reversed(group):
                empty = replace(each, data=b"")
                yield _header(empty, inode, links), empty
        yield _header(entry, inode, links), entry


def _is_directory(entry: CpioEntry) -> bool:
    return stat.S_ISDIR(entry.mode)


def _header(entry: CpioEntry, inode: int, links: int) -> bytes:
    name = os.fsencode(entry.name) + b"\0"
    fields = (
        inode,
        entry.mode,
        entry.uid,
        entry.gid,
        links,
        0,  # mtime
        entry.size,
        0,  # major and minor of the device the file came from
        0,
        *entry.device,
        len(name),
        0,  # checksum: newc has none
    )
    return b"070701" + b"".join(b"%08X" % field for field in fields) + name


def _trailer() -> bytes:
    return _header(CpioEntry(name=TRAILER, mode=0), 0, 1)


def _copy(entry: CpioEntry, archive: IO[bytes]) -> int:
    if isinstance(entry.data, bytes):
        archive.write(entry.data)
        return len(entry.data)
    left = entry.data.size
    with open(entry.data.path, "rb") as source:
        source.seek(entry.data.offset)
        while left:
            chunk = source.read(min(left, COPY_BYTES))
            if not chunk:
                raise ValueError(f"{entry.data.path} became shorter while it was packed")
            archive.write(chunk)
            left -= len(chunk)
    return entry.data.size


def _write(archive: IO[bytes], header: bytes, position: int) -> int:
    archive.write(header)
    return len(header) + _pad(archive, position + len(header), 4)


def _pad(archive: IO[bytes], position: int, alignment: int) -> int:
    padding = -position % alignment
    archive.write(bytes(padding))
    return padding
