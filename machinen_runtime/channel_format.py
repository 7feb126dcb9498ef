"""The bytes of the exec channel, docs/protocol.md 3.1 and 3.2: requests out, replies in.

Pure: no sockets and no event loop, so the async clients and the blocking `machinen exec` share it.
The guest is hostile: what the parser keeps is bounded, and anything malformed raises EXEC_PROTOCOL.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from machinen_runtime.argument_types import is_mapping, is_sequence, is_text
from machinen_runtime.errors import ErrorCode, ExecError

EXEC_PORT = 1978
MAX_REQUEST_BYTES = 1 << 20
MAX_INPUT_BYTES = 65536
MAX_FRAME_BYTES = 1 << 30
"""Data frames are passed on in pieces, never collected, so this is a sanity check alone."""
MAX_FAILURE_BYTES = 65536
MAX_HEADER_BYTES = 32
MAX_TERMINAL_SIDE = 10_000


@dataclass(frozen=True, slots=True)
class Stdout:
    """A piece of stdout, or of a terminal's output."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Stderr:
    """A piece of stderr."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Replay:
    """A piece of a session's earlier output; empty: the replay is over."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Size:
    """The size a session's terminal has now."""

    cols: int
    rows: int


@dataclass(frozen=True, slots=True)
class Exit:
    """The command ended. The last reply."""

    code: int


@dataclass(frozen=True, slots=True)
class Failure:
    """The request could not be carried out. The last reply."""

    code: str
    message: str


Reply: TypeAlias = Stdout | Stderr | Replay | Size | Exit | Failure


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """One RUN request: what to run, or which session to attach to."""

    cmd: str | Sequence[str] | None = None
    """Text for `/bin/sh -c`, or argv. None: attach only."""
    login: bool = False
    """Root's login shell instead of cmd."""
    env: Mapping[str, str] | None = None
    cwd: str | None = None
    stdin: bool = False
    pty: tuple[int, int] | None = None
    """(cols, rows)"""
    session: str | None = None
    attach: bool = False
    workload: bool = False

    def to_bytes(self) -> bytes:
        """The header line and its fields; EXEC_REQUEST_INVALID if the guest would refuse them."""
        body = b"".join(_field(key, value) for key, value in self._fields())
        if len(body) > MAX_REQUEST_BYTES:
            raise refusal(
                f"the command and its environment take {len(body)} bytes and at most"
                f" {MAX_REQUEST_BYTES} can be sent; pass large data through stdin or a file"
            )
        return b"RUN %d\n" % len(body) + body

    def _fields(self) -> Generator[tuple[str, str]]:
        if isinstance(self.cmd, str):
            yield "cmd", self.cmd
        elif self.cmd is not None:
            for argument in _checked_argv(self.cmd):
                yield "arg", argument
        if self.login:
            yield "login", "1"
        for key, value in _checked_env(self.env).items():
            yield "env", f"{key}={value}"
        if self.cwd is not None:
            if not is_text(self.cwd) or not self.cwd.startswith("/"):
                raise ExecError(
                    ErrorCode.EXEC_CWD_INVALID, f"cwd must be an absolute path, not {self.cwd!r}"
                )
            yield "cwd", self.cwd
        if self.pty is not None:
            cols, rows = checked_size(*self.pty)
            yield "pty", f"{cols}x{rows}"
        if self.session is not None:
            yield "session", checked_session_name(self.session)
        for key in ("stdin", "attach", "workload"):
            if getattr(self, key):
                yield key, "1"


def input_frames(data: bytes) -> bytes:
    """Frames that carry `data` to the command's stdin; none for empty data."""
    pieces: list[bytes] = []
    for start in range(0, len(data), MAX_INPUT_BYTES):
        piece = data[start : start + MAX_INPUT_BYTES]
        pieces += (b"I %d\n" % len(piece), piece)
    return b"".join(pieces)


INPUT_END = b"I 0\n"


def resize_frame(cols: int, rows: int) -> bytes:
    """The frame that resizes the command's terminal."""
    return b"R %d %d\n" % checked_size(cols, rows)


def signal_frame(number: int) -> bytes:
    """The frame that signals the command's process group."""
    return b"K %d\n" % number


def checked_size(cols: int, rows: int) -> tuple[int, int]:
    """The size of a terminal if it is one, else EXEC_REQUEST_INVALID."""
    for cells in (cols, rows):
        if type(cells) is not int or not 1 <= cells <= MAX_TERMINAL_SIDE:
            raise refusal(f"not the size of a terminal: {cols!r:.80} x {rows!r:.80} cells")
    return cols, rows


def checked_session_name(name: str) -> str:
    """The name of a session if it is one, else EXEC_REQUEST_INVALID."""
    known = is_text(name) and name.isascii() and 1 <= len(name) <= 64
    if not known or not all(char.isalnum() or char in "._-" for char in name):
        message = f"not the name of a session: {name!r:.80}; use 1 to 64 letters, digits, . _ -"
        raise refusal(message)
    return name


