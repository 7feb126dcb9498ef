"""Run a command in a guest with raw descriptors for its input and output; blocking, no event loop.

The async client costs a tenth of a second to import, most of what `machinen exec a -- true` takes.
Here poll(2) moves bytes between the channel and three descriptors, binary safe and bounded: input
is read only while the channel takes it.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import FrameType

from machinen_runtime.channel_format import (
    EXEC_PORT,
    INPUT_END,
    Exit,
    Failure,
    ReplyParser,
    RunRequest,
    Stderr,
    Stdout,
    failure_error,
    input_frames,
    signal_frame,
)
from machinen_runtime.errors import ErrorCode, ExecError
from vmm.peers import require_trusted

READ_BYTES = 65536
RECEIVE_BYTES = 256 * 1024
MAX_UNSENT_BYTES = 256 * 1024
CONNECT_TIMEOUT_S = 5.0
RETRY_S = 0.05
TERM_PATIENCE_S = 2.0
MAX_OK_LINE_BYTES = 32
MAX_OPENING_BYTES = 3072
"""As in `channel_stream`, which would have to be imported for it."""


def run_with_descriptors(
    vsock_path: str,
    request: RunRequest,
    *,
    stdin: int | None = 0,
    stdout: int = 1,
    stderr: int = 2,
) -> int:
    """Run `request` and return the command's exit code.

    The first Ctrl-C goes to the command's process group, and 130 is returned when it has ended; the
    second ends us at once. TERM does the same with 143, and waits two seconds.

    Raises:
        ExecError: EXEC_AGENT_UNAVAILABLE (retryable), EXEC_PROTOCOL, or what the guest refused.
        BrokenPipeError: nobody reads the output any more; the command was hung up on.
        KeyboardInterrupt: the second Ctrl-C.
    """
    opening = request.to_bytes()
    along = len(opening) <= MAX_OPENING_BYTES
    with _connected(vsock_path, opening if along else b"") as connection, _signals() as signals:
        pump = _Pump(connection, signals, {Stdout: stdout, Stderr: stderr}, stdin)
        pump.unsent += b"" if along else opening
        try:
            return pump.run()
        except _LinkLostError as error:
            from machinen_runtime.crashes import lost_link_hint

            raise _unavailable(f"{error}{lost_link_hint(vsock_path)}") from None


class _LinkLostError(Exception):
    """The stream ended and the command had not."""


@dataclass(slots=True)
class _Signals:
    """INT and TERM as they came, and a socket that becomes readable with them."""

    wakeup: socket.socket
    seen: list[int] = field(default_factory=list[int])


@dataclass(slots=True)
class _Pump:
    connection: socket.socket
    signals: _Signals
    outputs: dict[type[Stdout] | type[Stderr], int]
    stdin: int | None
    unsent: bytearray = field(default_factory=bytearray)
    parser: ReplyParser = field(default_factory=ReplyParser)
    handled: int = 0
    give_up_at: float | None = None

    def run(self) -> int:
        """Move bytes until the command has ended."""
        while True:
            ready = self._wait()
            if self.signals.wakeup.fileno() in ready:
                self._pass_signals_on()
            if self.stdin is not None and self.stdin in ready:
                self._read_input()
            if self.connection.fileno() in ready:
                code = self._receive()
                if code is not None:
                    return self._exit_code(code)
            self._send()
            if self.give_up_at is not None and time.monotonic() >= self.give_up_at:
                return self._exit_code(0)

    def _wait(self) -> set[int]:
        poll = select.poll()
        writing = select.POLLOUT if self.unsent else 0
        poll.register(self.connection, select.POLLIN | writing)
        poll.register(self.signals.wakeup, select.POLLIN)
        if self.stdin is not None and len(self.unsent) < MAX_UNSENT_BYTES:
            poll.register(self.stdin, select.POLLIN)
        limit_ms = None
        if self.give_up_at is not None:
            limit_ms = max(0.0, self.give_up_at - time.monotonic()) * 1000
        return {descriptor for descriptor, _ in poll.poll(limit_ms)}

    def _read_input(self) -> None:
        assert self.stdin is not None
        try:
            data = os.read(self.stdin, READ_BYTES)
        except BlockingIOError:  # another program has left it so
            return
        except OSError:
            data = b""
        if data:
            self.unsent += input_frames(data)
        else:
            self.unsent += INPUT_END
            self.stdin = None

    def _receive(self) -> int | None:
        try:
            data = self.connection.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            raise _LinkLostError("the link to the guest was lost before the command ended")
        for reply in self.parser.feed(data):
            match reply:
                case Stdout() | Stderr():
                    _write_all(self.outputs[type(reply)], reply.data)
                case Exit(code):
                    return code
                case Failure():
                    raise failure_error(reply)
                case _:
                    raise ExecError(
                        ErrorCode.EXEC_PROTOCOL, f"not a reply to a command: {reply!r:.80}"
                    )
        return None

    def _send(self) -> None:
        if not self.unsent:
            return
        try:
            sent = self.connection.send(self.unsent)
        except BlockingIOError:
            return
        except OSError:  # the replies, or their absence, tell why
            self.unsent.clear()
            self.stdin = None
            return
        del self.unsent[:sent]

    def _pass_signals_on(self) -> None:
        with suppress(BlockingIOError):
            self.signals.wakeup.recv(64)
        while self.handled < len(self.signals.seen):
            number = self.signals.seen[self.handled]
            self.handled += 1
            self.unsent += signal_frame(number)
            if number == signal.SIGTERM:
                self.give_up_at = time.monotonic() + TERM_PATIENCE_S

    def _exit_code(self, code: int) -> int:
        return 128 + self.signals.seen[0] if self.signals.seen else code


@contextmanager
def _signals() -> Generator[_Signals]:
    """Catch INT and TERM for the length of the block; a second INT raises KeyboardInterrupt."""
    ours, theirs = socket.socketpair()
    signals = _Signals(ours)

    def note(number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT and number in signals.seen:
            raise KeyboardInterrupt
        signals.seen.append(number)

    with ours, theirs:
        for end in (ours, theirs):
            end.setblocking(False)
        previous_fd = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        previous = {
            number: signal.signal(number, note)
            for number in (signal.SIGINT, signal.SIGTERM)
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        try:
            yield signals
        finally:
            signal.set_wakeup_fd(previous_fd)
            for number, handler in previous.items():
                signal.signal(number, handler)


@contextmanager
def _connected(vsock_path: str, opening: bytes = b"") -> Generator[socket.socket]:
    """A stream to the exec service, tried again for a while: a VM may just be coming up."""
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connection.settimeout(max(0.001, deadline - time.monotonic()))
            connection.connect(vsock_path)
            require_trusted(connection)
            connection.sendall(b"CONNECT %d\n" % EXEC_PORT + opening)
            _read_ok(connection.recv)
            break
        except OSError as error:
            connection.close()
            late = time.monotonic() + RETRY_S >= deadline or not os.path.exists(vsock_path)
            if late or _is_abandoned(vsock_path, error):
                raise _unavailable(f"no answer from the VM: {_why(vsock_path, error)}") from error
            time.sleep(RETRY_S)
        except BaseException:
            connection.close()
            raise
    with connection:
        connection.setblocking(False)
        yield connection


def _is_abandoned(vsock_path: str, error: OSError) -> bool:
    if not isinstance(error, ConnectionRefusedError):
        return False
    from machinen_runtime.channel_stream import is_abandoned

    return is_abandoned(vsock_path)


def _why(vsock_path: str, error: OSError) -> str:
    """What to say of a VM that does not answer. Only now, for it takes some imports."""
    import anyio

    from machinen_runtime.channel_stream import ABANDONED, why_silent

    if _is_abandoned(vsock_path, error):
        return ABANDONED
    return anyio.run(why_silent, vsock_path) or error.strerror or str(error)


def _read_ok(receive: Callable[[int], bytes]) -> None:
    """Read the monitor's `OK <n>` line and not a byte more."""
    line = b""
    while not line.endswith(b"\n"):
        byte = receive(1)
        if not byte:
            raise ConnectionResetError("the guest refused the stream")
        line += byte
        if len(line) > MAX_OK_LINE_BYTES:
            break
    if not line.startswith(b"OK ") or not line.endswith(b"\n"):
        raise _unavailable(f"the monitor answered {line!r}")


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # a descriptor that others have made non-blocking
            select.select([], [descriptor], [])


def _unavailable(message: str) -> ExecError:
    return ExecError(ErrorCode.EXEC_AGENT_UNAVAILABLE, message, retryable=True)
