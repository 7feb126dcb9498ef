"""Open files without a name, carried through a snapshot: their content travels in the state.

A temporary file that was unlinked while open is nowhere in the shared directory, so a restored
guest gets a copy: anonymous again, on the same file system (O_TMPFILE), as large files would fill
the host's memory otherwise. Beyond `MAX_KEPT_BYTES` in all, or where the file system has no
O_TMPFILE, the handle is lost: its owner gets EBADF.
"""

from __future__ import annotations

import base64
import os
import stat
import zlib
from typing import Final

from vmm.fuse_nodes import Node
from vmm.fuse_tree import FuseTree

MAX_KEPT_BYTES: Final = 16 << 20


def save_unlinked(tree: FuseTree) -> dict[str, list[object]]:
    """By node number: `[mode, content]`, the content compressed and in base64."""
    kept: dict[str, list[object]] = {}
    room = MAX_KEPT_BYTES
    for node in tree.nodes.by_id.values():
        fds = [handle.fd for handle in node.handles if handle.fd >= 0]
        if not node.gone or node.kind != stat.S_IFREG or not fds:
            continue
        status = os.fstat(fds[0])
        if status.st_size <= room:
            room -= status.st_size
            content = _content(fds[0], status.st_size)
            packed = base64.b64encode(zlib.compress(content, 1)).decode("ascii")
            kept[str(node.id)] = [stat.S_IMODE(status.st_mode), packed]
    return kept


def _content(fd: int, size: int) -> bytes:
    """All of a file, whatever it was opened for."""
    readable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(readable, size, 0)
    finally:
        os.close(readable)


def restore_unlinked(tree: FuseTree, node: Node, saved: list[object]) -> int:
    """A descriptor of a nameless copy, which is the node's file from now on; the caller closes it.

    Raises:
        ValueError: what was saved is none of ours.
        OSError: it cannot be made here.
    """
    match saved:
        case [int(mode), str(packed)]:
            unpacker = zlib.decompressobj()
            try:
                content = unpacker.decompress(base64.b64decode(packed), MAX_KEPT_BYTES)
            except zlib.error as error:
                raise ValueError(f"an unlinked file: {error}") from error
        case _:
            raise ValueError("an unlinked file without mode and content")
    root = f"/proc/self/fd/{tree.root.fd}"
    fd = os.open(root, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        _write_all(fd, content)
        os.fchmod(fd, mode & 0o777)
        status = os.fstat(fd)
    except BaseException:
        os.close(fd)
        raise
    node.device, node.inode = status.st_dev, status.st_ino
    return fd


def _write_all(fd: int, content: bytes) -> None:
    view = memoryview(content)
    at = 0
    while at < len(view):
        at += os.pwrite(fd, view[at:], at)
