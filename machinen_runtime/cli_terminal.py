"""Show a guest's terminal on this one: raw mode, window changes, Ctrl-] Ctrl-] to leave."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from machinen_runtime.channel_conversation import Conversation, receive_beside
from machinen_runtime.channel_exec import TerminalSession, open_session
from machinen_runtime.channel_format import RunRequest
from machinen_runtime.channel_sessions import Exited, Output, ReplayDone
from machinen_runtime.channel_stream import ChannelUnavailableError
from machinen_runtime.detach_keys import HOLD_MS, DetachKeys
from machinen_runtime.errors import ErrorCode, ExecError
from machinen_runtime.terminal_io import (
    STDIN,
    STDOUT,
    DescriptorReceiveStream,
    ScreenWatch,
    own_terminal_size,
    raw_terminal,
    strip_queries,
    terminal_size,
    write_all,
)

MAX_REPLAY_BYTES = 1 << 20
END_OF_FILE = b"\x04"
"""What a terminal's line discipline takes for the end of input (VEOF)."""


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
        session = TerminalSession(conversation)
        outcome = await show_session(session, can_leave=False, pass_end_on=True)
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
    pass_end_on: bool = False,
) -> Outcome:
    """Show session `name` here until it ends or the user leaves.

    If stdin is no terminal its end is not the session's, which others may use, too: output goes on.
    With `pass_end_on` it is typed as Ctrl-D. Without any terminal here the session keeps its size,
    which is that of those who look at it.
    """
    cols, rows = own_terminal_size() or (None, None)
    async with open_session(
        vsock_path, name, cols=cols, rows=rows, cmd=command, create=create
    ) as session:
        return await show_session(session, pass_end_on=pass_end_on)


async def show_session(
    session: TerminalSession, *, can_leave: bool = True, pass_end_on: bool = False
) -> Outcome:
    """Move bytes both ways. EXEC_AGENT_UNAVAILABLE if the link breaks."""
    keyboard = _Keyboard(session, DetachKeys() if can_leave else None, pass_end_on)
    screen = ScreenWatch()
    with raw_terminal():
        try:
            return await receive_beside(
                partial(_until_left, keyboard, partial(_show_output, session, screen)),
                partial(_follow_size, session),
                keyboard.read,
            )
        except anyio.EndOfStream:
            raise ExecError(
                ErrorCode.EXEC_AGENT_UNAVAILABLE,
                "the link to the guest was lost: the VM is gone, or this terminal was too slow",
            ) from None
        finally:
            if os.isatty(STDIN) and os.isatty(STDOUT):
                write_all(STDOUT, screen.reset_sequence())


async def _until_left(keyboard: _Keyboard, show: Callable[[], Coroutine[Any, Any, int]]) -> Outcome:
    """Show output until the session ends, or until the keyboard says that the user left."""
    outcome: list[Outcome] = []
    with keyboard.left_scope:
        outcome.append(await show())
    return outcome[0] if outcome else Left()


async def _show_output(session: TerminalSession, screen: ScreenWatch) -> int:
    replay = bytearray()  # kept until it is whole, because a query may be cut by a piece's end
    while True:
        match await session.receive():
            case Output(data, replay=True) if len(replay) < MAX_REPLAY_BYTES:
                replay += data
            case ReplayDone():
                old = strip_queries(bytes(replay))
                screen.feed(old)
                write_all(STDOUT, old)
                replay.clear()
            case Output(data):
                screen.feed(data)
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

    def __init__(
        self, session: TerminalSession, detach_keys: DetachKeys | None, pass_end_on: bool
    ) -> None:
        self._session = session
        self._keys = detach_keys
        self._stdin = DescriptorReceiveStream(STDIN)
        self._is_terminal = os.isatty(STDIN)
        self._pass_end_on = pass_end_on and not self._is_terminal
        self.left_scope = anyio.CancelScope()

    async def read(self) -> None:
        """Send what is typed until the user leaves or the input ends."""
        while chunk := await self._next():
            if await self._type(chunk):
                self.left_scope.cancel()
                return
        if self._pass_end_on:
            await self._session.send(END_OF_FILE)
        elif not self._is_terminal and self._keys is not None:
            notice("[stdin is at its end: nothing more is typed; Ctrl-C ends the watching]")

    async def _next(self) -> bytes:
        """The next bytes typed; b"" at the end. A held key goes out when its time is over."""
        while True:
            holding = self._keys is not None and self._keys.holding
            with suppress(anyio.EndOfStream):
                with anyio.move_on_after(HOLD_MS / 1000 if holding else None):
                    return await self._stdin.receive()
                if self._keys is not None:
                    await self._session.send(self._keys.flush())
                continue
            return b""

    async def _type(self, chunk: bytes) -> bool:
        if self._keys is None or not self._is_terminal:
            await self._session.send(chunk)
            return False
        typed = self._keys.feed(chunk)
        await self._session.send(typed.forward)
        return typed.detached


def notice(text: str) -> None:
    """Say something to the user, if one is there, on a line of its own below the guest's output."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\n{text}\n")
