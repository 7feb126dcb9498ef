"""A program in a pseudo-terminal, kept as the guest's agent keeps a session."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import signal
import struct
import termios
from collections.abc import Sequence
from contextlib import suppress

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from machinen_runtime.channel_sessions import (
    Exited,
    Output,
    Resized,
    SessionEvent,
)
from machinen_runtime.errors import ErrorCode, ExecError

RING_BYTES = 256 * 1024


class FakeTerminal:
    """A program in a pseudo-terminal with a ring of its output, like a named session."""

    def __init__(self, cmd: Sequence[str], size: tuple[int, int], past: bytes = b"") -> None:
        self.size = size
        self.ring = bytearray(past)
        self.clients: list[MemoryObjectSendStream[SessionEvent]] = []
        self.exit_code: int | None = None
        self.bytes_typed = b""
        self.refusals = 0
        """So many clients are told that there is no such session."""
        self._cmd = cmd
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.environ.update(TERM="xterm-256color", PS1="# ", ENV="")
            os.execvp(cmd[0], list(cmd))
        os.set_blocking(self._fd, False)
        self.resize(*size)
        asyncio.get_running_loop().add_reader(self._fd, self._read)

    def resize(self, cols: int, rows: int) -> None:
        self.size = (cols, rows)
        with suppress(OSError):
            fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
        self._tell(Resized(cols, rows))

    def type(self, data: bytes) -> None:
        self.bytes_typed += data
        with suppress(OSError):
            os.write(self._fd, data)

    def say(self, data: bytes) -> None:
        """Output as if the program wrote it."""
        self.ring += data
        del self.ring[:-RING_BYTES]
        self._tell(Output(data, replay=False))

    def close(self) -> None:
        """End the program."""
        if self.exit_code is None:
            with suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
            self._ended()

    def _tell(self, event: SessionEvent) -> None:
        for client in list(self.clients):
            try:
                client.send_nowait(event)
            except (anyio.WouldBlock, anyio.BrokenResourceError, anyio.ClosedResourceError):
                continue

    def _read(self) -> None:
        if any(client.statistics().current_buffer_used > 40 for client in self.clients):
            asyncio.get_running_loop().remove_reader(self._fd)
            asyncio.get_running_loop().call_later(0.01, self._read_again)
            return
        try:
            data = os.read(self._fd, 16384)
        except OSError:
            data = b""
        if data:
            self.say(data)
        else:
            self._ended()

    def _read_again(self) -> None:
        if self.exit_code is None:
            asyncio.get_running_loop().add_reader(self._fd, self._read)

    def _ended(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        _, status = os.waitpid(self._pid, 0)
        code = os.waitstatus_to_exitcode(status)
        self.exit_code = code if code >= 0 else 128 - code
        self._tell(Exited(self.exit_code))


class FakeClient:
    """One end of a session."""

    def __init__(
        self, terminal: FakeTerminal, events: MemoryObjectReceiveStream[SessionEvent]
    ) -> None:
        self._terminal, self._events = terminal, events
        self._refused = terminal.refusals > 0
        terminal.refusals -= self._refused

    async def receive(self) -> SessionEvent:
        if self._refused:
            raise ExecError(ErrorCode.EXEC_SESSION_NOT_FOUND, "no session is called main")
        return await self._events.receive()

    async def send(self, data: bytes) -> None:
        self._terminal.type(data)

    async def resize(self, cols: int, rows: int) -> None:
        self._terminal.resize(cols, rows)
