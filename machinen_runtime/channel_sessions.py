"""Terminals that outlive their clients: open, list and kill named sessions.

docs/protocol.md 3.2. Leaving a session never ends it.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

import anyio

from machinen_runtime.channel_conversation import Conversation, LinkLostError
from machinen_runtime.channel_format import (
    Exit,
    Failure,
    Replay,
    Reply,
    RunRequest,
    Size,
    Stderr,
    Stdout,
    checked_session_name,
    checked_size,
    failure_error,
    input_frames,
    resize_frame,
)
from machinen_runtime.channel_stream import ChannelUnavailableError
from machinen_runtime.errors import ErrorCode, ExecError

CONNECT_TIMEOUT_MS = 5_000
CONNECT_RETRY_MS = 100
NEW_SESSION_SIZE = (80, 24)
MAX_LIST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Output:
    """What the session wrote: now, or with `replay` before we came."""

    data: bytes
    replay: bool


@dataclass(frozen=True, slots=True)
class Resized:
    """The terminal has this size: sent first, and whenever any client changes it."""

    cols: int
    rows: int


@dataclass(frozen=True, slots=True)
class ReplayDone:
    """All earlier output was sent; what follows is live."""


@dataclass(frozen=True, slots=True)
class Exited:
    """The session's process ended; no event follows."""

    code: int


SessionEvent: TypeAlias = Output | Resized | ReplayDone | Exited


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """One session of a guest."""

    name: str
    pid: int
    """In the guest."""
    cols: int
    rows: int
    clients: int
    started_at: float
    """By the guest's clock, in ms since 1970."""


class TerminalSession:
    """One client of a session. Made by `open_session()`."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._events: deque[SessionEvent] = deque()

    async def receive(self) -> SessionEvent:
        """The next event. anyio.EndOfStream if the channel closed without the session ending."""
        while not self._events:
            try:
                replies = await self._conversation.receive()
            except LinkLostError as error:
                raise anyio.EndOfStream from error
            self._events.extend(_session_event(reply) for reply in replies)
        return self._events.popleft()

    async def send(self, data: bytes) -> None:
        """Type `data` into the session."""
        if data:
            await self._conversation.send(input_frames(data))

    async def resize(self, cols: int, rows: int) -> None:
        """Give the terminal another size, for all its clients."""
        await self._conversation.send(resize_frame(cols, rows))


@asynccontextmanager
async def open_session(
    vsock_path: str | os.PathLike[str],
    name: str = "main",
    *,
    cols: int | None = None,
    rows: int | None = None,
    cmd: str | Sequence[str] | None = None,
    create: bool = False,
    connect_timeout_ms: float = CONNECT_TIMEOUT_MS,
) -> AsyncGenerator[TerminalSession]:
    """Attach to session `name` for the length of the block.

    Without `cols` and `rows` the terminal keeps its size (a new one: 80 by 24). With `create` an
    absent session is started with `cmd` (None: root's login shell); without, it is
    EXEC_SESSION_NOT_FOUND, raised by the first `receive()`.
    """
    size = None if cols is None or rows is None else checked_size(cols, rows)
    if size is None and create:
        size = NEW_SESSION_SIZE
    request = RunRequest(
        session=checked_session_name(name),
        cmd=cmd if create else None,
        login=create and cmd is None,
        attach=not create,
        stdin=True,
        pty=size,
    ).to_bytes()
    conversation = await _connect(vsock_path, connect_timeout_ms)
    try:
        await conversation.send(request)
        yield TerminalSession(conversation)
    finally:
        conversation.close()


async def list_sessions(
    vsock_path: str | os.PathLike[str], *, connect_timeout_ms: float = CONNECT_TIMEOUT_MS
) -> list[SessionInfo]:
    """The sessions of a guest, as its agent lists them."""
    text = await _ask(vsock_path, b"PTYLIST\n", connect_timeout_ms)
    return [_session_info(line) for line in text.decode("utf-8", "replace").splitlines()]


async def kill_session(
    vsock_path: str | os.PathLike[str],
    name: str,
    *,
    connect_timeout_ms: float = CONNECT_TIMEOUT_MS,
) -> None:
    """End session `name`: HUP, after a second KILL. EXEC_SESSION_NOT_FOUND if there is none."""
    wanted = checked_session_name(name).encode()
    await _ask(vsock_path, b"PTYKILL %d\n%b" % (len(wanted), wanted), connect_timeout_ms)


async def _connect(vsock_path: str | os.PathLike[str], timeout_ms: float) -> Conversation:
    try:
        return await Conversation.open(vsock_path, timeout_ms=timeout_ms, retry_ms=CONNECT_RETRY_MS)
    except ChannelUnavailableError as error:
        raise _unavailable(error) from error


async def _ask(vsock_path: str | os.PathLike[str], request: bytes, timeout_ms: float) -> bytes:
    """Send a request that is answered at once, and return its output."""
    conversation = await _connect(vsock_path, timeout_ms)
    try:
        with anyio.move_on_after(timeout_ms / 1000):
            await conversation.send(request)
            return await _answer(conversation)
    except LinkLostError as error:
        raise _unavailable(error) from error
    finally:
        conversation.close()
    raise ExecError(
        ErrorCode.EXEC_AGENT_TIMEOUT,
        f"the guest did not answer within {timeout_ms:g} ms",
        retryable=True,
    )


async def _answer(conversation: Conversation) -> bytes:
    collected = bytearray()
    while True:
        for reply in await conversation.receive():
            match reply:
                case Stdout(data) if len(collected) + len(data) <= MAX_LIST_BYTES:
                    collected += data
                case Exit(0):
                    return bytes(collected)
                case Failure():
                    raise failure_error(reply)
                case _:
                    raise _violation(reply)


def _session_event(reply: Reply) -> SessionEvent:
    match reply:
        case Stdout(data):
            return Output(data, replay=False)
        case Replay(b""):
            return ReplayDone()
        case Replay(data):
            return Output(data, replay=True)
        case Size(cols, rows):
            return Resized(cols, rows)
        case Exit(code):
            return Exited(code)
        case Failure():
            raise failure_error(reply)
        case Stderr():
            raise _violation(reply)


def _session_info(line: str) -> SessionInfo:
    try:
        name, *numbers = line.split("\t")
        pid, cols, rows, clients, started = (int(number) for number in numbers[:5])
        checked_session_name(name)
    except (ValueError, ExecError) as error:
        raise ExecError(
            ErrorCode.EXEC_PROTOCOL, f"not a line of a session list: {line!r:.80}"
        ) from error
    return SessionInfo(
        name=name, pid=pid, cols=cols, rows=rows, clients=clients, started_at=started * 1000.0
    )


def _unavailable(error: Exception) -> ExecError:
    return ExecError(ErrorCode.EXEC_AGENT_UNAVAILABLE, str(error), retryable=True)


def _violation(reply: Reply) -> ExecError:
    return ExecError(ErrorCode.EXEC_PROTOCOL, f"not a reply to this request: {reply!r:.80}")
