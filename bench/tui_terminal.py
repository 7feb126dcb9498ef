"""The application in a pseudo-terminal whose other end is ours: what one types and sees, and when.

The terminal answers what a terminal is asked (our own emulator does), so the application marks each
frame as an update (mode 2026). Times are taken when bytes arrive, before anything looks at them.
"""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import anyio
import psutil

from machinen_tui.terminal_model import TerminalModel

READ_BYTES = 1 << 16
FRAME = b"\x1b[?2026h"
LETTERS = "QZXVWJK=^&"
"""What is typed: none of it ends an escape sequence the application writes."""
END_S = 10


class OuterTerminal:
    """The terminal the application runs in, and the process in it."""

    def __init__(self, process: subprocess.Popen[bytes], fd: int, size: tuple[int, int]) -> None:
        self.process = psutil.Process(process.pid)
        self.started = time.monotonic()
        self.frames = 0
        self.bytes_read = 0
        self.tap: Callable[[bytes, float], None] | None = None
        """Sees each piece of output and when it came."""
        self._popen = process
        self._fd = fd
        self._came = anyio.Event()
        self._model = TerminalModel(*size, on_reply=self.type)

    def type(self, data: bytes) -> None:
        """What a person types, or the terminal answers."""
        os.write(self._fd, data)

    def screen(self) -> str:
        """The text on the screen."""
        return self._model.screen_text()

    def unused_letter(self) -> str:
        """One of LETTERS that is nowhere on the screen.

        Raises:
            RuntimeError: all are.
        """
        shown = self.screen()
        for letter in LETTERS:
            if letter not in shown:
                return letter
        raise RuntimeError(f"every letter of {LETTERS} is on the screen:\n{shown}")

    async def until(self, condition: Callable[[], object], what: str, seconds: float = 60) -> None:
        """Wait until something written made `condition` true.

        Raises:
            RuntimeError: it did not in time, with what is on the screen.
        """
        with anyio.move_on_after(seconds):
            while not condition():
                self._came = anyio.Event()
                await self._came.wait()
            return
        raise RuntimeError(f"waited {seconds:g} s for {what}:\n{self.screen()}")

    async def shown(self, text: str, seconds: float = 60) -> None:
        """Wait until `text` is on the screen."""
        await self.until(lambda: text in self.screen(), repr(text), seconds)

    async def gone(self, text: str, seconds: float = 60) -> None:
        """Wait until `text` is nowhere on the screen."""
        await self.until(lambda: text not in self.screen(), f"the end of {text!r}", seconds)

    async def type_and_time(self, data: bytes, wanted: bytes, seconds: float = 60) -> float:
        """Type; milliseconds until `wanted` is written, whatever else is."""
        seen = list[float]()
        tail = b""

        def look(piece: bytes, at: float) -> None:
            nonlocal tail
            if not seen and wanted in tail + piece:
                seen.append(at)
            tail = piece[-len(wanted) :]

        self.tap = look
        try:
            started = time.monotonic()
            self.type(data)
            await self.until(lambda: seen, repr(wanted), seconds)
        finally:
            self.tap = None
        return (seen[0] - started) * 1000

    async def type_and_see(self, data: bytes, wanted: str, seconds: float = 60) -> float:
        """Type; milliseconds until `wanted` is on the screen, where it is not yet."""
        came = [0.0]

        def look(piece: bytes, at: float) -> None:
            came[0] = at

        self.tap = look
        try:
            started = time.monotonic()
            self.type(data)
            await self.until(lambda: wanted in self.screen(), repr(wanted), seconds)
        finally:
            self.tap = None
        return (came[0] - started) * 1000

    def cpu_s(self) -> float:
        """Processor time of the application so far."""
        times = self.process.cpu_times()
        return times.user + times.system

    async def read(self) -> None:
        """Take what the application writes until it ends; run beside everything else."""
        while True:
            await anyio.wait_readable(self._fd)
            at = time.monotonic()
            try:
                piece = os.read(self._fd, READ_BYTES)
            except OSError:  # EIO: the application has closed its end
                return
            if not piece:
                return
            self.bytes_read += len(piece)
            self.frames += piece.count(FRAME)
            if self.tap is not None:
                self.tap(piece, at)
            self._model.feed(piece)
            self._came.set()

    def end(self) -> None:
        """End the process; close the terminal."""
        self._popen.terminate()
        try:
            self._popen.wait(END_S)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
        os.close(self._fd)


@asynccontextmanager
async def running(
    module: Sequence[str], environment: Mapping[str, str], size: tuple[int, int] = (120, 40)
) -> AsyncGenerator[OuterTerminal]:
    """`python -m MODULE …` in a terminal of its own for the length of the block."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", *module],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor", **environment},
    )  # fmt: skip
    os.close(theirs)
    os.set_blocking(ours, False)
    terminal = OuterTerminal(process, ours, size)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(terminal.read)
            yield terminal
            tasks.cancel_scope.cancel()
    finally:
        with suppress(ProcessLookupError):
            terminal.end()
