"""Show a guest's terminal on this one: raw mode, window changes, Ctrl-] Ctrl-] to leave."""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel

from machinen_runtime.channel_conversation import Conversation, receive_beside
from machinen_runtime.channel_exec import TerminalSession, open_session
from machinen_runtime.channel_format import RunRequest
from machinen_runtime.channel_sessions import Exited, Output
from machinen_runtime.channel_stream import ChannelUnavailableError
from machinen_runtime.detach_keys import HOLD_MS, DetachKeys
from machinen_runtime.errors import ErrorCode, ExecError

STDIN, STDOUT = 0, 1
READ_BYTES = 65536
FALLBACK_SIZE = (80, 24)
END_OF_FILE = b"\x04"
"""What a terminal's line discipline takes for the end of input (VEOF)."""

# Leaves what a full-screen program has switched on: alternate screen, mouse, paste, hidden cursor,
# application keys, colours, scroll region. Sources: xterm's ctlseqs, DECSTR.
RESET_TERMINAL = (
    b"\x1b[?1049l\x1b[?1000;1002;1003;1004;1006;2004l\x1b[?1l\x1b>\x1b[?25h\x1b[r\x1b[0m\x1b[!p\r\n"
)


@dataclass(frozen=True, slots=True)
class Left:
    """The user typed Ctrl-] Ctrl-]; the session goes on."""


Outcome = Left | int
"""An int is the exit code of the session's process."""


async def run_on_terminal(
    vsock_path: str, command: Sequence[str] | None, env: Mapping[str, str], cwd: str | None
) -> int:
    """Run a command (None: a login shell) on a terminal of its own, shown here.

    Every key goes to the guest: the command ends with its terminal, so there is nothing to leave.
    """
    request = RunRequest(
        cmd=command, login=command is None, env=env, cwd=cwd, stdin=True, pty=terminal_size()
    )
    try:
        conversation = await Conversation.open(vsock_path, timeout_ms=5000, retry_ms=100)
    except ChannelUnavailableError as error:
        raise ExecError(ErrorCode.EXEC_AGENT_UNAVAILABLE, str(error), retryable=True) from error
    try:
        await conversation.send(request.to_bytes())
        outcome = await show_session(TerminalSession(conversation), can_leave=False)
    finally:
        conversation.close()
    assert not isinstance(outcome, Left)
    return outcome


async def attach_session(
    vsock_path: str | os.PathLike[str],
    name: str,
    *,
    command: str | None = None,
    create: bool = False,
) -> Outcome:
    """Show session `name` here until it ends or the user leaves."""
    cols, rows = terminal_size()
    async with open_session(
        vsock_path, name, cols=cols, rows=rows, cmd=command, create=create
    ) as session:
        return await show_session(session)


async def show_session(session: TerminalSession, *, can_leave: bool = True) -> Outcome:
    """Move bytes both ways. EXEC_AGENT_UNAVAILABLE if the link breaks."""
    keyboard = _Keyboard(session, DetachKeys() if can_leave else None)
    with raw_terminal():
        try:
            return await receive_beside(
                partial(_until_left, keyboard, partial(_show_output, session)),
                partial(_follow_size, session),
                keyboard.read,
            )
        except anyio.EndOfStream:
            raise ExecError(
                ErrorCode.EXEC_AGENT_UNAVAILABLE,
                "the link to the guest was lost: the VM is gone, or this terminal was too slow",
            ) from None


async def _until_left(keyboard: _Keyboard, show: Callable[[], Coroutine[Any, Any, int]]) -> Outcome:
    """Show output until the session ends, or until the keyboard says that the user left."""
    outcome: list[Outcome] = []
    with keyboard.left_scope:
        outcome.append(await show())
    return outcome[0] if outcome else Left()


async def _show_output(session: TerminalSession) -> int:
    while True:
        match await session.receive():
            case Output(data):
                write_all(STDOUT, data)
            case Exited(code):
                return code
            case _:
                pass


async def _follow_size(session: TerminalSession) -> None:
    if not os.isatty(STDOUT):
        return
    with anyio.open_signal_receiver(signal.SIGWINCH) as signals:
        async for _ in signals:
            await session.resize(*terminal_size())


class _Keyboard:
    """Stdin: a terminal, a pipe or a file."""

    def __init__(self, session: TerminalSession, detach_keys: DetachKeys | None) -> None:
        self._session = session
        self._keys = detach_keys
        self._is_terminal = os.isatty(STDIN)
        self.left_scope = anyio.CancelScope()

    async def read(self) -> None:
        """Send what is typed until the user leaves or the input ends."""
        async with _readable_chunks(STDIN) as next_chunk:
            while True:
                chunk = await self._next(next_chunk)
                if not chunk:
                    break
                if await self._type(chunk):
                    self.left_scope.cancel()
                    return
        if not self._is_terminal:
            await self._session.send(END_OF_FILE)

    async def _next(self, next_chunk: Callable[[], Coroutine[Any, Any, bytes]]) -> bytes:
        while True:
            holding = self._keys is not None and self._keys.holding
            with anyio.move_on_after(HOLD_MS / 1000 if holding else None):
                return await next_chunk()
            if self._keys is not None:
                await self._session.send(self._keys.flush())

    async def _type(self, chunk: bytes) -> bool:
        if self._keys is None or not self._is_terminal:
            await self._session.send(chunk)
            return False
        typed = self._keys.feed(chunk)
        await self._session.send(typed.forward)
        return typed.detached


@asynccontextmanager
async def _readable_chunks(
    descriptor: int,
) -> AsyncGenerator[Callable[[], Coroutine[Any, Any, bytes]]]:
    """A function that waits for the next bytes; b"" at the end, or if `descriptor` is closed."""

    async def next_chunk() -> bytes:
        await anyio.lowlevel.checkpoint()
        # epoll refuses files and /dev/null, which are always ready.
        with suppress(PermissionError):
            await anyio.wait_readable(descriptor)
        try:
            return os.read(descriptor, READ_BYTES)
        except OSError:
            return b""

    try:
        os.fstat(descriptor)
    except OSError:

        async def nothing() -> bytes:
            return b""

        yield nothing
        return
    yield next_chunk


@contextmanager
def raw_terminal() -> Generator[None]:
    """Put the terminal on stdin into raw mode for the length of the block; no terminal, no mode."""
    if not os.isatty(STDIN):
        yield
        return
    before = termios.tcgetattr(STDIN)
    tty.setraw(STDIN, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(STDIN, termios.TCSADRAIN, before)
        if os.isatty(STDOUT):
            write_all(STDOUT, RESET_TERMINAL)


def terminal_size() -> tuple[int, int]:
    """Columns and rows of the terminal on stdout, else 80 by 24."""
    for descriptor in (STDOUT, STDIN):
        with suppress(OSError):
            size = os.get_terminal_size(descriptor)
            if size.columns > 0 and size.lines > 0:
                return size.columns, size.lines
    return FALLBACK_SIZE


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte; a terminal that is being resized may take a part only."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def notice(text: str) -> None:
    """Say something to the user, if one is there, without touching the data on stdout."""
    if sys.stderr.isatty():
        sys.stderr.write(f"{text}\n")
