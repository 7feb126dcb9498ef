"""Run commands in a guest: VsockExec.run and .start_pty, over docs/protocol.md 3.1.

Output is passed on as it comes and never kept twice: a channel with a callback is not collected.
"""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream

from machinen_runtime.argument_types import is_sequence, is_text
from machinen_runtime.channel_conversation import Conversation, LinkLostError, receive_beside
from machinen_runtime.channel_format import (
    Exit,
    Failure,
    RunRequest,
    Stderr,
    Stdout,
    checked_size,
    failure_error,
    refusal,
)
from machinen_runtime.channel_pty import VsockExecPtyHandle as VsockExecPtyHandle
from machinen_runtime.channel_pty import VsockExecPtyResult as VsockExecPtyResult
from machinen_runtime.channel_sessions import SessionEvent as SessionEvent
from machinen_runtime.channel_sessions import SessionInfo as SessionInfo
from machinen_runtime.channel_sessions import TerminalSession as TerminalSession
from machinen_runtime.channel_sessions import kill_session as kill_session
from machinen_runtime.channel_sessions import list_sessions as list_sessions
from machinen_runtime.channel_sessions import open_session as open_session
from machinen_runtime.channel_stream import ChannelUnavailableError
from machinen_runtime.debug import debug
from machinen_runtime.errors import ErrorCode, ExecError
from machinen_runtime.log_events import ChunkLogEvent, OnLog
from machinen_runtime.option_shapes import refuse_wrong_types
from machinen_runtime.option_types import OptionRecord

DEFAULT_CONNECT_TIMEOUT_MS = 30_000
DEFAULT_RETRY_MS = 250
DEFAULT_EXEC_TIMEOUT_MS = 300_000
DEFAULT_PTY_CONNECT_TIMEOUT_MS = 5_000

OnChunk = Callable[[bytes], object]


@dataclass(frozen=True, slots=True, kw_only=True)
class VsockExecResult:
    """How a command ended and what it wrote; empty for a channel that had a callback."""

    exit_code: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VsockExecOptions(OptionRecord):
    """How to run one command."""

    connect_timeout_ms: float = DEFAULT_CONNECT_TIMEOUT_MS
    """How long to try to reach the agent."""
    retry_ms: float = DEFAULT_RETRY_MS
    """The pause between two tries."""
    exec_timeout_ms: float | None = DEFAULT_EXEC_TIMEOUT_MS
    """How long the command may take; None or infinity: as long as it likes."""
    on_stdout: OnChunk | None = None
    """Called with each piece of stdout; the result's stdout is then empty."""
    on_stderr: OnChunk | None = None
    """The same for stderr."""
    on_log: OnLog | None = None
    """Called with each piece of both, beside the callbacks or the collecting."""
    stdin: bytes | ByteReceiveStream | None = None
    """The command's input; None: /dev/null."""
    env: Mapping[str, str] | None = None
    """Added to the command's environment, see docs/protocol.md 3.1."""
    cwd: str | None = None
    """The command's directory in the guest, absolute. None: root's home."""

    def __post_init__(self) -> None:
        given = {name: value for name, value in dict(self).items() if name != "stdin"}
        refuse_wrong_types(type(self), given, refusal=refusal)
        for name in ("connect_timeout_ms", "retry_ms", "exec_timeout_ms"):
            value: float | None = self[name]
            if value is not None and not value >= 0:  # nor NaN
                raise refusal(f"{name} is a number of milliseconds from 0 on, not {value!r}")
        if not isinstance(self.stdin, bytes | None) and not hasattr(self.stdin, "receive"):
            raise refusal(f"stdin takes bytes or a ByteReceiveStream, not {self.stdin!r:.80}")


