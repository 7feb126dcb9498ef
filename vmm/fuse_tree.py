"""The shared tree as one mount sees it, and what every operation has in common: whose file is
whose, what the guest may remember for how long, how an entry or its attributes are answered.

How soon a change on the host shows in the guest: at once for whatever is opened or listed (OPEN
checks the file against what the guest was told, and directories are never cached), after at most
`ATTRIBUTES_S` for a bare stat of a name it has just seen, and after `ABSENCE_S` for a name that was
not there. A round trip costs a guest up to a millisecond, and builds ask for the same names many
times a second, so none of these is zero.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from vmm import fuse_wire as wire
from vmm.fuse_contain import ContainedRoot
from vmm.fuse_handles import Handle, HandleTable
from vmm.fuse_hints import Hints
from vmm.fuse_locks import LockTable
from vmm.fuse_nodes import Node, NodeTable

ATTRIBUTES_S: Final = 1
ABSENCE_NS: Final = 200_000_000
SET_ID_BITS: Final = stat.S_ISUID | stat.S_ISGID
NOBODY: Final = 65534


class Request(NamedTuple):
    """The header of a request."""

    size: int
    op: int
    unique: int
    node: int
    uid: int
    gid: int
    pid: int
    extensions: int


class Slow(NamedTuple):
    """An answer that may take long: `work` runs in a thread, on descriptors pinned until then."""

    work: Callable[[], bytes]
    handles: tuple[Handle, ...]


Answer = bytes | Slow | None
"""The body of a reply, later in a thread, or none (now)."""


class Owners:
    """Users of the host as the guest sees them, and back.

    A monitor that is not root can own files only as its own user: that user is root in the guest,
    so that what the guest's root makes is its own, and the host's root is nobody there.
    """

    def __init__(self, uid: int, gid: int) -> None:
        self._uid, self._gid = uid, gid
        self.is_root = uid == 0

    def uid_in_guest(self, uid: int) -> int:
        """The guest's number of a user of the host."""
        return _swap(uid, self._uid)

    def gid_in_guest(self, gid: int) -> int:
        """The guest's number of a group of the host."""
        return _swap(gid, self._gid)

    def uid_on_host(self, uid: int) -> int:
        """The host's number of a user of the guest."""
        return self._uid if uid == 0 else uid

    def gid_on_host(self, gid: int) -> int:
        """The host's number of a group of the guest."""
        return self._gid if gid == 0 else gid


def _swap(number: int, own: int) -> int:
    if number == own:
        return 0
    return NOBODY if number == 0 else number


