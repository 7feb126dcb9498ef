"""Operations on a file's attributes: read them, change them; and STATFS.

A file that is open is asked and changed through its descriptor, any other through an O_PATH
descriptor and /proc/self/fd, which names this very file whatever lies at its name by now.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from typing import Any

from vmm import fuse_wire as wire
from vmm.fuse_handles import Handle
from vmm.fuse_nodes import Node
from vmm.fuse_tree import SET_ID_BITS, FuseTree, Request
from vmm.fuse_wire import SetAttr


def getattr_(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """GETATTR: by handle if the guest has one."""
    flags, _, handle_id = wire.unpack(wire.GETATTR_IN, body)
    node = tree.nodes.get(request.node)
    handle = tree.handles.by_id.get(handle_id) if flags & wire.GETATTR_FH else None
    if handle is not None and handle.fd >= 0 and handle.node is node:
        return tree.attributes_reply(node, os.fstat(handle.fd))
    return tree.attributes_reply(node, status_of(tree, node))


def status_of(tree: FuseTree, node: Node) -> os.stat_result:
    """The status of a node's file, where it lies now."""
    fd = tree.nodes.open(node)
    try:
        return os.fstat(fd)
    finally:
        os.close(fd)


def setattr_(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """SETATTR: size, owner, mode, times, in this order, so that chown cannot undo the mode."""
    fields = wire.unpack(wire.SETATTR_IN, body)
    valid, handle_id, size = SetAttr(fields[0] & 0xFFF), fields[2], fields[3]
    node = tree.nodes.get(request.node)
    handle = tree.handles.get(handle_id) if valid & SetAttr.FH else None
    if handle is not None and handle.node is not node:
        raise OSError(errno.EBADF, "a handle of another file")
    fd = os.dup(handle.fd) if handle is not None else tree.nodes.open(node)
    try:
        before = os.fstat(fd)
        if valid & SetAttr.SIZE:
            _truncate(fd, before, handle, size)
        if valid & (SetAttr.UID | SetAttr.GID):
            _change_owner(tree, fd, valid, fields)
        if valid & SetAttr.MODE:
            _change_mode(tree, fd, before, fields[11])
        elif valid & SetAttr.KILL_SUIDGID and before.st_mode & SET_ID_BITS:
            drop_set_id(fd)
        if valid & (SetAttr.ATIME | SetAttr.MTIME):
            _change_times(fd, before, valid, fields)
        return tree.attributes_reply(node, os.fstat(fd))
    finally:
        os.close(fd)


def _truncate(fd: int, before: os.stat_result, handle: Handle | None, size: int) -> None:
    if not stat.S_ISREG(before.st_mode):
        raise OSError(errno.EISDIR if stat.S_ISDIR(before.st_mode) else errno.EINVAL, "no file")
    if size >= 1 << 63:
        raise OSError(errno.EFBIG, "larger than any file")
    if handle is not None and handle.flags & os.O_ACCMODE != os.O_RDONLY:
        os.ftruncate(fd, size)
    else:
        os.truncate(_itself(fd), size)


def _change_owner(tree: FuseTree, fd: int, valid: SetAttr, fields: tuple[Any, ...]) -> None:
    uid = tree.owners.uid_on_host(fields[13]) if valid & SetAttr.UID else -1
    gid = tree.owners.gid_on_host(fields[14]) if valid & SetAttr.GID else -1
    os.chown(_itself(fd), _signed(uid), _signed(gid))


def _signed(number: int) -> int:
    """u32 -1 would be taken for "leave it"; the guest's kernel never sends it as an owner."""
    if number == 0xFFFFFFFF:
        raise OSError(errno.EINVAL, "nobody's number")
    return number


def _change_mode(tree: FuseTree, fd: int, before: os.stat_result, mode: int) -> None:
    os.chmod(_itself(fd), tree.new_mode(mode, directory=stat.S_ISDIR(before.st_mode)))


def drop_set_id(fd: int) -> None:
    """Clear what a write or a new owner clears: set-user-id, and set-group-id if executable."""
    mode = os.fstat(fd).st_mode
    if stat.S_ISREG(mode):
        group = stat.S_ISGID if mode & stat.S_IXGRP else 0
        os.chmod(_itself(fd), stat.S_IMODE(mode) & ~stat.S_ISUID & ~group)


def _change_times(fd: int, before: os.stat_result, valid: SetAttr, fields: tuple[Any, ...]) -> None:
    """Set one or both times, in ns; "now" is the host's now, for files live on the host."""
    if valid & SetAttr.ATIME_NOW and valid & SetAttr.MTIME_NOW:
        os.utime(_itself(fd))
        return
    atime = before.st_atime_ns
    mtime = before.st_mtime_ns
    if valid & SetAttr.ATIME:
        atime = _time(fields[5], fields[8], now=bool(valid & SetAttr.ATIME_NOW))
    if valid & SetAttr.MTIME:
        mtime = _time(fields[6], fields[9], now=bool(valid & SetAttr.MTIME_NOW))
    os.utime(_itself(fd), ns=(atime, mtime))


def _time(seconds: int, nanoseconds: int, *, now: bool) -> int:
    if now:
        return time.time_ns()
    if nanoseconds >= 1_000_000_000:
        raise OSError(errno.EINVAL, "not a time")
    if seconds >= 1 << 63:
        seconds -= 1 << 64  # before 1970
    return seconds * 1_000_000_000 + nanoseconds


def _itself(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


def statfs(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """STATFS: the host's file system under the root."""
    del request, body
    now = os.fstatvfs(tree.root.fd)
    return wire.STATFS_OUT.pack(
        now.f_blocks,
        now.f_bfree,
        now.f_bavail,
        now.f_files,
        now.f_ffree,
        now.f_bsize,
        now.f_namemax,
        now.f_frsize,
        0,
    )
