"""What a monitor remembers of its VM's life, bounded: operations, commands, states, bytes.

Streams of the channel count their own bytes; what one was for is known from the first bytes that
were sent on it (docs/protocol.md, 3.1). All of it is a few additions per frame and stream.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections import deque
from dataclasses import replace

from vmm.forwards import TCP_PORT_BASE
from vmm.frames import PROXY_PORT
from vmm.mux_stream import MuxStream
from vmm.records import (
    SECONDS_BOUNDS,
    CommandRecord,
    Ending,
    Histogram,
    OperationRecord,
    OperationTotals,
)
from vmm.workload import EXEC_PORT

MAX_OPERATIONS = 128
MAX_COMMANDS = 512
MAX_STATES = 512
SESSION_REPLY = b"S"
"""A terminal that outlives its clients answers with its size first."""

_REQUEST = re.compile(rb"(?:EXEC |EXEC2 \d+\n|PTY \d+ \d+ \d+\n|RUN \d+\n)(.*)", re.DOTALL)
_WORD = re.compile(
    rb"(?:cmd=|arg=)?[ \t]*(?:[^\s=;|&<>()$`\0]*/)?([A-Za-z0-9._+@-]{1,64})(?![^\s\0])"
)
_END = re.compile(rb"X (\d{1,3})\n\Z")


class Bytes:
    """Bytes to and from the guest, of streams that have ended and of those still open."""

    def __init__(self) -> None:
        self._sent = self._received = 0
        self._open: set[MuxStream] = set()

    def opened(self, stream: MuxStream) -> None:
        """Count this stream from now on."""
        self._open.add(stream)

    def closed(self, stream: MuxStream) -> None:
        """Keep its count, forget the stream."""
        if stream in self._open:
            self._open.discard(stream)
            self._sent += stream.bytes_sent
            self._received += stream.bytes_received

    @property
    def sent(self) -> int:
        """Bytes that went to the guest."""
        return self._sent + sum(stream.bytes_sent for stream in self._open)

    @property
    def received(self) -> int:
        """Bytes that came from the guest."""
        return self._received + sum(stream.bytes_received for stream in self._open)


class Telemetry:
    """One VM's past, as far as it is kept."""

    def __init__(self) -> None:
        self.operations: deque[OperationRecord] = deque(maxlen=MAX_OPERATIONS)
        self.commands: deque[CommandRecord] = deque(maxlen=MAX_COMMANDS)
        self.states: deque[tuple[int, str]] = deque(maxlen=MAX_STATES)
        self.totals: dict[str, OperationTotals] = {}
        self.endings: dict[str, int] = {"ok": 0, "failed": 0, "lost": 0}
        self.command_seconds = Histogram()
        self.first_reply_seconds = Histogram()
        self.forwards, self.proxied = Bytes(), Bytes()
        self.open_streams = 0
        self._paused_s = 0.0
        self._paused_since: float | None = None
        self._begun: dict[int, tuple[int, float]] = {}

    # -- what happens -----------------------------------------------------------------------------

    def operation_ended(self, record: OperationRecord) -> None:
        """Remember an operation, and count it."""
        self.operations.append(record)
        totals = self.totals.get(record.kind, OperationTotals())
        if record.error:
            self.totals[record.kind] = replace(totals, failed=totals.failed + 1)
            return
        self.totals[record.kind] = replace(
            totals,
            done=totals.done + 1,
            last_ms=record.total_ms,
            last_phases=record.phases,
            last_paused_ms=record.paused_ms,
            size_bytes=totals.size_bytes + record.size_bytes,
        )

    def state_changed(self, state: str) -> None:
        """Remember a state, and count the time spent paused."""
        self.states.append((now_us(), state))
        if state == "paused":
            self._paused_since = self._paused_since or time.monotonic()
        elif state != "snapshotting":  # of a paused VM: it is paused still
            self._paused_s, self._paused_since = self.paused_seconds, None

    @property
    def paused_seconds(self) -> float:
        """How long the VM has been paused in all."""
        if self._paused_since is None:
            return self._paused_s
        return self._paused_s + time.monotonic() - self._paused_since

    def stream_opened(self, port: int, stream: MuxStream) -> None:
        """Count a stream of the channel, whichever side opens it."""
        self.open_streams += 1
        if counted := self._bytes_of(port, stream):
            counted.opened(stream)
        elif port == EXEC_PORT and stream.is_hosts:
            self._begun[stream.id] = (now_us(), time.monotonic())

    def stream_closed(self, port: int, stream: MuxStream) -> None:
        """A stream has ended; if it carried a command, remember that."""
        self.open_streams -= 1
        if counted := self._bytes_of(port, stream):
            counted.closed(stream)
        elif begun := self._begun.pop(stream.id, None):
            program = command_of(stream.opening)
            if program is not None and stream.first_received != SESSION_REPLY:
                self._command_ended(program, stream, *begun)

    def _bytes_of(self, port: int, stream: MuxStream) -> Bytes | None:
        if stream.is_hosts:
            return self.forwards if port >= TCP_PORT_BASE else None
        return self.proxied if port == PROXY_PORT else None

    def _command_ended(self, program: str, stream: MuxStream, begun_us: int, begun: float) -> None:
        total_s = time.monotonic() - begun
        replied_s = None if stream.first_reply is None else max(0.0, stream.first_reply - begun)
        ending, code = ending_of(stream.ending)
        self.endings[ending] += 1
        self.command_seconds = with_value(self.command_seconds, total_s)
        if replied_s is not None:
            self.first_reply_seconds = with_value(self.first_reply_seconds, replied_s)
        self.commands.append(
            CommandRecord(
                program=program,
                begun_us=begun_us,
                total_ms=round(total_s * 1000, 3),
                first_reply_ms=None if replied_s is None else round(replied_s * 1000, 3),
                sent_bytes=stream.bytes_sent,
                received_bytes=stream.bytes_received,
                ending=ending,
                exit_code=code,
            )
        )


def now_us() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000


def with_value(histogram: Histogram, seconds: float) -> Histogram:
    """The histogram with one value more; the lists are shared."""
    histogram.counts[bisect_left(SECONDS_BOUNDS, seconds)] += 1
    return replace(histogram, sum_s=histogram.sum_s + seconds)


def command_of(opening: bytes) -> str | None:
    """The program's name if these bytes ask for a command of its own; None for a session, a list.

    What does not begin with a plain word, such as `A=b make`, is `sh`.
    """
    request = _REQUEST.match(opening)
    if request is None or b"\0session=" in opening or request[1].startswith(b"session="):
        return None
    word = _WORD.match(request[1].lstrip(b" \t"))
    return word[1].decode() if word else "sh"


def ending_of(last_bytes: bytes) -> tuple[Ending, int | None]:
    """How a command ended, by the last bytes of its replies: the guest's word, which may lie."""
    if found := _END.search(last_bytes):
        code = int(found[1])
        return ("failed" if code else "ok"), min(code, 255)
    return ("lost", None)
