"""Operations on names: look up, make, remove, rename, link.

Each finds its directory afresh (vmm/fuse_nodes.py) and then names one entry of it, never a path.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Final

from vmm import fuse_wire as wire
from vmm.fuse_nodes import Node
from vmm.fuse_syscalls import rename_at
from vmm.fuse_tree import ABSENT, FuseTree, Request
from vmm.fuse_wire import Op

_MAKEABLE: Final = (stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK)
"""No device: its number would mean one of the host's."""


def lookup(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """LOOKUP: an entry, itself if it is a link; a name that is not there may be remembered."""
    name = wire.one_name(body)
    parent = tree.nodes.get(request.node)
    directory_fd = tree.nodes.open_directory(parent)
    try:
        return tree.entry_at(parent, directory_fd, name)
    except FileNotFoundError:
        tree.hint_missed(parent, directory_fd)
        return ABSENT
    finally:
        os.close(directory_fd)


def forget(tree: FuseTree, request: Request, body: memoryview) -> None:
    """FORGET: no reply."""
    (count,) = wire.unpack(wire.U64, body)
    tree.nodes.forget(request.node, count)


def batch_forget(tree: FuseTree, request: Request, body: memoryview) -> None:
    """BATCH_FORGET: no reply."""
    del request
    count, _ = wire.unpack(wire.U32_PAIR, body)
    pairs = body[wire.U32_PAIR.size :]
    for index in range(min(count, len(pairs) // wire.FORGET_ONE.size)):
        node_id, lookups = wire.FORGET_ONE.unpack_from(pairs, index * wire.FORGET_ONE.size)
        tree.nodes.forget(node_id, lookups)


def readlink(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """READLINK: what the link says; nothing is followed."""
    del body
    node = tree.nodes.get(request.node)
    if node.kind != stat.S_IFLNK:
        raise OSError(errno.EINVAL, "not a link")
    fd = tree.nodes.open(node)
    try:
        return os.readlink(b"", dir_fd=fd)
    finally:
        os.close(fd)


def mkdir(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """MKDIR: `u32 mode, u32 umask, name`."""
    mode, _ = wire.unpack(wire.U32_PAIR, body)
    name = wire.one_name(body[wire.U32_PAIR.size :])
    mode = tree.new_mode(mode, directory=True)

    def make(directory_fd: int) -> None:
        os.mkdir(name, mode, dir_fd=directory_fd)
        tree.adopt(directory_fd, name, request, mode)

    return _made(tree, request, name, make)


def mknod(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """MKNOD: a regular file, a FIFO or a socket; EPERM for a device."""
    mode, _, _, _ = wire.unpack(wire.MKNOD_IN, body)
    name = wire.one_name(body[wire.MKNOD_IN.size :])
    kind = stat.S_IFMT(mode) or stat.S_IFREG
    if kind not in _MAKEABLE:
        raise OSError(errno.EPERM, "devices cannot be made in a live mount")
    permissions = tree.new_mode(mode)

    def make(directory_fd: int) -> None:
        os.mknod(name, kind | permissions, dir_fd=directory_fd)
        tree.adopt(directory_fd, name, request, permissions)

    return _made(tree, request, name, make)


def symlink(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """SYMLINK: `name, target`; the target is the guest's affair, and never followed here."""
    name, target = wire.names(body, 2)
    wire.entry_name(name)

    def make(directory_fd: int) -> None:
        os.symlink(target, name, dir_fd=directory_fd)
        tree.adopt(directory_fd, name, request, None)

    return _made(tree, request, name, make)


def link(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """LINK: `u64 old node, name`: another name of a file."""
    (old_id,) = wire.unpack(wire.U64, body)
    name = wire.one_name(body[wire.U64.size :])
    old_fd = tree.nodes.open(tree.nodes.get(old_id))
    try:

        def make(directory_fd: int) -> None:
            # Through /proc it is this very file, whatever its name leads to by now.
            source = f"/proc/self/fd/{old_fd}"
            os.link(source, name, dst_dir_fd=directory_fd, follow_symlinks=True)

        return _made(tree, request, name, make)
    finally:
        os.close(old_fd)


def unlink(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """UNLINK: a file that is open stays readable through its handles."""
    return _removed(tree, request, body, os.unlink)


def rmdir(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """RMDIR."""
    return _removed(tree, request, body, os.rmdir)


def rename(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """RENAME: `u64 new directory, old name, new name`."""
    (directory_id,) = wire.unpack(wire.U64, body)
    old, new = wire.names(body[wire.U64.size :], 2)
    return _rename(tree, request, directory_id, (old, new), 0)


def rename2(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """RENAME2: as RENAME, refusing to replace, or exchanging the two."""
    directory_id, flags, _ = wire.unpack(wire.RENAME2_IN, body)
    old, new = wire.names(body[wire.RENAME2_IN.size :], 2)
    if flags not in (0, wire.RENAME_NOREPLACE, wire.RENAME_EXCHANGE):
        raise OSError(errno.EINVAL, "not a way to rename")
    return _rename(tree, request, directory_id, (old, new), flags)


# -- in common ------------------------------------------------------------------------------------


def _made(tree: FuseTree, request: Request, name: bytes, make: Callable[[int], None]) -> bytes:
    """Make an entry in the request's directory and answer with it."""
    parent = tree.nodes.get(request.node)
    directory_fd = tree.nodes.open_directory(parent)
    try:
        make(directory_fd)
        entry = tree.entry_at(parent, directory_fd, name)
        tree.hint_changed(parent, directory_fd)
        if request.op == Op.MKDIR:
            tree.hint_made(wire.U64.unpack_from(entry)[0], directory_fd, name)
        return entry
    finally:
        os.close(directory_fd)


def _removed(
    tree: FuseTree, request: Request, body: memoryview, remove: Callable[..., None]
) -> bytes:
    name = wire.one_name(body)
    parent = tree.nodes.get(request.node)
    directory_fd = tree.nodes.open_directory(parent)
    try:
        status = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
        remove(name, dir_fd=directory_fd)
        tree.hint_changed(parent, directory_fd)
    finally:
        os.close(directory_fd)
    tree.nodes.removed(parent, name, status)
    return b""


def _rename(
    tree: FuseTree, request: Request, new_parent_id: int, names: tuple[bytes, bytes], flags: int
) -> bytes:
    old, new = wire.entry_name(names[0]), wire.entry_name(names[1])
    old_parent, new_parent = tree.nodes.get(request.node), tree.nodes.get(new_parent_id)
    old_fd = tree.nodes.open_directory(old_parent)
    try:
        new_fd = tree.nodes.open_directory(new_parent)
        try:
            moved = os.stat(old, dir_fd=old_fd, follow_symlinks=False)
            replaced = _status_if_any(new, new_fd)
            rename_at(old_fd, old, new_fd, new, flags)
            for directory, fd in {old_parent: old_fd, new_parent: new_fd}.items():
                tree.hint_changed(directory, fd)
        finally:
            os.close(new_fd)
    finally:
        os.close(old_fd)
    _renamed(tree, (old_parent, old, moved), (new_parent, new, replaced), flags)
    return b""


def _renamed(
    tree: FuseTree,
    source: tuple[Node, bytes, os.stat_result],
    target: tuple[Node, bytes, os.stat_result | None],
    flags: int,
) -> None:
    """Tell the nodes. Two names of one file stay as they are: rename(2) does nothing then."""
    old_parent, old, moved = source
    new_parent, new, replaced = target
    if replaced is not None and (replaced.st_dev, replaced.st_ino) == (moved.st_dev, moved.st_ino):
        return
    if replaced is not None and flags == wire.RENAME_EXCHANGE:
        tree.nodes.renamed((new_parent, new), (old_parent, old), replaced)
    elif replaced is not None:
        tree.nodes.removed(new_parent, new, replaced)
    tree.nodes.renamed((old_parent, old), (new_parent, new), moved)


def _status_if_any(name: bytes, directory_fd: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None
