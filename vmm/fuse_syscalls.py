"""System calls Python does not offer: openat2, renameat2, getdents64, fallocate.

Each raises OSError with the kernel's errno. Names and numbers: openat2(2), rename(2),
getdents(2), fallocate(2).
"""

from __future__ import annotations

import ctypes
import os
from struct import Struct
from typing import Final, NamedTuple

_OPENAT2: Final = 437
"""The same on every architecture."""
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
_CONTAINED: Final = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.argtypes = [
    ctypes.c_long,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_void_p,
    ctypes.c_size_t,
]
_libc.syscall.restype = ctypes.c_long
_libc.renameat2.argtypes = [
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_uint,
]
_libc.getdents64.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
_libc.getdents64.restype = ctypes.c_ssize_t
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]

_OPEN_HOW = Struct("=QQQ")
_DIRENT = Struct("=QqHB")
_how_of_flags: dict[int, bytes] = {}


def _fail() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def open_beneath(directory_fd: int, path: bytes, flags: int) -> int:
    """A descriptor of `path` below a directory; no component may be a link or lead out.

    Raises:
        OSError: ENOSYS or EPERM where the call is missing or forbidden; EXDEV, ELOOP for an escape.
    """
    how = _how_of_flags.get(flags)
    if how is None:
        how = _how_of_flags[flags] = _OPEN_HOW.pack(flags | os.O_CLOEXEC, 0, _CONTAINED)
    fd = _libc.syscall(_OPENAT2, directory_fd, path, how, len(how))
    if fd < 0:
        raise _fail()
    return fd


def rename_at(old_fd: int, old: bytes, new_fd: int, new: bytes, flags: int) -> None:
    """renameat2: RENAME_NOREPLACE = 1, RENAME_EXCHANGE = 2."""
    if _libc.renameat2(old_fd, old, new_fd, new, flags) < 0:
        raise _fail()


def allocate(fd: int, mode: int, offset: int, length: int) -> None:
    """fallocate: reserve, punch or zero a range; offsets in bytes."""
    if _libc.fallocate(fd, mode, offset, length) < 0:
        raise _fail()


class DirectoryEntry(NamedTuple):
    """One record of a directory: `offset` is where the next one is found again."""

    inode: int
    offset: int
    kind: int
    name: bytes


def read_directory(fd: int, size: int) -> list[DirectoryEntry]:
    """The next records of an open directory, at most `size` bytes of them; [] at its end."""
    buffer = ctypes.create_string_buffer(size)
    got = _libc.getdents64(fd, buffer, size)
    if got < 0:
        raise _fail()
    data = buffer.raw[:got]
    entries: list[DirectoryEntry] = []
    position = 0
    while position < got:
        inode, offset, length, kind = _DIRENT.unpack_from(data, position)
        start = position + _DIRENT.size
        name = data[start : data.index(b"\0", start)]
        entries.append(DirectoryEntry(inode, offset, kind, name))
        position += length
    return entries
