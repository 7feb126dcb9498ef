"""The archive the kernel unpacks as its initramfs: cpio, format "newc".

Layout from the kernel's Documentation/driver-api/early-userspace/buffer-format.rst: per entry the
magic `070701`, thirteen fields of eight hexadecimal digits, the name with its NUL padded to four
bytes, the data padded to four bytes. Everything belongs to root and carries time 0, so equal input
gives equal bytes.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True, kw_only=True)
class CpioEntry:
    """One file, directory or device node. `name` has no leading slash."""

    name: str
    mode: int
    """File type and permissions, as in stat(2)."""
    data: bytes = b""
    device: tuple[int, int] = (0, 0)
    """Major and minor number of a device node."""

    def __post_init__(self) -> None:
        if not self.name or self.name.startswith("/") or "\0" in self.name:
            raise ValueError(f"not a name for an archive entry: {self.name!r}")
        if len(self.data) >= 1 << 32:
            raise ValueError(f"{self.name}: newc holds files below 4 GiB only")


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
    archive = bytearray()
    for inode, entry in enumerate(entries, start=1):
        archive += _header(entry, inode) + entry.name.encode() + b"\0"
        archive += _padding(len(archive), 4)
        archive += entry.data
        archive += _padding(len(archive), 4)
    archive += _header(CpioEntry(name=TRAILER, mode=0), 0) + TRAILER.encode() + b"\0"
    archive += _padding(len(archive), 512)
    return bytes(archive)


def _header(entry: CpioEntry, inode: int) -> bytes:
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    name_size = len(entry.name.encode()) + 1
    fields = (
        inode,
        entry.mode,
        0,  # uid
        0,  # gid
        links,
        0,  # mtime
        len(entry.data),
        0,  # major and minor of the device the file came from
        0,
        *entry.device,
        name_size,
        0,  # checksum: newc has none
    )
    return b"070701" + b"".join(b"%08X" % field for field in fields)


def _padding(length: int, alignment: int) -> bytes:
    return bytes(-length % alignment)
