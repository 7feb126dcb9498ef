"""Operations on open files: open, create, read, write, reserve, find holes, copy, sync, close.

Only regular files are ever opened: a device or FIFO of the host would do something when opened,
or block. Reads and writes name their offset, so no handle has a position to keep. What may take
long (a sync, a large copy) runs in a thread.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from vmm import fuse_wire as wire
from vmm.fuse_attributes import drop_set_id
from vmm.fuse_handles import Handle
from vmm.fuse_nodes import Node
from vmm.fuse_syscalls import allocate
from vmm.fuse_tree import SET_ID_BITS, FuseTree, Request, Slow

_KEPT_FLAGS: Final = os.O_ACCMODE | os.O_TRUNC | os.O_SYNC | os.O_DSYNC
"""What of the guest's open flags means something here; these numbers are every architecture's.
O_APPEND is looked at with each write, as fcntl may change it."""
_OPENING: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
MAX_COPY_BYTES: Final = 64 << 20
"""Of one COPY_FILE_RANGE: the guest asks again for the rest."""


def open_(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """OPEN: the guest's kernel drops what it cached if the file has changed since it was told."""
    flags, _ = wire.unpack(wire.U32_PAIR, body)
    node = tree.nodes.get(request.node)
    return open_node(tree, node, flags)


def open_node(tree: FuseTree, node: Node, flags: int) -> bytes:
    """A new handle of a file the guest knows."""
    _check_flags(tree, flags)
    tree.handles.check_room()
    fd = open_file(tree, node, flags)
    status = os.fstat(fd)
    unchanged = (status.st_mtime_ns, status.st_size) == (node.seen_mtime_ns, node.seen_size)
    if not unchanged:
        tree.notices.append(wire.forget_attributes(node.id))
    makes_anew = bool(flags & os.O_TRUNC) and not node.handles
    return _handle_reply(tree, node, fd, flags, keep_cache=unchanged, is_new=makes_anew)


def open_file(tree: FuseTree, node: Node, flags: int) -> int:
    """A descriptor of a node's file, opened as the guest asks; the caller closes it."""
    if node.kind != stat.S_IFREG:
        raise OSError(errno.EISDIR if node.kind == stat.S_IFDIR else errno.ENXIO, "no file")
    path_fd = tree.nodes.open(node)
    try:
        return open_itself(path_fd, flags)
    finally:
        os.close(path_fd)


def open_itself(fd: int, flags: int) -> int:
    """Open the very file of a descriptor: no link, no FIFO can have taken its place."""
    return os.open(f"/proc/self/fd/{fd}", (flags & _KEPT_FLAGS) | os.O_CLOEXEC)


