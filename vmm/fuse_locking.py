"""Operations on locks: fcntl and flock calls of the guest, kept in vmm/fuse_locks.py."""

from __future__ import annotations

import errno

from vmm import fuse_wire as wire
from vmm.fuse_locks import Lock
from vmm.fuse_tree import FuseTree, Request


def getlk(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """GETLK: the lock in the way, or "unlocked"."""
    wanted = _decode(tree, request, body)
    blocker = tree.locks.blocker(request.node, wanted)
    if blocker is None:
        return wire.LOCK_OUT.pack(wanted.start, wanted.end, 2, 0)
    return wire.LOCK_OUT.pack(blocker.start, blocker.end, blocker.kind, blocker.pid)


def setlk(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """SETLK: now, or EAGAIN."""
    wanted = _decode(tree, request, body)
    tree.granted += tree.locks.set(request.node, wanted)
    return b""


def setlkw(tree: FuseTree, request: Request, body: memoryview) -> bytes | None:
    """SETLKW: now, or answered when the lock is free."""
    wanted = _decode(tree, request, body)
    granted = tree.locks.wait(request.unique, request.node, wanted)
    if granted is None:
        return None
    tree.granted += granted
    return b""


def flush(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """FLUSH: a process closed one of its descriptors, which ends its POSIX locks on the file."""
    _, _, owner = wire.unpack(wire.FLUSH_IN, body)
    tree.granted += tree.locks.drop_owner(request.node, owner, flock=False)
    return b""


def interrupt(tree: FuseTree, request: Request, body: memoryview) -> int:
    """INTERRUPT: the number of the request whose wait it ended, or 0. No reply of its own."""
    del request
    (unique,) = wire.unpack(wire.U64, body)
    return unique if tree.locks.interrupt(unique) else 0


def _decode(tree: FuseTree, request: Request, body: memoryview) -> Lock:
    handle_id, owner, start, end, kind, pid, flags, _ = wire.unpack(wire.LOCK_IN, body)
    handle = tree.handles.get(handle_id)
    if handle.node.id != request.node:
        raise OSError(errno.EBADF, "a handle of another file")
    return Lock(bool(flags & wire.LK_FLOCK), owner, kind, start, end, pid, handle_id)
