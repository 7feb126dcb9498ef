"""One conversation on the exec channel: replies read in batches, input sent beside them."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import anyio
from anyio.abc import ByteReceiveStream

from machinen_runtime.channel_format import (
    EXEC_PORT,
    INPUT_END,
    MAX_INPUT_BYTES,
    Reply,
    ReplyParser,
    input_frames,
)
from machinen_runtime.channel_stream import MAX_OPENING_BYTES, connect_channel
from machinen_runtime.unix_stream import UnixStream

READ_BYTES = 256 * 1024

T = TypeVar("T")
Sender = Callable[[], Coroutine[Any, Any, object]]


class LinkLostError(Exception):
    """The stream ended before the last reply. `answered`: some bytes of a reply had come."""

    def __init__(self, answered: bool) -> None:
        super().__init__("the link to the guest was lost before the command ended")
        self.answered = answered


class Conversation:
    """A connected exec stream. Close it with `close()`, in whatever state it is."""

    def __init__(self, stream: UnixStream) -> None:
        self._stream = stream
        self._parser = ReplyParser()
        self._send_lock = anyio.Lock()
        self.answered = False

    @classmethod
    async def open(
        cls,
        vsock_path: str | os.PathLike[str],
        *,
        timeout_ms: float,
        retry_ms: float,
        request: bytes = b"",
        ended: bool = False,
    ) -> Conversation:
        """Connect and send `request`; with `ended` nothing will follow it, not even a signal.

        ChannelUnavailableError when the time is over.
        """
        along = len(request) <= MAX_OPENING_BYTES
        stream = await connect_channel(
            vsock_path,
            EXEC_PORT,
            timeout_ms=timeout_ms,
            retry_ms=retry_ms,
            opening=request if along else b"",
            ended=ended and along,
        )
        conversation = cls(stream)
        if not along:
            try:
                await conversation.send(request)
            except BaseException:
                stream.close()
                raise
        return conversation

    async def send(self, data: bytes) -> None:
        """Send whole frames. A link that is gone is left for `receive()` to notice."""
        async with self._send_lock:
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                await self._stream.send(data)

    async def receive(self) -> list[Reply]:
        """The next replies, at least one. LinkLostError if the stream ended instead."""
        while True:
            try:
                data = await self._stream.receive(READ_BYTES)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                raise LinkLostError(self.answered) from None
            self.answered = True
            if replies := list(self._parser.feed(data)):
                return replies

    async def send_input(self, source: bytes | ByteReceiveStream) -> None:
        """Send all of `source` as the command's stdin, then its end."""
        if isinstance(source, bytes):
            for start in range(0, len(source), MAX_INPUT_BYTES):
                await self.send(input_frames(source[start : start + MAX_INPUT_BYTES]))
        else:
            with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
                while True:
                    await self.send(input_frames(await source.receive(READ_BYTES)))
        await self.send(INPUT_END)

    def close(self) -> None:
        """Close now. A command that still runs is hung up on; a named session goes on."""
        self._stream.close()


async def receive_beside(receive: Callable[[], Awaitable[T]], *senders: Sender) -> T:
    """Run the senders until `receive()` is done; its result or its exception, not in a group."""
    outcome: list[T] = []
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        for sender in senders:
            group.start_soon(sender)
        try:
            outcome.append(await receive())
        except Exception as error:
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return outcome[0]
