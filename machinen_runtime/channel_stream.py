"""Connect to a service in a guest: the `CONNECT <port>` handshake on a VM's `vsock.sock`.

docs/protocol.md 2. The handshake is that of Firecracker's and cloud-hypervisor's hybrid vsock.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream

MAX_OK_LINE_BYTES = 32


class ChannelUnavailableError(Exception):
    """No stream to the guest could be had in time. Each channel has its own error for it."""


class ChannelStream(ByteStream):
    """A connected socket as a byte stream; one task may receive while another sends.

    anyio's own stream for Unix sockets logs an InvalidStateError when its reader is cancelled just
    as data comes (4.16, asyncio), which would be written over a terminal UI.
    """

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Up to `max_bytes`. anyio.EndOfStream, BrokenResourceError or ClosedResourceError."""
        await anyio.lowlevel.checkpoint()
        while True:
            try:
                data = self._socket.recv(max_bytes)
            except BlockingIOError:
                await anyio.wait_readable(self._socket)
            except OSError as error:
                raise self._broken(error) from error
            else:
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

    @property
    def extra_attributes(self) -> Mapping[Any, Any]:
        """None: nobody needs to look through to the socket."""
        return {}

    def _broken(self, error: OSError) -> Exception:
        if self._socket.fileno() < 0:
            return anyio.ClosedResourceError()
        return anyio.BrokenResourceError(str(error))


async def connect_channel(
    vsock_path: str | os.PathLike[str],
    port: int,
    *,
    timeout_ms: float,
    retry_ms: float = 250,
) -> ChannelStream:
    """A stream to `port` in the guest, just after the handshake: not a byte of it was read.

    A refused or dropped connection is tried again every `retry_ms` until `timeout_ms` are over,
    then ChannelUnavailableError is raised; at once if the VM's run directory is gone.
    """
    last_error: Exception | None = None
    with anyio.move_on_after(timeout_ms / 1000):
        while True:
            try:
                return await _connect_once(os.fspath(vsock_path), port)
            except (OSError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
                last_error = error
            if not _has_directory(vsock_path):
                raise ChannelUnavailableError("the VM is gone") from last_error
            await anyio.sleep(retry_ms / 1000)
    why = _reason(last_error)
    raise ChannelUnavailableError(
        f"no answer on port {port} of {vsock_path}: {why}"
    ) from last_error


async def _connect_once(vsock_path: str, port: int) -> ChannelStream:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    stream = ChannelStream(connection)
    try:
        # Never waits: a Unix socket connects at once, or fails with EAGAIN if the backlog is full.
        connection.connect(vsock_path)
        await stream.send(b"CONNECT %d\n" % port)
        line = await _receive_line(stream)
    except BaseException:
        stream.close()
        raise
    if not line.startswith(b"OK "):
        stream.close()
        raise ChannelUnavailableError(f"the monitor answered CONNECT with {line!r}")
    return stream


async def _receive_line(stream: ChannelStream) -> bytes:
    """The answer to CONNECT. The stream's first bytes may follow it at once: they stay unread."""
    line = bytearray()
    while not line.endswith(b"\n"):
        shortest_rest = len(b"OK 1\n") - len(line)
        line += await stream.receive(max(1, shortest_rest))
        if len(line) > MAX_OK_LINE_BYTES:
            raise ChannelUnavailableError("the monitor's answer to CONNECT is too long")
    return bytes(line)


def _has_directory(path: str | os.PathLike[str]) -> bool:
    return os.path.isdir(os.path.dirname(os.fspath(path)) or ".")


def _reason(error: Exception | None) -> str:
    if error is None:
        return "timed out"
    if isinstance(error, anyio.EndOfStream):
        return "the guest refused the stream"
    return str(error) or type(error).__name__