class FuseTree:
    """One shared directory and all that one guest knows and holds of it."""

    def __init__(self, root: Path, *, writable: bool) -> None:
        self.writable = writable
        self.root = ContainedRoot(root)
        self.nodes = NodeTable(self.root)
        self.handles = HandleTable(self.nodes)
        self.locks = LockTable()
        self.owners = Owners(os.geteuid(), os.getegid())
        self.umask = _umask()
        self.pages_bytes_served = 0
        self.granted: list[int] = []
        """Waiting requests whose lock is theirs now: answer them."""
        self.notices: list[bytes] = []
        """What the guest's kernel shall hear before the next reply."""
        self.hints = Hints()
        """What the guest's agent shall hear after it."""

    def close(self) -> None:
        """Give back every descriptor."""
        self.handles.close()
        self.root.close()

    def forget_all(self) -> None:
        """The guest mounts afresh: nothing it held before means anything now."""
        self.handles.close()
        self.nodes.forget_all()
        self.locks = LockTable()

    # -- answers --------------------------------------------------------------------------------

    def attributes(self, node: Node, status: os.stat_result) -> bytes:
        """A file's attributes, which the guest now knows."""
        node.seen_mtime_ns = mtime = status.st_mtime_ns
        node.seen_size = size = status.st_size
        atime, ctime = status.st_atime_ns, status.st_ctime_ns
        return wire.ATTR.pack(
            status.st_ino,
            size,
            status.st_blocks,
            (atime // 1_000_000_000) & _U64,
            (mtime // 1_000_000_000) & _U64,
            (ctime // 1_000_000_000) & _U64,
            atime % 1_000_000_000,
            mtime % 1_000_000_000,
            ctime % 1_000_000_000,
            status.st_mode,
            status.st_nlink,
            self.owners.uid_in_guest(status.st_uid),
            self.owners.gid_in_guest(status.st_gid),
            status.st_rdev & 0xFFFFFFFF,
            min(status.st_blksize, 1 << 20),
            0,
        )

    def entry(self, parent: Node, name: bytes, status: os.stat_result) -> bytes:
        """The answer to whoever asked for a name: its node, which the guest now holds."""
        node = self.nodes.found(parent, name, status)
        return wire.ENTRY.pack(node.id, 0, ATTRIBUTES_S, ATTRIBUTES_S, 0, 0) + self.attributes(
            node, status
        )

    def attributes_reply(self, node: Node, status: os.stat_result) -> bytes:
        """The answer to GETATTR and SETATTR."""
        return wire.ATTR_VALID.pack(ATTRIBUTES_S, 0, 0) + self.attributes(node, status)

    def entry_at(self, parent: Node, directory_fd: int, name: bytes) -> bytes:
        """The answer about a name in an open directory."""
        return self.entry(parent, name, os.stat(name, dir_fd=directory_fd, follow_symlinks=False))

    # -- hints ----------------------------------------------------------------------------------

    def hint_changed(self, directory: Node, directory_fd: int) -> None:
        """Entries of a directory changed: tell the agent what it is like now."""
        if self.hints.wanted:
            attributes = self.attributes(directory, os.fstat(directory_fd))
            self.hints.attributes(directory.id, attributes, ATTRIBUTES_S * 1000)

    def hint_missed(self, directory: Node, directory_fd: int) -> None:
        """A name is not in a directory: maybe tell the agent which ones are."""
        if self.hints.wanted:
            self.hints.missed(directory.id, directory_fd, ABSENCE_NS // 1_000_000)

    def hint_made(self, node_id: int, directory_fd: int, name: bytes) -> None:
        """A directory was made."""
        if self.hints.wanted:
            self.hints.new_directory(node_id, directory_fd, name, ABSENCE_NS // 1_000_000)

    def hint_new_file(self, node: Node) -> None:
        """A file was made."""
        if self.hints.wanted:
            self.hints.new_file(node.id, ATTRIBUTES_S * 1000)

    # -- what new files get ---------------------------------------------------------------------

    def new_mode(self, mode: int, *, directory: bool = False) -> int:
        """Permissions a guest may give: never set-user-id, set-group-id only on directories."""
        return mode & (0o7777 if directory else 0o7777 & ~SET_ID_BITS) & ~stat.S_ISUID

    def adopt(self, directory_fd: int, name: bytes, request: Request, mode: int | None) -> None:
        """Give a new entry to the guest's user, with the mode it asked for."""
        if self._needs_owner(request):
            uid, gid = self._new_owner(directory_fd, request)
            os.chown(name, uid, gid, dir_fd=directory_fd, follow_symlinks=False)
        if mode is not None and mode & (self.umask | SET_ID_BITS):
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory_fd)
            try:
                os.chmod(f"/proc/self/fd/{fd}", mode | self._inherited_bits(fd))
            finally:
                os.close(fd)

    def adopt_open(self, directory_fd: int, fd: int, request: Request, mode: int) -> None:
        """As `adopt`, for a file just made and still open."""
        if self._needs_owner(request):
            os.fchown(fd, *self._new_owner(directory_fd, request))
        if mode & self.umask:
            os.fchmod(fd, mode)

    def _needs_owner(self, request: Request) -> bool:
        return self.owners.is_root and (request.uid != 0 or request.gid != 0)

    def _new_owner(self, directory_fd: int, request: Request) -> tuple[int, int]:
        """A directory with the set-group-id bit hands its group down."""
        inherits = os.fstat(directory_fd).st_mode & stat.S_ISGID
        return request.uid, -1 if inherits else request.gid

    def _inherited_bits(self, fd: int) -> int:
        status = os.fstat(fd)
        return status.st_mode & stat.S_ISGID if stat.S_ISDIR(status.st_mode) else 0


_U64: Final = (1 << 64) - 1
ABSENT: Final = wire.ENTRY.pack(0, 0, 0, 0, ABSENCE_NS, 0) + bytes(wire.ATTR.size)
"""No such name, and the guest may believe so for a moment."""


def _umask() -> int:
    """This process's umask, without changing it for other threads."""
    with open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"Umask:"):
                return int(line.split()[1], 8)
    raise OSError(errno.ENOSYS, "the kernel does not say what the umask is")
