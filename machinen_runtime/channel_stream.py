"""Connect to a service in a guest: the `CONNECT <port>` handshake on a VM's `vsock.sock`.

docs/protocol.md 2. The handshake is that of Firecracker's and cloud-hypervisor's hybrid vsock.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path

import anyio

from machinen_runtime.errors import MachinenError
from machinen_runtime.unix_stream import UnixStream, connect_unix
from vmm.requests import CONTROL_SOCKET

MAX_OK_LINE_BYTES = 32
MAX_OPENING_BYTES = 3072
"""The monitor reads so much together with CONNECT, whatever becomes of it."""
STATUS_TIMEOUT_S = 2.0
PAUSED = "it is paused; resume it first"
ABANDONED = "the VM is gone: its monitor was killed; `machinen gc` removes what it left"


class ChannelUnavailableError(Exception):
    """No stream to the guest could be had in time. Each channel has its own error for it."""


async def connect_channel(
    vsock_path: str | os.PathLike[str],
    port: int,
    *,
    timeout_ms: float,
    retry_ms: float = 250,
    opening: bytes = b"",
    ended: bool = False,
) -> UnixStream:
    """A stream to `port` in the guest, just after the handshake: not a byte of it was read.

    `opening` are its first bytes, at most MAX_OPENING_BYTES, sent along with the handshake: the
    guest has them one turn sooner. With `ended` nothing will follow them.

    A refused or dropped connection is tried again every `retry_ms` until `timeout_ms` are over,
    then ChannelUnavailableError is raised; at once if the VM's run directory is gone.
    """
    last_error: Exception | None = None
    with anyio.move_on_after(timeout_ms / 1000):
        while True:
            try:
                return await _connect_once(os.fspath(vsock_path), port, opening, ended)
            except (OSError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
                last_error = error
                if isinstance(error, ConnectionRefusedError) and is_abandoned(vsock_path):
                    raise ChannelUnavailableError(ABANDONED) from error
            if not _has_directory(vsock_path):
                raise ChannelUnavailableError("the VM is gone") from last_error
            await anyio.sleep(retry_ms / 1000)
    why = await why_silent(vsock_path) or _reason(last_error)
    raise ChannelUnavailableError(
        f"no answer on port {port} of {vsock_path}: {why}"
    ) from last_error


def is_abandoned(vsock_path: str | os.PathLike[str]) -> bool:
    """Whether a VM whose `vsock.sock` refuses us refuses all: its monitor was killed."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(os.fspath(Path(vsock_path).with_name(CONTROL_SOCKET)))
        except ConnectionRefusedError:
            return True
        except OSError:
            return False  # it is not there yet, or has too much to do
    return False


async def why_silent(vsock_path: str | os.PathLike[str]) -> str:
    """Why a VM does not answer, as its monitor knows: it stands still. Empty: it should answer."""
    from machinen_runtime.monitor_client import MonitorClient

    with anyio.move_on_after(STATUS_TIMEOUT_S), suppress(MachinenError):
        status = await MonitorClient(Path(vsock_path).parent).status()
        return status.trouble or (PAUSED if status.state == "paused" else "")
    return ""


async def _connect_once(vsock_path: str, port: int, opening: bytes, ended: bool) -> UnixStream:
    stream = connect_unix(vsock_path)
    try:
        await stream.send(b"CONNECT %d\n" % port + opening)
        if ended:
            await stream.send_eof()
        line = await _receive_line(stream)
    except BaseException:
        stream.close()
        raise
    if not line.startswith(b"OK "):
        stream.close()
        raise ChannelUnavailableError(f"the monitor answered CONNECT with {line!r}")
    return stream


async def _receive_line(stream: UnixStream) -> bytes:
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
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
