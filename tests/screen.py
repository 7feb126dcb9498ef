"""A program on a terminal, watched by a test."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import psutil

from machinen_runtime.pty_process import PtyVmHandle, boot_pty

PATIENCE_S = 60.0


class Screen:
    """What a program shows. Each wait goes on after what the one before it has found."""

    def __init__(self, handle: PtyVmHandle) -> None:
        self.handle = handle
        self.shown = b""
        self._found = 0  # index into `shown`: where the next wait begins

    async def until(self, text: bytes) -> None:
        """Wait until the program shows `text`, after what was found before."""
        with anyio.move_on_after(PATIENCE_S):
            while text not in self.shown[self._found :]:
                self.shown += await self.handle.stdout.receive()
        at = self.shown.find(text, self._found)
        assert at >= 0, f"{text!r} did not come; shown: {self.shown!r}"
        self._found = at + len(text)

    async def until_it_waits(self) -> None:
        """Wait until the program sleeps: one that has shown its prompt may not wait for keys yet.

        An interrupt between the two is lost until the next key: Python's `input` looks for one
        before `select`, and `select` is not told.
        """
        process = psutil.Process(self.handle.pid)
        with anyio.fail_after(PATIENCE_S):
            while process.status() != psutil.STATUS_SLEEPING:
                await anyio.sleep(0.01)

    async def type(self, keys: bytes) -> None:
        await self.handle.stdin.send(keys)

    async def ended(self) -> int | None:
        """The program's exit code, once it has ended by itself."""
        with anyio.move_on_after(PATIENCE_S):
            self.shown = (await self.handle.output()).encode()
            return (await self.handle.wait()).code
        raise AssertionError(f"it did not end; shown: {self.shown!r}")


@asynccontextmanager
async def on_terminal(program: str, *args: str) -> AsyncGenerator[Screen]:
    """A program for the length of the block, whatever happens in it."""
    handle = boot_pty(binary=program, args=args)
    try:
        yield Screen(handle)
    finally:
        with anyio.CancelScope(shield=True):
            await handle.kill()
