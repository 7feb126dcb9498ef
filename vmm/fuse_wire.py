"""FUSE messages as bytes: numbers and layouts of the kernel's public <linux/fuse.h>, 7.31.

Everything is in the byte order of the machine; guest and host are both little-endian here. A
request is a 40-byte header and a body, a reply a 16-byte header and a body; each begins with its
own length. Bodies come from a hostile guest: `unpack` refuses one that is too short, and `names`
one whose strings do not end.
"""

from __future__ import annotations

import errno
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Any, Final

MAJOR: Final = 7
MINOR: Final = 31
ROOT_ID: Final = 1
MAX_PAGES: Final = 256
MAX_WRITE_BYTES: Final = MAX_PAGES * 4096
MAX_MESSAGE_BYTES: Final = MAX_WRITE_BYTES + 65536
"""A request with the most data, or the longest xattr, and its structures and names."""
MAX_NAME_BYTES: Final = 255
CONTROL_BYTES: Final = 8
"""`u32 8, u32 word | number << 8`: to or from the relay, not for the kernel (docs/protocol.md)."""


class Control(IntEnum):
    """Words between the session and the relay in the guest."""

    HOLD = 1
    GO = 2


HELD: Final = 1
_NUMBER_SHIFT: Final = 8
MAX_HOLD_NUMBER: Final = (1 << 32 - _NUMBER_SHIFT) - 1


class Hint(IntEnum):
    """What the agent is told beside the answers (docs/protocol.md)."""

    ATTRIBUTES = 1
    NAMES = 2
    PLAIN = 3


HINT_CODE: Final = 1977
"""In the place of a notice's code; the kernel's own are below 100."""
HEARS_HINTS: Final = 1 << 16
"""In a request's last number: the agent hears hints, and answers RELEASE itself."""


class Op(IntEnum):
    """What a request asks for."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47


class InitFlag(IntFlag):
    """What the kernel offers in INIT and we take from it."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    ATOMIC_O_TRUNC = 1 << 3
    BIG_WRITES = 1 << 5
    FLOCK_LOCKS = 1 << 10
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22
    HANDLE_KILLPRIV_V2 = 1 << 28


class SetAttr(IntFlag):
    """Which members of SETATTR are meant."""

    MODE = 1 << 0
    UID = 1 << 1
    GID = 1 << 2
    SIZE = 1 << 3
    ATIME = 1 << 4
    MTIME = 1 << 5
    FH = 1 << 6
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8
    KILL_SUIDGID = 1 << 11


GETATTR_FH: Final = 1
FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_NOFLUSH: Final = 1 << 5
WRITE_CACHE: Final = 1 << 0
WRITE_KILL_SUIDGID: Final = 1 << 2
RELEASE_FLOCK_UNLOCK: Final = 1 << 1
LK_FLOCK: Final = 1
FSYNC_DATA_ONLY: Final = 1
NOTIFY_INVAL_INODE: Final = 2
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2

IN_HEADER = Struct("=IIQQIIII")
"""len, opcode, unique, nodeid, uid, gid, pid, extensions and padding."""
OUT_HEADER = Struct("=IiQ")
INIT_IN = Struct("=IIII")
INIT_OUT = Struct("=IIIIHHIIHHI28x")
ATTR = Struct("=QQQQQQIIIIIIIIII")
ENTRY = Struct("=QQQQII")
ATTR_VALID = Struct("=QII")
FORGET_ONE = Struct("=QQ")
U64 = Struct("=Q")
U32_PAIR = Struct("=II")
GETATTR_IN = Struct("=IIQ")
SETATTR_IN = Struct("=IIQQQQQQIIIIIIII")
MKNOD_IN = Struct("=IIII")
RENAME2_IN = Struct("=QII")
CREATE_IN = Struct("=IIII")
OPEN_OUT = Struct("=QII")
RELEASE_IN = Struct("=QIIQ")
FLUSH_IN = Struct("=QQQ")
READ_IN = Struct("=QQIIQII")
WRITE_IN = READ_IN
STATFS_OUT = Struct("=QQQQQIIII24x")
FSYNC_IN = Struct("=QII")
LOCK_IN = Struct("=QQQQIIII")
LOCK_OUT = Struct("=QQII")
FALLOCATE_IN = Struct("=QQQII")
LSEEK_IN = Struct("=QQII")
COPY_IN = Struct("=QQQQQQQ")
NOTIFY_INODE = Struct("=Qqq")
HINT_HEADER = Struct("=IiQQII")
"""len, HINT_CODE, 0, node, kind, for how many ms it is true."""
DIRENT = Struct("=QQII")


def unpack(layout: Struct, body: memoryview) -> tuple[Any, ...]:
    """The structure a body begins with.

    Raises:
        OSError: EINVAL if the body is shorter.
    """
    if len(body) < layout.size:
        raise OSError(errno.EINVAL, "a request too short for its kind")
    return layout.unpack_from(body)


def names(body: memoryview, count: int) -> list[bytes]:
    """The NUL-ended strings a body ends with.

    Raises:
        OSError: EINVAL if there are not that many.
    """
    parts = bytes(body).split(b"\0", count)
    if len(parts) != count + 1:
        raise OSError(errno.EINVAL, "a request with too few names")
    return parts[:count]


def entry_name(name: bytes) -> bytes:
    """A name that is one entry of a directory.

    Raises:
        OSError: EINVAL for anything that means another place, ENAMETOOLONG.
    """
    if not name or b"/" in name or name in (b".", b".."):
        raise OSError(errno.EINVAL, "not a name of an entry")
    if len(name) > MAX_NAME_BYTES:
        raise OSError(errno.ENAMETOOLONG, "a name longer than any")
    return name


def one_name(body: memoryview) -> bytes:
    """The one entry name that is a whole body."""
    return entry_name(names(body, 1)[0])


def reply(unique: int, body: bytes = b"") -> bytes:
    """A request's answer."""
    return OUT_HEADER.pack(OUT_HEADER.size + len(body), 0, unique) + body


def error_reply(unique: int, errno_value: int) -> bytes:
    """The answer to a request that failed."""
    return OUT_HEADER.pack(OUT_HEADER.size, -errno_value, unique)


def forget_attributes(node: int) -> bytes:
    """A notice: what the kernel knows of a node's size and times is no longer so.

    Offset -1 leaves its cached pages alone: dropping those could wait for a reply of ours.
    """
    size = OUT_HEADER.size + NOTIFY_INODE.size
    return OUT_HEADER.pack(size, NOTIFY_INVAL_INODE, 0) + NOTIFY_INODE.pack(node, -1, 0)


def control(word: int, number: int = 0) -> bytes:
    """A word to the relay; `number` says which HOLD it is."""
    return U32_PAIR.pack(CONTROL_BYTES, word | number << _NUMBER_SHIFT)


def held_number(message: memoryview) -> int | None:
    """Which HOLD a word of the relay answers; None if it is not HELD."""
    code = U32_PAIR.unpack(message)[1]
    return code >> _NUMBER_SHIFT if code & (1 << _NUMBER_SHIFT) - 1 == HELD else None


def hint(node: int, kind: Hint, valid_ms: int, body: bytes = b"") -> bytes:
    """A word to the agent about a node."""
    size = HINT_HEADER.size + len(body)
    return HINT_HEADER.pack(size, HINT_CODE, 0, node, kind, valid_ms) + body
