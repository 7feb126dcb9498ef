"""One request in, one answer out: which function serves which operation, and what refusals become.

Whatever a guest sends, `answer` returns: an OSError of any kind is the reply's errno.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Final

from vmm import fuse_attributes as attributes
from vmm import fuse_directories as directories
from vmm import fuse_files as files
from vmm import fuse_locking as locking
from vmm import fuse_names as names
from vmm import fuse_wire as wire
from vmm import fuse_xattrs as xattrs
from vmm.fuse_tree import Answer, FuseTree, Request
from vmm.fuse_wire import Op

Serve = Callable[[FuseTree, Request, memoryview], Answer]

SERVED: Final[dict[int, Serve]] = {
    Op.LOOKUP: names.lookup,
    Op.GETATTR: attributes.getattr_,
    Op.SETATTR: attributes.setattr_,
    Op.READLINK: names.readlink,
    Op.SYMLINK: names.symlink,
    Op.MKNOD: names.mknod,
    Op.MKDIR: names.mkdir,
    Op.UNLINK: names.unlink,
    Op.RMDIR: names.rmdir,
    Op.RENAME: names.rename,
    Op.RENAME2: names.rename2,
    Op.LINK: names.link,
    Op.OPEN: files.open_,
    Op.CREATE: files.create,
    Op.READ: files.read,
    Op.WRITE: files.write,
    Op.RELEASE: files.release,
    Op.FSYNC: files.fsync,
    Op.FSYNCDIR: files.fsync,
    Op.FALLOCATE: files.fallocate,
    Op.LSEEK: files.lseek,
    Op.COPY_FILE_RANGE: files.copy_file_range,
    Op.STATFS: attributes.statfs,
    Op.OPENDIR: directories.opendir,
    Op.READDIR: directories.readdir,
    Op.READDIRPLUS: directories.readdirplus,
    Op.RELEASEDIR: directories.releasedir,
    Op.GETXATTR: xattrs.getxattr,
    Op.LISTXATTR: xattrs.listxattr,
    Op.SETXATTR: xattrs.setxattr,
    Op.REMOVEXATTR: xattrs.removexattr,
    Op.GETLK: locking.getlk,
    Op.SETLK: locking.setlk,
    Op.SETLKW: locking.setlkw,
    Op.FLUSH: locking.flush,
}
"""Not here: what concerns the session (INIT, DESTROY, INTERRUPT, FORGET), and ACCESS: the guest's
kernel checks permissions itself and stops asking after one ENOSYS, as for all we do not know."""

CHANGES: Final = frozenset(
    {
        Op.SETATTR,
        Op.SYMLINK,
        Op.MKNOD,
        Op.MKDIR,
        Op.UNLINK,
        Op.RMDIR,
        Op.RENAME,
        Op.RENAME2,
        Op.LINK,
        Op.CREATE,
        Op.WRITE,
        Op.FALLOCATE,
        Op.COPY_FILE_RANGE,
        Op.SETXATTR,
        Op.REMOVEXATTR,
    }
)
"""What a read-only mount refuses; OPEN looks at its flags."""
_MAX_ERRNO: Final = 511
"""The kernel takes no larger one from us."""


def answer(tree: FuseTree, request: Request, body: memoryview) -> Answer:
    """Serve one request.

    Raises:
        OSError: what the guest is to be told, see `errno_of`.
    """
    serve = SERVED.get(request.op)
    if serve is None:
        raise NotServedError(errno.ENOSYS, "not an operation we serve")
    if request.op in CHANGES and not tree.writable:
        raise OSError(errno.EROFS, "mounted read-only")
    try:
        return serve(tree, request, body)
    except (ValueError, OverflowError) as error:  # a NUL in a name, a number out of range
        raise OSError(errno.EINVAL, str(error)) from error


class NotServedError(OSError):
    """The guest's kernel should not ask for this again."""


def errno_of(error: OSError) -> int:
    """The number a reply carries for an error."""
    number = error.errno or errno.EIO
    if number == errno.ENOSYS and not isinstance(error, NotServedError):
        return errno.EOPNOTSUPP  # ENOSYS would switch the operation off for every file
    return number if 0 < number <= _MAX_ERRNO else errno.EIO


def init(body: memoryview) -> bytes:
    """INIT: what of the kernel's offers we take.

    Raises:
        OSError: EPROTO for a kernel older than 7.31 (Linux 5.4).
    """
    major, minor, readahead, offered = wire.unpack(wire.INIT_IN, body)
    if (major, minor) < (wire.MAJOR, wire.MINOR):
        raise OSError(errno.EPROTO, "the guest's kernel is too old")
    flags = 0
    for flag in wire.InitFlag:
        flags |= offered & flag
    return wire.INIT_OUT.pack(
        wire.MAJOR,
        wire.MINOR,
        min(readahead, wire.MAX_WRITE_BYTES),
        flags,
        MAX_BACKGROUND,
        MAX_BACKGROUND * 3 // 4,
        wire.MAX_WRITE_BYTES,
        1,  # time stamps to the nanosecond
        wire.MAX_PAGES,
        0,
        0,
    )


MAX_BACKGROUND: Final = 64
"""Readahead requests the guest's kernel may have on the way."""
