"""Who is at the other end of a Unix socket: the same user, or nobody we speak with.

The sockets are 0600 in a directory that is 0700; this is the second lock, and holds where a
directory was opened up, or a socket was handed on. SO_PEERCRED, unix(7): the peer's ids when it
connected, or when it began to listen.
"""

from __future__ import annotations

import errno
import os
import socket
import struct

_UCRED = struct.Struct("=iii")
ROOT = 0


def peer_uid(connected: socket.socket) -> int:
    """The user id of the process at the other end."""
    credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return _UCRED.unpack(credentials)[1]


def is_trusted(connected: socket.socket) -> bool:
    """Whether the other end is our own user, or root."""
    return peer_uid(connected) in (os.geteuid(), ROOT)


def require_trusted(connected: socket.socket) -> None:
    """PermissionError unless the other end is our own user, or root."""
    if not is_trusted(connected):
        reason = f"the other end belongs to user id {peer_uid(connected)}"
        raise PermissionError(errno.EPERM, reason)
