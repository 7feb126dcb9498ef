"""What a guest's agent is told beside the answers, so that it need not ask for what it asks next.

A new file costs the guest's kernel six requests, and the way to the host and back a millisecond or
two under emulation. After a change the agent hears what the directory is like now; of a directory
in which names are looked for in vain, which names it has; of a new file, that it has no
capabilities. It answers from that (guest/fuse_hints.c) for as long as the guest's kernel would
believe an answer of ours, so nothing of the host is seen later than without it.

Only requests that say that hints are heard (`wire.HEARS_HINTS`) are answered with any.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections import OrderedDict
from struct import Struct, pack
from typing import Final
from zlib import crc32

from vmm import fuse_wire as wire
from vmm.fuse_wire import Hint

MAX_NAMES: Final = 1024
"""Of a directory that is hinted: listing it takes the host half a millisecond."""
MISSED_DIRECTORIES: Final = 64
MISSED_S: Final = 1.0
"""A second name that is not there within this time is worth a listing."""
TOO_LARGE_S: Final = 5.0
_FS_IOC_GETFLAGS: Final = 0x80086601
"""The same on x86-64 and arm64, <linux/fs.h>."""
_FS_CASEFOLD_FL: Final = 0x40000000
_FLAGS: Final = Struct("=l")


class Hints:
    """The hints of one mount that wait to be sent."""

    def __init__(self) -> None:
        self.wanted = False
        """Whether who asked just now hears them."""
        self.waiting: list[bytes] = []
        self._missed: OrderedDict[int, float] = OrderedDict()
        """Node → when a name was looked for in vain there, or when to think of it again."""

    def attributes(self, node_id: int, attributes: bytes, valid_ms: int) -> None:
        """What a directory is like now."""
        self.waiting.append(wire.hint(node_id, Hint.ATTRIBUTES, valid_ms, attributes))

    def new_file(self, node_id: int, valid_ms: int) -> None:
        """A file was made, and so has no capabilities."""
        self.waiting.append(wire.hint(node_id, Hint.PLAIN, valid_ms))

    def new_directory(self, node_id: int, parent_fd: int, name: bytes, valid_ms: int) -> None:
        """A directory was made: there is nothing in it."""
        try:
            fd = os.open(name, _LISTING, dir_fd=parent_fd)
        except OSError:
            return  # someone on the host was faster
        try:
            if _names_are_exact(fd, []):
                self.waiting.append(wire.hint(node_id, Hint.NAMES, valid_ms))
        finally:
            os.close(fd)

    def missed(self, node_id: int, directory_fd: int, valid_ms: int) -> None:
        """A name was looked for in vain in a directory; `directory_fd` may be O_PATH."""
        now = time.monotonic()
        before = self._missed.pop(node_id, -MISSED_S)
        self._missed[node_id] = max(now, before)
        if len(self._missed) > MISSED_DIRECTORIES:
            self._missed.popitem(last=False)
        if not 0 <= now - before < MISSED_S:
            return
        sums = _name_sums(directory_fd)
        if sums is None:
            self._missed[node_id] = now + TOO_LARGE_S
        else:
            self.waiting.append(wire.hint(node_id, Hint.NAMES, valid_ms, sums))


_LISTING: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


def _name_sums(directory_fd: int) -> bytes | None:
    """The check sum of every name; None if there are too many, or names are not all there is."""
    try:
        fd = os.open(".", _LISTING, dir_fd=directory_fd)
    except OSError:
        return None
    try:
        if os.fstat(fd).st_nlink == 0:
            return None
        names: list[bytes] = []
        with os.scandir(fd) as entries:
            for entry in entries:
                names.append(os.fsencode(entry.name))
                if len(names) > MAX_NAMES:
                    return None
        if not _names_are_exact(fd, names):
            return None
    except OSError:
        return None
    finally:
        os.close(fd)
    return pack(f"={len(names)}I", *map(crc32, names))


def _names_are_exact(fd: int, names: list[bytes]) -> bool:
    """Whether a file is found under its own name alone, and not in capitals, too."""
    try:
        (flags,) = _FLAGS.unpack(fcntl.ioctl(fd, _FS_IOC_GETFLAGS, bytes(_FLAGS.size)))
    except OSError:  # a file system without flags: not one we know
        return False
    if flags & _FS_CASEFOLD_FL:
        return False
    name = next((name for name in names if name.swapcase() != name), None)
    if name is None:
        return True
    try:
        other = os.stat(name.swapcase(), dir_fd=fd, follow_symlinks=False)
        return other.st_ino != os.stat(name, dir_fd=fd, follow_symlinks=False).st_ino
    except FileNotFoundError:
        return True
