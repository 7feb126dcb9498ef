"""A Unix socket as an anyio stream."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream

from vmm.peers import require_trusted


class UnixStream(ByteStream):
    """A connected socket as a byte stream; one task may receive while another sends.

    anyio's own stream for Unix sockets logs an InvalidStateError when its reader is cancelled just
    as data comes (4.16, asyncio), which would be written over a terminal UI.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Up to `max_bytes`. anyio.EndOfStream, BrokenResourceError or ClosedResourceError."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        waited = False
        while True:
            try:
                data = self._socket.recv(max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
                waited = True
            except OSError as error:
                raise self._broken(error) from error
            else:
                if not waited:  # others had no turn yet, and what was taken must not be lost
                    await anyio.lowlevel.cancel_shielded_checkpoint()
                if not data:
                    raise anyio.EndOfStream
                return data

    async def send(self, item: bytes) -> None:
        """Send all of `item`."""
        await anyio.lowlevel.checkpoint()
        rest = memoryview(item)
        while rest:
            try:
                rest = rest[self._socket.send(rest) :]
            except BlockingIOError:
                await anyio.wait_writable(self._socket)
            except OSError as error:
                raise self._broken(error) from error

    async def send_eof(self) -> None:
        """Tell the peer that nothing more will be sent."""
        with suppress(OSError):  # the peer is gone; receive() will tell
            self._socket.shutdown(socket.SHUT_WR)

    async def aclose(self) -> None:
        """Close at once."""
        self.close()

    def close(self) -> None:
        """Close at once; who waits to receive or send gets anyio.ClosedResourceError."""
        if self._socket.fileno() >= 0:
            anyio.notify_closing(self._socket)
            self._socket.close()

    def take_socket(self) -> socket.socket:
        """The socket, blocking from now on, for a thread to read or write; only `close()` is left.

        Whatever waits in that thread ends when the socket is shut down, not when it is closed.
        """
        self._socket.setblocking(True)
        return self._socket

    @property
    def extra_attributes(self) -> Mapping[Any, Any]:
        """None: nobody needs to look through to the socket."""
        return {}

    def _broken(self, error: OSError) -> Exception:
        if self._socket.fileno() < 0:
            return anyio.ClosedResourceError()
        return anyio.BrokenResourceError(str(error))


def connect_unix(path: str | os.PathLike[str]) -> UnixStream:
    """Connect to the socket at `path`; OSError if nobody listens there, or another user does.

    Never waits: a Unix socket connects at once, or fails with EAGAIN if the backlog is full.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.connect(os.fspath(path))
        require_trusted(connection)
    except BaseException:
        connection.close()
        raise
    return UnixStream(connection)
