"""What the guest has open: numbered handles on the host's descriptors.

Their number is bounded, so that a guest cannot take the monitor's last descriptor. A handle that a
thread works on is pinned: it is closed when the thread is done, or its descriptor's number could
be another file's by then.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import threading
from typing import Final

from vmm.fuse_nodes import Node, NodeTable
from vmm.fuse_syscalls import DirectoryEntry, read_directory

MAX_HANDLES: Final = 16384
KEPT_FREE: Final = 256
"""Descriptors the monitor needs for everything else."""
DIRECTORY_READ_BYTES: Final = 32768
_PAGES_NAME: Final = re.compile(rb"pages-[0-9]+\.img")


class Handle:
    """One open file or directory of the guest."""

    __slots__ = ("entries", "fd", "flags", "id", "is_pages", "node", "pins", "position", "released")

    def __init__(self, handle_id: int, node: Node, fd: int, flags: int) -> None:
        self.id = handle_id
        self.node = node
        self.fd = fd
        """-1 if the file could not be opened again after a restore."""
        self.flags = flags
        self.is_pages = _PAGES_NAME.fullmatch(node.name) is not None
        """A file of memory pages (criu's), whose reads are counted."""
        self.pins = 0
        self.released = False
        self.entries: list[DirectoryEntry] = []
        """Of a directory: records read and not yet passed on, the next one last."""
        self.position = 0
        """The offset of a directory at which `entries` goes on."""

    def next_entry(self) -> DirectoryEntry | None:
        """The record at `position`, or None at the directory's end."""
        if not self.entries:
            self.entries = read_directory(self.fd, DIRECTORY_READ_BYTES)
            self.entries.reverse()
        return self.entries[-1] if self.entries else None

    def advance(self) -> None:
        """The record of `next_entry` was passed on."""
        self.position = self.entries.pop().offset

    def seek(self, offset: int) -> None:
        """Go on at an offset that a record carried, or at 0 with the directory as it is now."""
        if offset != self.position or offset == 0:
            os.lseek(self.fd, offset, os.SEEK_SET)
            self.entries.clear()
            self.position = offset

    def resume(self, offset: int) -> None:
        """Of a directory opened anew: go on where another handle was."""
        os.lseek(self.fd, offset, os.SEEK_SET)
        self.position = offset


class HandleTable:
    """All handles of one mount."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self.by_id: dict[int, Handle] = {}
        self.next_id = 1
        self.limit = _limit()
        self._closing = threading.Lock()

    def add(self, node: Node, fd: int, flags: int) -> Handle:
        """A new handle that owns the descriptor."""
        self.next_id += 1
        return self.load(self.next_id - 1, node, fd, flags)

    def load(self, handle_id: int, node: Node, fd: int, flags: int) -> Handle:
        """Take in a new handle, or one of a saved table; -1 for a file that is lost."""
        handle = Handle(handle_id, node, fd, flags)
        self.by_id[handle.id] = handle
        node.handles.append(handle)
        return handle

    def check_room(self) -> None:
        """Raise OSError ENFILE if one more would be too many."""
        if len(self.by_id) >= self.limit:
            raise OSError(errno.ENFILE, "the guest holds too many open files")

    def get(self, handle_id: int) -> Handle:
        """The handle of that number.

        Raises:
            OSError: EBADF if there is none, or its file is lost.
        """
        handle = self.by_id.get(handle_id)
        if handle is None or handle.fd < 0:
            raise OSError(errno.EBADF, "a handle nobody was given")
        return handle

    def release(self, handle_id: int) -> Handle | None:
        """Forget a handle and close it, now or when it is unpinned."""
        handle = self.by_id.pop(handle_id, None)
        if handle is None:
            return None
        handle.node.handles.remove(handle)
        handle.released = True
        self._close_if_done(handle)
        self._nodes.released(handle.node)
        return handle

    def pin(self, handle: Handle) -> None:
        """Keep the descriptor open until `unpin`."""
        handle.pins += 1

    def unpin(self, handle: Handle) -> None:
        """The thread that used the descriptor is done."""
        handle.pins -= 1
        self._close_if_done(handle)

    def _close_if_done(self, handle: Handle) -> None:
        with self._closing:  # `unpin` and `release` may come from two threads
            fd = handle.fd
            if not handle.released or handle.pins or fd < 0:
                return
            handle.fd = -1
        os.close(fd)

    def close(self) -> None:
        """Release every handle."""
        for handle_id in list(self.by_id):
            self.release(handle_id)


def _limit() -> int:
    """As many handles as this process may have descriptors, less what it needs itself."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_HANDLES + KEPT_FREE
    if soft < wanted and (hard == resource.RLIM_INFINITY or soft < hard):
        soft = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(KEPT_FREE, min(MAX_HANDLES, soft - KEPT_FREE))
