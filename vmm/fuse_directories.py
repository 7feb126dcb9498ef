"""Operations on open directories: list them, with attributes if the guest's kernel asks.

Offsets are the host file system's own, so a listing goes on where it was after entries were made
or removed, after a seek, and after a restore.
"""

from __future__ import annotations

import errno
import os
import stat

from vmm import fuse_wire as wire
from vmm.fuse_handles import Handle
from vmm.fuse_nodes import Node
from vmm.fuse_syscalls import DirectoryEntry
from vmm.fuse_tree import FuseTree, Request


def opendir(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """OPENDIR."""
    del body
    node = tree.nodes.get(request.node)
    tree.handles.check_room()
    fd = open_listing(tree, node)
    return wire.OPEN_OUT.pack(tree.handles.add(node, fd, os.O_DIRECTORY).id, 0, 0)


def open_listing(tree: FuseTree, node: Node) -> int:
    """A descriptor to list a directory with; the caller closes it."""
    path_fd = tree.nodes.open_directory(node)
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=path_fd)
    finally:
        os.close(path_fd)


def readdir(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """READDIR: `u64 inode, u64 next offset, u32 length, u32 kind, name`, padded to 8 bytes."""
    return _listed(tree, request, body, plus=False)


def readdirplus(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """READDIRPLUS: before each record what LOOKUP would have answered."""
    return _listed(tree, request, body, plus=True)


def releasedir(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """RELEASEDIR."""
    del request
    handle_id, _, _, _ = wire.unpack(wire.RELEASE_IN, body)
    tree.handles.release(handle_id)
    return b""


def _listed(tree: FuseTree, request: Request, body: memoryview, *, plus: bool) -> bytes:
    handle_id, offset, size, _, _, _, _ = wire.unpack(wire.READ_IN, body)
    handle = tree.handles.get(handle_id)
    if handle.node.kind != stat.S_IFDIR:
        raise OSError(errno.ENOTDIR, "not a directory")
    if offset >= 1 << 63:
        raise OSError(errno.EINVAL, "no offset of ours")
    handle.seek(offset)
    room = min(size, wire.MAX_WRITE_BYTES)
    head = _PLUS_BYTES if plus else 0
    records: list[bytes] = []
    while (entry := handle.next_entry()) is not None:
        length = head + _record_bytes(entry.name)
        if length > room:
            break
        try:
            before = _looked_up(tree, handle, entry) if plus else b""
        except OSError:
            if not records:
                raise
            break  # the guest must hear of the nodes it was given; the next request fails
        handle.advance()
        if before is not None:
            room -= length
            records.append(before + _record(handle, entry))
    return b"".join(records)


_PLUS_BYTES = wire.ENTRY.size + wire.ATTR.size
_NO_NODE = bytes(_PLUS_BYTES)


def _record_bytes(name: bytes) -> int:
    return (wire.DIRENT.size + len(name) + 7) & ~7


def _record(handle: Handle, entry: DirectoryEntry) -> bytes:
    inode = entry.inode
    if entry.name == b".." and handle.node.parent is None:
        inode = handle.node.inode  # what lies above the root is nobody's business
    head = wire.DIRENT.pack(inode, entry.offset, len(entry.name), entry.kind)
    return (head + entry.name).ljust(_record_bytes(entry.name), b"\0")


def _looked_up(tree: FuseTree, handle: Handle, entry: DirectoryEntry) -> bytes | None:
    """The entry's node and attributes; None if it has just gone, no node where none is known."""
    if entry.name in (b".", b".."):
        return _NO_NODE
    try:
        return tree.entry_at(handle.node, handle.fd, entry.name)
    except FileNotFoundError:
        return None
    except PermissionError:
        return _NO_NODE  # listed, but not to be looked at