class VsockExec:
    """Commands in a guest, addressed by its `vsock.sock`."""

    @staticmethod
    async def run(
        vsock_path: str | os.PathLike[str],
        cmd: str | Sequence[str],
        options: VsockExecOptions | None = None,
        **fields: Any,
    ) -> VsockExecResult:
        """Run `cmd` (text for a shell, or argv) and wait for its end, whatever its exit code.

        A link that breaks before the first byte of a reply is set up again until
        `connect_timeout_ms` are over, unless the input is a stream. Keywords are the fields of
        `VsockExecOptions`.

        Raises:
            ExecError: EXEC_AGENT_UNAVAILABLE (retryable), EXEC_AGENT_TIMEOUT (retryable),
                EXEC_PROTOCOL, EXEC_REQUEST_INVALID, EXEC_CWD_INVALID, EXEC_SPAWN_FAILED.
        """
        run = _Run(vsock_path, cmd, options or VsockExecOptions(**fields))
        deadline = anyio.current_time() + run.options.connect_timeout_ms / 1000
        while True:
            try:
                debug("exec", f"run: {describe_command(cmd)}")
                result = await run.attempt(deadline)
                debug("exec", f"exit code {result.exit_code}: {describe_command(cmd)}")
                return result
            except ChannelUnavailableError as error:
                raise await lost_link_error(vsock_path, error) from error
            except LinkLostError as error:
                restartable = isinstance(run.options.stdin, bytes | None)
                if error.answered or not restartable or anyio.current_time() >= deadline:
                    raise await lost_link_error(vsock_path, error) from error
            await anyio.sleep(run.options.retry_ms / 1000)

    @staticmethod
    def start_pty(
        vsock_path: str | os.PathLike[str] | None,
        cmd: str | Sequence[str] | None,
        *,
        cols: int,
        rows: int,
        stdin: ByteReceiveStream,
        stdout: ByteSendStream,
        connect_timeout_ms: float = DEFAULT_PTY_CONNECT_TIMEOUT_MS,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> VsockExecPtyHandle:
        """Run `cmd` (None: root's login shell) on a terminal of its own.

        Nothing happens until `handle.result` is awaited; the awaiting task moves the bytes.
        """
        size = checked_size(cols, rows)
        request = RunRequest(cmd=cmd, login=cmd is None, env=env, cwd=cwd, stdin=True, pty=size)
        return VsockExecPtyHandle(vsock_path, request, stdin, stdout, connect_timeout_ms)


@dataclass(slots=True)
class _Run:
    """One `VsockExec.run`, through all its attempts."""

    vsock_path: str | os.PathLike[str]
    cmd: str | Sequence[str]
    options: VsockExecOptions
    request: bytes = field(init=False)
    stdout: list[bytes] = field(default_factory=list[bytes])
    stderr: list[bytes] = field(default_factory=list[bytes])

    def __post_init__(self) -> None:
        if not is_text(self.cmd) and not is_sequence(self.cmd):  # to a request, None is a session
            raise refusal("there is no command; give a text for a shell, or a program's words")
        wanted = RunRequest(
            cmd=self.cmd,
            env=self.options.env,
            cwd=self.options.cwd,
            stdin=self.options.stdin is not None,
        )
        self.request = wanted.to_bytes()

    async def attempt(self, deadline: float) -> VsockExecResult:
        """Run the command once; ChannelUnavailableError or LinkLostError if it did not come off."""
        conversation = await Conversation.open(
            self.vsock_path,
            timeout_ms=max(0.0, deadline - anyio.current_time()) * 1000,
            retry_ms=self.options.retry_ms,
            request=self.request,
            ended=self.options.stdin is None,
        )
        try:
            with anyio.move_on_after(_seconds(self.options.exec_timeout_ms)):
                return await self._converse(conversation)
        finally:
            conversation.close()
        raise ExecError(
            ErrorCode.EXEC_AGENT_TIMEOUT,
            f"the command did not end within {self.options.exec_timeout_ms:g} ms and was stopped:"
            f" {describe_command(self.cmd)}",
            retryable=True,
        )

    async def _converse(self, conversation: Conversation) -> VsockExecResult:
        receive = partial(self._receive, conversation)
        if self.options.stdin is None:
            code = await receive()
        else:
            sender = partial(conversation.send_input, self.options.stdin)
            code = await receive_beside(receive, sender)
        return VsockExecResult(
            exit_code=code,
            stdout=b"".join(self.stdout).decode("utf-8", "replace"),
            stderr=b"".join(self.stderr).decode("utf-8", "replace"),
        )

    async def _receive(self, conversation: Conversation) -> int:
        while True:
            for reply in await conversation.receive():
                match reply:
                    case Stdout() | Stderr():
                        self._take(reply)
                    case Exit(code):
                        return code
                    case Failure():
                        raise failure_error(reply)
                    case _:
                        raise ExecError(
                            ErrorCode.EXEC_PROTOCOL, f"not a reply to a command: {reply!r:.80}"
                        )

    def _take(self, reply: Stdout | Stderr) -> None:
        out = isinstance(reply, Stdout)
        callback = self.options.on_stdout if out else self.options.on_stderr
        if callback is not None:
            callback(reply.data)
        else:
            (self.stdout if out else self.stderr).append(reply.data)
        if self.options.on_log is not None:
            source = "exec-stdout" if out else "exec-stderr"
            cmd = describe_command(self.cmd)
            self.options.on_log(ChunkLogEvent(source=source, chunk=reply.data, cmd=cmd))


def describe_command(cmd: str | Sequence[str]) -> str:
    """The command as one would type it."""
    return cmd if isinstance(cmd, str) else shlex.join(cmd)


async def lost_link_error(
    vsock_path: str | os.PathLike[str] | None, error: ChannelUnavailableError | LinkLostError
) -> ExecError:
    """The error for a link that broke or never was, with the VM's crash report if there is one."""
    from machinen_runtime.crashes import crash_hint, lost_link_hint

    hint = ""
    if vsock_path is not None and isinstance(error, LinkLostError):
        hint = await anyio.to_thread.run_sync(lost_link_hint, vsock_path, abandon_on_cancel=True)
    elif vsock_path is not None:
        hint = crash_hint(Path(vsock_path).parent)
    return ExecError(ErrorCode.EXEC_AGENT_UNAVAILABLE, f"{error}{hint}", retryable=not hint)


def _seconds(limit_ms: float | None) -> float | None:
    return None if limit_ms is None or limit_ms == math.inf else limit_ms / 1000
