"""Pipes to a VM this process booted, as anyio streams: session `main` and the console."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream

TAIL_BYTES = 1_048_576
READ_BYTES = 65536


class PipeReceiveStream(ByteReceiveStream):
    """What the VM writes. Without a descriptor: an empty stream.

    The last 1 MiB of what passed stays in `tail`, so that `output()` has it whoever read it.
    """

    def __init__(
        self, descriptor: int | None, on_chunk: Callable[[bytes], None] | None = None
    ) -> None:
        self._descriptor = descriptor
        self._on_chunk = on_chunk
        self._chunks: deque[bytes] = deque()
        self._kept_bytes = 0
        self._reading = anyio.Lock()
        if descriptor is not None:
            os.set_blocking(descriptor, False)

    async def receive(self, max_bytes: int = READ_BYTES) -> bytes:
        """The next bytes; anyio.EndOfStream when the VM is gone."""
        async with self._reading:
            while self._descriptor is not None:
                try:
                    data = os.read(self._descriptor, max_bytes)
                except BlockingIOError:
                    with suppress(anyio.ClosedResourceError):  # by `close`: the loop ends
                        await anyio.wait_readable(self._descriptor)
                    continue
                if not data:
                    self.close()
                    break
                self._keep(data)
                return data
        await anyio.lowlevel.checkpoint()
        raise anyio.EndOfStream

    async def drain(self) -> None:
        """Read to the end; what was read is in `tail`."""
        try:
            while True:
                await self.receive()
        except anyio.EndOfStream:
            return

    @property
    def tail(self) -> bytes:
        """The last part of everything received, at most 1 MiB."""
        return b"".join(self._chunks)[-TAIL_BYTES:]

    async def aclose(self) -> None:
        """Close our end; what the VM writes from here on is lost."""
        self.close()
        await anyio.lowlevel.checkpoint()

    def close(self) -> None:
        """As `aclose`, at once."""
        if self._descriptor is not None:
            anyio.notify_closing(self._descriptor)  # whoever waits for it learns of it
            os.close(self._descriptor)
            self._descriptor = None

    def _keep(self, data: bytes) -> None:
        self._chunks.append(data)
        self._kept_bytes += len(data)
        while self._kept_bytes - len(self._chunks[0]) >= TAIL_BYTES:
            self._kept_bytes -= len(self._chunks.popleft())
        if self._on_chunk is not None:
            self._on_chunk(data)


class PipeSendStream(ByteSendStream):
    """What is typed into the VM. Without a descriptor it takes everything and keeps nothing."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        if descriptor is not None:
            os.set_blocking(descriptor, False)

    async def send(self, item: bytes) -> None:
        """Send all bytes; anyio.BrokenResourceError when the VM is gone.

        anyio.ClosedResourceError if the stream is closed meanwhile.
        """
        view = memoryview(item)
        while view and self._descriptor is not None:
            try:
                view = view[os.write(self._descriptor, view) :]
            except BlockingIOError:
                await anyio.wait_writable(self._descriptor)
            except BrokenPipeError as error:
                raise anyio.BrokenResourceError from error
        await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Close our end; the session goes on without input from here."""
        self.close()
        await anyio.lowlevel.checkpoint()

    def close(self) -> None:
        """As `aclose`, at once."""
        if self._descriptor is not None:
            anyio.notify_closing(self._descriptor)  # whoever waits for it learns of it
            os.close(self._descriptor)
            self._descriptor = None
