"""Tell a guest the size of the window its session `main` is shown in, docs/protocol.md 3.3."""

from __future__ import annotations

import os
from types import TracebackType

import anyio

from machinen_runtime.channel_format import checked_size
from machinen_runtime.channel_stream import ChannelUnavailableError, connect_channel
from machinen_runtime.errors import ErrorCode, WinsizeError
from machinen_runtime.unix_stream import UnixStream

WINSIZE_PORT = 1974
CONNECT_TIMEOUT_MS = 10_000
CONNECT_RETRY_MS = 250
MAX_ANSWER_BYTES = 1024


class VsockWinsize:
    """A connection over which sizes go. Close it, or use it as an async context manager."""

    def __init__(self, stream: UnixStream) -> None:
        self._stream = stream
        self._last_sent: tuple[int, int] | None = None
        self._closed = False

    @classmethod
    async def connect(
        cls,
        vsock_path: str | os.PathLike[str],
        *,
        timeout_ms: float = CONNECT_TIMEOUT_MS,
        retry_ms: float = CONNECT_RETRY_MS,
    ) -> VsockWinsize:
        """Connect, trying until `timeout_ms` are over; WINSIZE_AGENT_UNAVAILABLE (retryable)."""
        try:
            stream = await connect_channel(
                vsock_path, WINSIZE_PORT, timeout_ms=timeout_ms, retry_ms=retry_ms
            )
        except ChannelUnavailableError as error:
            raise _unavailable(str(error), retryable=True) from error
        return cls(stream)

    async def send(self, cols: int, rows: int) -> None:
        """Send a size and wait for the guest's answer.

        A repeat of the last size is dropped, and so is everything after `close()`.
        """
        size = checked_size(cols, rows)
        if self._closed or size == self._last_sent:
            return
        try:
            await self._stream.send(b"%d %d\n" % size)
            answer = await self._receive_line()
        except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
            raise _unavailable("the link to the guest was lost", retryable=True) from error
        if not answer.startswith(b"ok "):
            raise _unavailable(f"the guest refused the size: {answer!r:.200}", retryable=False)
        self._last_sent = size

    def close(self) -> None:
        """Close the connection. May be called again."""
        self._closed = True
        self._stream.close()

    async def __aenter__(self) -> VsockWinsize:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def _receive_line(self) -> bytes:
        line = bytearray()
        while not line.endswith(b"\n"):
            line += await self._stream.receive(256)
            if len(line) > MAX_ANSWER_BYTES:
                raise _unavailable("the guest's answer is too long", retryable=False)
        return bytes(line)


def _unavailable(message: str, *, retryable: bool) -> WinsizeError:
    return WinsizeError(ErrorCode.WINSIZE_AGENT_UNAVAILABLE, message, retryable=retryable)
