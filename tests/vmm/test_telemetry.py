"""What a monitor remembers: what counts as a command, how it ended, and that memory is bounded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinen_runtime.channel_format import RunRequest
from vmm.frames import Frame, FrameType
from vmm.mux_stream import ENDING_BYTES, OPENING_BYTES, MuxStream
from vmm.records import SECONDS_BOUNDS, Histogram, OperationRecord
from vmm.telemetry import (
    EXEC_PORT,
    MAX_COMMANDS,
    MAX_OPERATIONS,
    MAX_STATES,
    PROXY_PORT,
    TCP_PORT_BASE,
    Telemetry,
    command_of,
    ending_of,
    with_value,
)


class Sink:
    """A mux with room for everything."""

    has_room = True

    def post(self, frame_type: FrameType, stream: int, payload: bytes = b"") -> None:
        pass

    async def post_when_room(self, frame: bytes) -> None:
        pass


def stream_of(sent: bytes, received: bytes, number: int = 1) -> MuxStream:
    stream = MuxStream(Sink(), number)
    if stream.is_hosts:
        stream.on_frame(Frame(FrameType.ACCEPT, number, b""))
    half = len(sent) // 2
    assert stream.send_now(sent[:half])
    assert stream.send_now(sent[half:])
    for byte in received:
        stream.on_frame(Frame(FrameType.DATA, number, bytes([byte])))
    return stream


def ran(telemetry: Telemetry, sent: bytes, received: bytes, port: int = EXEC_PORT) -> None:
    stream = stream_of(sent, received)
    telemetry.stream_opened(port, stream)
    telemetry.stream_closed(port, stream)


@pytest.mark.parametrize(
    ("request_bytes", "program"),
    [
        (RunRequest(cmd=["make", "test"]).to_bytes(), "make"),
        (RunRequest(cmd=["/usr/bin/env", "A=b"]).to_bytes(), "env"),
        (RunRequest(cmd="tail -f /var/log/syslog").to_bytes(), "tail"),
        (RunRequest(cmd="PASSWORD=secret mysql").to_bytes(), "sh"),
        (RunRequest(cmd="$(cat secret)").to_bytes(), "sh"),
        (RunRequest(cmd=["true"], session="logs").to_bytes(), None),
        (RunRequest(session="main", attach=True).to_bytes(), None),
        (b"EXEC /bin/ls -l\n", "ls"),
        (b"EXEC2 7\n  true;", "sh"),
        (b"PTY 80 24 4\nhtop", "htop"),
        (b"PTYLIST\n", None),
        (b"PTYKILL 4\nmain", None),
        (b"", None),
    ],
)
def test_a_command_is_known_by_its_program_alone(request_bytes: bytes, program: str | None) -> None:
    assert command_of(request_bytes) == program


@given(st.binary(max_size=OPENING_BYTES))
def test_no_bytes_of_a_client_are_too_strange(data: bytes) -> None:
    for opening in (data, b"RUN 5\n" + data, b"EXEC " + data):
        program = command_of(opening)
        assert program is None or (program.isprintable() and 1 <= len(program) <= 64)


@given(st.binary(max_size=64))
def test_how_a_command_ended_is_the_guests_word_and_never_more_than_a_byte(data: bytes) -> None:
    ending, code = ending_of(data[-ENDING_BYTES:])
    assert (ending == "lost") == (code is None)
    assert code is None or 0 <= code <= 255


def test_commands_are_counted_with_their_end_times_and_bytes() -> None:
    telemetry = Telemetry()
    ran(telemetry, RunRequest(cmd=["true"]).to_bytes(), b"X 0\n")
    ran(telemetry, RunRequest(cmd=["false"]).to_bytes(), b"O 3\nabcX 1\n")
    ran(telemetry, RunRequest(cmd=["sleep", "9"]).to_bytes(), b"")
    ran(telemetry, RunRequest(session="main", attach=True).to_bytes(), b"S 80 24\n")
    ran(telemetry, b"RUN 700\narg=x\0env=" + b"a" * 600, b"S 80 24\n")  # a session, seen too late
    assert telemetry.endings == {"ok": 1, "failed": 1, "lost": 1}
    programs = [(each.program, each.ending, each.exit_code) for each in telemetry.commands]
    assert programs == [("true", "ok", 0), ("false", "failed", 1), ("sleep", "lost", None)]
    assert telemetry.commands[1].received_bytes == len(b"O 3\nabcX 1\n")
    assert telemetry.commands[2].first_reply_ms is None
    assert sum(telemetry.command_seconds.counts) == 3
    assert sum(telemetry.first_reply_seconds.counts) == 2
    assert telemetry.open_streams == 0


def test_a_guest_cannot_make_up_commands_or_forwards() -> None:
    telemetry = Telemetry()
    for port in (EXEC_PORT, TCP_PORT_BASE + 80):
        stream = stream_of(b"EXEC ls\n", b"X 0\n", number=2)
        telemetry.stream_opened(port, stream)
        telemetry.stream_closed(port, stream)
    assert not telemetry.commands
    assert telemetry.forwards.received == 0


def test_bytes_of_forwards_and_proxy_count_while_they_flow_and_after() -> None:
    telemetry = Telemetry()
    for port, counted, number in (
        (TCP_PORT_BASE + 80, telemetry.forwards, 3),
        (PROXY_PORT, telemetry.proxied, 4),
    ):
        for _ in range(2):
            stream = stream_of(b"12345", b"123", number)
            telemetry.stream_opened(port, stream)
            before = counted.sent
            telemetry.stream_closed(port, stream)
            telemetry.stream_closed(port, stream)
            assert counted.sent == before
        assert (counted.sent, counted.received) == (10, 6)


def test_a_stream_keeps_little_of_what_passes() -> None:
    stream = stream_of(b"a" * 5000, b"b" * 5000)
    assert (len(stream.opening), len(stream.ending)) == (OPENING_BYTES, ENDING_BYTES)
    assert (stream.bytes_sent, stream.bytes_received) == (5000, 5000)


def test_memory_is_bounded_and_totals_are_not_forgotten() -> None:
    telemetry = Telemetry()
    for number in range(MAX_OPERATIONS + 10):
        record = OperationRecord(
            kind="snapshot",
            begun_us=number,
            total_ms=1.0,
            phases={"stop": 1.0},
            size_bytes=10,
            error="SNAPSHOT_FAILED" if number % 2 else "",
        )
        telemetry.operation_ended(record)
    for number in range(MAX_COMMANDS + 10):
        ran(telemetry, b"EXEC true\n", b"X 0\n")
        telemetry.state_changed(f"state {number}")
    assert len(telemetry.operations) == MAX_OPERATIONS
    assert len(telemetry.commands) == MAX_COMMANDS
    assert len(telemetry.states) == MAX_STATES
    totals = telemetry.totals["snapshot"]
    assert (totals.done, totals.failed, totals.size_bytes) == (69, 69, 690)
    assert telemetry.endings["ok"] == MAX_COMMANDS + 10


def test_time_paused_goes_on_through_a_snapshot_of_the_paused_vm() -> None:
    telemetry = Telemetry()
    assert telemetry.paused_seconds == 0
    for state in ("running", "paused", "snapshotting", "paused"):
        telemetry.state_changed(state)
    first = telemetry.paused_seconds
    assert 0 < first < telemetry.paused_seconds
    telemetry.state_changed("running")
    ended = telemetry.paused_seconds
    telemetry.state_changed("snapshotting")
    telemetry.state_changed("running")
    assert telemetry.paused_seconds == ended


@given(st.lists(st.floats(0, 10_000), max_size=50))
def test_a_histogram_counts_every_value_once_in_its_bucket(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram = with_value(histogram, value)
    assert sum(histogram.counts) == len(values)
    for number, bound in enumerate(SECONDS_BOUNDS):
        assert sum(histogram.counts[: number + 1]) == sum(value <= bound for value in values)
