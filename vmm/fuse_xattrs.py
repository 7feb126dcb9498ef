"""Operations on extended attributes.

`user.` attributes are the host's own. `security.` and `trusted.` ones would mean something to the
host's kernel (capabilities of a program, for one), so they are kept under a prefix of ours in the
`user.` space: the guest sees them under their own names, the host never acts on them. Others
(`system.posix_acl_…`) are not supported. See xattr(7).
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from vmm import fuse_wire as wire
from vmm.fuse_nodes import Node
from vmm.fuse_tree import FuseTree, Request

_KEPT_APART: Final = b"user.machinen."
_MAPPED: Final = (b"security.", b"trusted.")
MAX_VALUE_BYTES: Final = 65536
XATTR_FLAGS: Final = os.XATTR_CREATE | os.XATTR_REPLACE
_HAS_XATTRS: Final = (stat.S_IFREG, stat.S_IFDIR)
"""xattr(7): links and special files take no `user.` attributes."""


def getxattr(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """GETXATTR: `u32 size, u32 0, name`; size 0 asks for the size."""
    size, _ = wire.unpack(wire.U32_PAIR, body)
    name = _name_on_host(wire.names(body[wire.U32_PAIR.size :], 1)[0])
    node = tree.nodes.get(request.node)
    if node.kind not in _HAS_XATTRS:
        raise OSError(errno.ENODATA, "has no attributes")
    fd = tree.nodes.open(node)
    try:
        return _sized(os.getxattr(f"/proc/self/fd/{fd}", name), size)
    finally:
        os.close(fd)


def listxattr(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """LISTXATTR: names, each ended by NUL."""
    size, _ = wire.unpack(wire.U32_PAIR, body)
    node = tree.nodes.get(request.node)
    if node.kind not in _HAS_XATTRS:
        return _sized(b"", size)
    fd = tree.nodes.open(node)
    try:
        listed = [_name_in_guest(os.fsencode(name)) for name in os.listxattr(_itself(fd))]
    finally:
        os.close(fd)
    return _sized(b"".join(name + b"\0" for name in listed if name), size)


def setxattr(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """SETXATTR: `u32 size, u32 flags, name, value`."""
    size, flags = wire.unpack(wire.U32_PAIR, body)
    rest = bytes(body[wire.U32_PAIR.size :])
    name, found, value = rest.partition(b"\0")
    if not found or len(value) < size or flags & ~XATTR_FLAGS or size > MAX_VALUE_BYTES:
        raise OSError(errno.EINVAL, "not an attribute")
    on_host = _name_on_host(name)
    fd = _open_to_change(tree, request)
    try:
        os.setxattr(_itself(fd), on_host, value[:size], flags)
    finally:
        os.close(fd)
    return b""


def removexattr(tree: FuseTree, request: Request, body: memoryview) -> bytes:
    """REMOVEXATTR: `name`."""
    name = _name_on_host(wire.names(body, 1)[0])
    fd = _open_to_change(tree, request)
    try:
        os.removexattr(_itself(fd), name)
    finally:
        os.close(fd)
    return b""


def _open_to_change(tree: FuseTree, request: Request) -> int:
    node: Node = tree.nodes.get(request.node)
    if node.kind not in _HAS_XATTRS:
        raise OSError(errno.EPERM, "takes no attributes")
    return tree.nodes.open(node)


def _itself(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


def _name_on_host(name: bytes) -> bytes:
    if name.startswith(_MAPPED):
        return _checked(_KEPT_APART + name)
    if not name.startswith(b"user.") or name.startswith(_KEPT_APART):
        raise OSError(errno.EOPNOTSUPP, "not a kind of attribute that is kept")
    return _checked(name)


def _checked(name: bytes) -> bytes:
    if len(name) > wire.MAX_NAME_BYTES:
        raise OSError(errno.ERANGE, "a name longer than any")
    return name


def _name_in_guest(name: bytes) -> bytes:
    """b"" for what the guest does not see."""
    if name.startswith(_KEPT_APART):
        return name.removeprefix(_KEPT_APART)
    return name if name.startswith(b"user.") else b""


def _sized(value: bytes, size: int) -> bytes:
    """The value, or its length if that was asked for."""
    if size == 0:
        return wire.U32_PAIR.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE, "longer than the room for it")
    return value
