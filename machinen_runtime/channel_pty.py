"""A command on a terminal of its own: what `VsockExec.start_pty` and `exec_pty` return."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream

from machinen_runtime.channel_conversation import Conversation, LinkLostError, receive_beside
from machinen_runtime.channel_format import (
    Exit,
    Failure,
    RunRequest,
    Stdout,
    checked_size,
    failure_error,
    resize_frame,
)
from machinen_runtime.channel_stream import ChannelUnavailableError
from machinen_runtime.errors import ErrorCode, ExecError


@dataclass(frozen=True, slots=True, kw_only=True)
class VsockExecPtyResult:
    """How a command on a terminal ended."""

    exit_code: int


class VsockExecPtyHandle:
    """A command on a terminal: `await handle.result` runs it, the rest may be called meanwhile."""

    def __init__(
        self,
        vsock_path: str | os.PathLike[str] | None,
        request: RunRequest,
        stdin: ByteReceiveStream,
        stdout: ByteSendStream,
        connect_timeout_ms: float,
    ) -> None:
        self._vsock_path = vsock_path
        self._request = request
        self._stdin = stdin
        self._stdout = stdout
        self._connect_timeout_ms = connect_timeout_ms
        self._size = request.pty
        self._resized = anyio.Event()
        self._scope = anyio.CancelScope()
        self._started = False
        self._ended = anyio.Event()
        self._outcome: VsockExecPtyResult | Exception = _hung_up()

    @property
    def result(self) -> Awaitable[VsockExecPtyResult]:
        """Runs the command and gives its exit code; awaited again, the same once more.

        Raises:
            ExecError: EXEC_VSOCK_UNAVAILABLE, EXEC_AGENT_UNAVAILABLE (not retryable),
                EXEC_PROTOCOL, or what the guest refused.
        """
        return _Result(self)

    def resize(self, cols: int, rows: int) -> None:
        """Tell the terminal its size; call it when your own window changes."""
        self._size = checked_size(cols, rows)
        self._resized.set()

    def cancel(self) -> None:
        """Hang up: the command gets SIGHUP, `result` raises EXEC_AGENT_UNAVAILABLE."""
        self._scope.cancel()

    async def settle(self) -> VsockExecPtyResult:
        """What `result` awaits."""
        if self._started:
            await self._ended.wait()
        else:
            self._started = True
            try:
                with self._scope:
                    self._outcome = await self._run()
            except Exception as error:
                self._outcome = error
            finally:
                self._ended.set()
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    async def _run(self) -> VsockExecPtyResult:
        if self._vsock_path is None:
            raise ExecError(
                ErrorCode.EXEC_VSOCK_UNAVAILABLE, "this VM has no socket to run commands through"
            )
        try:
            # One attempt: a terminal is opened in a VM that runs, not in one that comes up.
            conversation = await Conversation.open(
                self._vsock_path,
                timeout_ms=self._connect_timeout_ms,
                retry_ms=self._connect_timeout_ms,
            )
        except ChannelUnavailableError as error:
            raise ExecError(ErrorCode.EXEC_AGENT_UNAVAILABLE, str(error)) from error
        try:
            await conversation.send(self._request.to_bytes())
            code = await receive_beside(
                partial(self._receive, conversation),
                partial(conversation.send_input, self._stdin),
                partial(self._send_sizes, conversation),
            )
            return VsockExecPtyResult(exit_code=code)
        except LinkLostError as error:
            raise ExecError(ErrorCode.EXEC_AGENT_UNAVAILABLE, str(error)) from error
        finally:
            conversation.close()

    async def _receive(self, conversation: Conversation) -> int:
        while True:
            for reply in await conversation.receive():
                match reply:
                    case Stdout(data):
                        await self._stdout.send(data)
                    case Exit(code):
                        return code
                    case Failure():
                        raise failure_error(reply)
                    case _:
                        raise ExecError(
                            ErrorCode.EXEC_PROTOCOL, f"not a terminal's reply: {reply!r:.80}"
                        )

    async def _send_sizes(self, conversation: Conversation) -> None:
        sent = self._request.pty
        while True:
            if self._size is not None and self._size != sent:
                sent = self._size
                await conversation.send(resize_frame(*sent))
                continue
            self._resized = anyio.Event()
            await self._resized.wait()


@dataclass(frozen=True, slots=True)
class _Result(Awaitable[VsockExecPtyResult]):
    handle: VsockExecPtyHandle

    def __await__(self) -> Generator[Any, Any, VsockExecPtyResult]:
        return self.handle.settle().__await__()


def _hung_up() -> ExecError:
    return ExecError(ErrorCode.EXEC_AGENT_UNAVAILABLE, "the terminal was hung up")