def create(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """CREATE: `flags, mode, umask, open flags, name`: make if missing, and open."""
    flags, mode, _, _ = wire.unpack(wire.CREATE_IN, body)
    name = wire.one_name(body[wire.CREATE_IN.size :])
    _check_flags(tree, flags)
    tree.handles.check_room()
    mode = tree.new_mode(mode)
    parent = tree.nodes.get(request.node)
    directory_fd = tree.nodes.open_directory(parent)
    try:
        making = (flags & _KEPT_FLAGS & ~os.O_TRUNC) | os.O_CREAT | os.O_EXCL | _OPENING
        try:
            fd = os.open(name, making, mode, dir_fd=directory_fd)
        except FileExistsError:
            if flags & os.O_EXCL:
                raise
            entry = tree.entry_at(parent, directory_fd, name)  # someone on the host was faster
            node = tree.nodes.get(wire.U64.unpack_from(entry)[0])
            try:
                return entry + open_node(tree, node, flags)
            except OSError:
                tree.nodes.forget(node.id, 1)  # the guest is not told of it
                raise
        try:
            tree.adopt_open(directory_fd, fd, request, mode)
            entry = tree.entry(parent, name, os.fstat(fd))
            tree.hint_changed(parent, directory_fd)
        except BaseException:
            os.close(fd)
            raise
    finally:
        os.close(directory_fd)
    node = tree.nodes.get(wire.U64.unpack_from(entry)[0])
    tree.hint_new_file(node)
    return entry + _handle_reply(tree, node, fd, flags, keep_cache=True, is_new=True)


def _check_flags(tree: FuseTree, flags: int) -> None:
    changes = flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC
    if changes and not tree.writable:
        raise OSError(errno.EROFS, "mounted read-only")
    if flags & os.O_ACCMODE == os.O_ACCMODE:
        raise OSError(errno.EINVAL, "not a way to open a file")


def _handle_reply(
    tree: FuseTree, node: Node, fd: int, flags: int, *, keep_cache: bool, is_new: bool
) -> bytes:
    handle = tree.handles.add(node, fd, flags)
    told = _open_flags(flags, keep_cache=keep_cache)
    if is_new and flags & os.O_ACCMODE == os.O_WRONLY:
        told |= wire.FOPEN_DIRECT_IO
    return wire.OPEN_OUT.pack(handle.id, told, 0)


def _open_flags(flags: int, *, keep_cache: bool) -> int:
    """FLUSH, a round trip at each close, is asked for only where it could drop a lock.

    POSIX locks are dropped when their process closes any descriptor of the file. That matters to
    others where a file is read and written; through a handle that does one of the two, a lock is
    dropped when the handle is released.
    """
    no_flush = wire.FOPEN_NOFLUSH if flags & os.O_ACCMODE != os.O_RDWR else 0
    return no_flush | (wire.FOPEN_KEEP_CACHE if keep_cache else 0)


def read(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """READ: fewer bytes than asked for only at the end of the file."""
    del request
    handle_id, offset, size, _, _, _, _ = wire.unpack(wire.READ_IN, body)
    handle = tree.handles.get(handle_id)
    data = os.pread(handle.fd, min(size, wire.MAX_WRITE_BYTES), _offset(offset))
    if handle.is_pages:
        tree.pages_bytes_served += len(data)
    return data


def write(tree: FuseTree, request: Request, body: memoryview) -> bytes | Slow:
    """WRITE: through the handle; at the end of the file for O_APPEND, wherever that is by now."""
    del request
    handle_id, offset, size, write_flags, _, flags, _ = wire.unpack(wire.WRITE_IN, body)
    handle = tree.handles.get(handle_id)
    data = body[wire.WRITE_IN.size :]
    if len(data) < size:
        raise OSError(errno.EINVAL, "fewer bytes than announced")
    from_cache = write_flags & wire.WRITE_CACHE
    append = os.RWF_APPEND if flags & os.O_APPEND and not from_cache else 0
    kill = bool(write_flags & wire.WRITE_KILL_SUIDGID)
    if handle.flags & (os.O_SYNC | os.O_DSYNC):
        copy = bytes(data[:size])  # the message's buffer is used again meanwhile
        return Slow(lambda: _write(handle, copy, offset, append, kill), (handle,))
    return _write(handle, data[:size], offset, append, kill)


def _write(handle: Handle, data: bytes | memoryview, offset: int, append: int, kill: bool) -> bytes:
    written = os.pwritev(handle.fd, [data], _offset(offset), append)
    if kill and os.fstat(handle.fd).st_mode & SET_ID_BITS:
        drop_set_id(handle.fd)
    return wire.U32_PAIR.pack(written, 0)


def _offset(offset: int) -> int:
    if offset >= 1 << 63:
        raise OSError(errno.EINVAL, "beyond any file")
    return offset


def release(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """RELEASE: the last descriptor of an open file is closed; its locks go with it."""
    handle_id, _, _, _ = wire.unpack(wire.RELEASE_IN, body)
    handle = tree.handles.release(handle_id)
    if handle is not None:
        tree.granted += tree.locks.drop_handle(handle.node.id, handle.id)
    return b""


def fsync(tree: FuseTree, request: Request, body: memoryview) -> Slow:
    """FSYNC and FSYNCDIR."""
    handle_id, flags, _ = wire.unpack(wire.FSYNC_IN, body)
    handle = tree.handles.get(handle_id)
    sync = os.fdatasync if flags & wire.FSYNC_DATA_ONLY else os.fsync

    def work() -> bytes:
        sync(handle.fd)
        return b""

    return Slow(work, (handle,))


def fallocate(tree: FuseTree, request: Request, body: memoryview) -> Slow:
    """FALLOCATE: reserve, punch, zero."""
    handle_id, offset, length, mode, _ = wire.unpack(wire.FALLOCATE_IN, body)
    handle = tree.handles.get(handle_id)
    _offset(offset + length)

    def work() -> bytes:
        allocate(handle.fd, mode & 0x7F, offset, length)
        return b""

    return Slow(work, (handle,))


def lseek(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """LSEEK: the next data or hole."""
    handle_id, offset, whence, _ = wire.unpack(wire.LSEEK_IN, body)
    if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
        raise OSError(errno.EINVAL, "the guest's kernel knows the other positions itself")
    handle = tree.handles.get(handle_id)
    return wire.U64.pack(os.lseek(handle.fd, _offset(offset), whence))


def copy_file_range(tree: FuseTree, request: Request, body: memoryview) -> Slow:
    """COPY_FILE_RANGE: on the host, without a byte through the channel."""
    source_id, source_at, _, target_id, target_at, length, flags = wire.unpack(wire.COPY_IN, body)
    source, target = tree.handles.get(source_id), tree.handles.get(target_id)
    if flags:
        raise OSError(errno.EINVAL, "no flags are known")
    size = min(length, MAX_COPY_BYTES)
    _offset(source_at + size)
    _offset(target_at + size)

    def work() -> bytes:
        copied = os.copy_file_range(source.fd, target.fd, size, source_at, target_at)
        return wire.U32_PAIR.pack(copied, 0)

    return Slow(work, (source, target))