class ReplyParser:
    """Turns the agent's bytes into replies, whatever way they are cut into pieces."""

    def __init__(self) -> None:
        self._header = bytearray()
        self._tag = b""
        self._missing = 0
        self._failure: bytearray | None = None
        self.ended = False
        """The last reply was seen; nothing may follow it."""

    def feed(self, data: bytes) -> Generator[Reply]:
        """The replies that `data` completes. Data frames come in pieces, as they arrive."""
        start, end = 0, len(data)
        while start < end:
            if self._missing:
                piece = data[start : start + self._missing]
                start += len(piece)
                self._missing -= len(piece)
                yield from self._payload(piece)
                continue
            newline = data.find(b"\n", start, start + MAX_HEADER_BYTES)
            self._header += data[start : end if newline < 0 else newline]
            if len(self._header) > MAX_HEADER_BYTES:
                raise _violation(f"a header of more than {MAX_HEADER_BYTES} bytes")
            if newline < 0:
                return
            start = newline + 1
            header = bytes(self._header)
            self._header.clear()
            yield from self._frame(header)

    def _frame(self, header: bytes) -> Generator[Reply]:
        if self.ended:
            raise _violation("a reply after the last one")
        tag, numbers = header[:1], _numbers(header)
        match tag, numbers:
            case ((b"O" | b"E" | b"P" | b"F"), [length]) if length <= MAX_FRAME_BYTES:
                self._begin(tag, length)
                if length == 0:
                    yield from self._payload(b"")
            case b"X", [code] if code <= 255:
                self.ended = True
                yield Exit(code)
            case b"S", [cols, rows] if min(cols, rows) >= 1 and max(cols, rows) <= 65535:
                yield Size(cols, rows)
            case _:
                raise _violation(f"the header {header!r}")

    def _begin(self, tag: bytes, length: int) -> None:
        self._tag, self._missing = tag, length
        if tag == b"F":
            if length > MAX_FAILURE_BYTES:
                raise _violation(f"an error message of {length} bytes")
            self._failure = bytearray()

    def _payload(self, piece: bytes) -> Generator[Reply]:
        if self._failure is not None:
            self._failure += piece
            if not self._missing:
                self.ended = True
                yield _failure(bytes(self._failure))
        elif self._tag == b"P":
            # An empty frame ends the replay; a piece of a frame is never empty.
            yield Replay(piece)
        elif piece:
            yield Stdout(piece) if self._tag == b"O" else Stderr(piece)


_FAILURES = {
    "CWD_INVALID": (ErrorCode.EXEC_CWD_INVALID, "the guest cannot change to that directory"),
    "NO_SESSION": (ErrorCode.EXEC_SESSION_NOT_FOUND, "the guest has no such session"),
    "TOO_MANY_SESSIONS": (ErrorCode.EXEC_TOO_MANY_SESSIONS, "the guest has too many sessions"),
    "SPAWN_FAILED": (ErrorCode.EXEC_SPAWN_FAILED, "the guest could not start the command"),
}


def failure_error(failure: Failure) -> ExecError:
    """The error that an F reply stands for."""
    refused = (ErrorCode.EXEC_REQUEST_INVALID, "the guest refused the request")
    code, sentence = _FAILURES.get(failure.code, refused)
    return ExecError(code, f"{sentence}: {failure.message or failure.code}")


def _failure(text: bytes) -> Failure:
    code, _, message = text.decode("utf-8", "replace").partition(" ")
    # Printed by whoever catches it, and the guest wrote it: no escape may pass.
    printable = "".join(char if char.isprintable() else " " for char in message)
    return Failure(code[:64], printable.strip())


def _numbers(header: bytes) -> list[int]:
    """The decimal numbers after the tag, each led by one space; [] if it is anything else."""
    if header[1:2] != b" ":
        return []
    words = header[2:].split(b" ")
    if not all(word.isdigit() and len(word) <= 10 for word in words):
        return []
    return [int(word) for word in words]


def _checked_argv(cmd: Sequence[str]) -> Sequence[str]:
    if not is_sequence(cmd):
        raise refusal(f"a command is a text or a sequence of texts, not {cmd!r:.80}")
    if not cmd or not cmd[0]:
        raise refusal("the command is empty; name a program to run")
    for argument in cmd:
        if not is_text(argument):
            raise refusal(f"the words of a command are texts, not {argument!r:.80}")
    return cmd


def _checked_env(env: Mapping[str, str] | None) -> Mapping[str, str]:
    if env is None:
        return {}
    if not is_mapping(env):
        raise refusal(f"env is a mapping of texts to texts, not {env!r:.80}")
    for key, value in env.items():
        if not is_text(key) or not key or "=" in key:
            raise refusal(f"not the name of an environment variable: {key!r:.80}")
        if not is_text(value):
            raise refusal(f"the variable {key} must be a text, not {value!r:.80}")
    return env


def _field(key: str, value: str) -> bytes:
    if "\0" in value:
        raise refusal(f"{key} contains a NUL, which no program can be given")
    try:
        # What came from sys.argv or os.environ and is no UTF-8 goes out as the bytes it was.
        return f"{key}={value}".encode("utf-8", "surrogateescape") + b"\0"
    except UnicodeEncodeError as error:
        raise refusal(f"{key} contains half a surrogate pair, which is no character") from error


def refusal(message: str) -> ExecError:
    """What a request is refused with that the guest would refuse: EXEC_REQUEST_INVALID."""
    return ExecError(ErrorCode.EXEC_REQUEST_INVALID, message)


def _violation(what: str) -> ExecError:
    return ExecError(
        ErrorCode.EXEC_PROTOCOL, f"the guest's agent broke the exec protocol: it sent {what}"
    )
