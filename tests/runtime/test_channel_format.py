"""The exec channel's bytes: requests and the reply parser."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinen_runtime.channel_format import (
    MAX_INPUT_BYTES,
    MAX_REQUEST_BYTES,
    Exit,
    Failure,
    Replay,
    Reply,
    ReplyParser,
    RunRequest,
    Size,
    Stderr,
    Stdout,
    failure_error,
    input_frames,
    resize_frame,
    signal_frame,
)
from machinen_runtime.errors import ErrorCode, ExecError


def test_a_request_has_its_fields() -> None:
    request = RunRequest(
        cmd=["ls", "-l"], env={"A": "b=c"}, cwd="/tmp", stdin=True, pty=(80, 24), session="main"
    )
    body = b"arg=ls\0arg=-l\0env=A=b=c\0cwd=/tmp\0pty=80x24\0session=main\0stdin=1\0"
    assert request.to_bytes() == b"RUN %d\n" % len(body) + body


def test_bytes_that_are_no_utf8_pass_through() -> None:
    assert b"arg=\xff\0" in RunRequest(cmd=["cat", "\udcff"]).to_bytes()


@pytest.mark.parametrize(
    "fields",
    [
        {"cmd": ["a", "b\0c"]},
        {"cmd": []},
        {"cmd": [""]},
        {"cmd": "x" * MAX_REQUEST_BYTES},
        {"cmd": "x", "env": {"": "v"}},
        {"cmd": "x", "env": {"A=B": "v"}},
        {"cmd": "x", "env": {"A": "\0"}},
        {"cmd": "x", "cwd": "relative"},
        {"cmd": "x", "pty": (0, 24)},
        {"cmd": "x", "pty": (80, 10_001)},
        {"session": "a b"},
    ],
)
def test_a_request_the_guest_would_refuse_is_refused_here(fields: dict[str, Any]) -> None:
    with pytest.raises(ExecError) as caught:
        RunRequest(**fields).to_bytes()
    assert caught.value.code in (ErrorCode.EXEC_REQUEST_INVALID, ErrorCode.EXEC_CWD_INVALID)


def test_frames_to_the_guest() -> None:
    assert input_frames(b"") == b""
    data = bytes(MAX_INPUT_BYTES + 1)
    first, second = data[:MAX_INPUT_BYTES], data[MAX_INPUT_BYTES:]
    assert input_frames(data) == b"I 65536\n" + first + b"I 1\n" + second
    assert resize_frame(80, 24) == b"R 80 24\n"
    assert signal_frame(2) == b"K 2\n"


payloads = st.binary(max_size=300)
replies = st.lists(
    st.one_of(
        st.builds(Stdout, payloads.filter(bool)),
        st.builds(Stderr, payloads.filter(bool)),
        st.builds(Replay, payloads),
        st.builds(Size, st.integers(1, 65535), st.integers(1, 65535)),
    ),
    max_size=8,
)


def encode(reply: Reply) -> bytes:
    match reply:
        case Stdout(data):
            return b"O %d\n" % len(data) + data
        case Stderr(data):
            return b"E %d\n" % len(data) + data
        case Replay(data):
            return b"P %d\n" % len(data) + data
        case Size(cols, rows):
            return b"S %d %d\n" % (cols, rows)
        case Exit(code):
            return b"X %d\n" % code
        case Failure(code, message):
            text = f"{code} {message}".encode()
            return b"F %d\n" % len(text) + text


def joined(pieces: Iterable[Reply]) -> list[Reply]:
    """Replies with neighbouring pieces of one stream put together; an empty Replay stands alone."""
    result: list[Reply] = []
    for piece in pieces:
        last = result[-1] if result else None
        if isinstance(piece, Stdout | Stderr | Replay) and type(last) is type(piece):
            assert isinstance(last, Stdout | Stderr | Replay)
            if piece.data and last.data:
                result[-1] = type(piece)(last.data + piece.data)
                continue
        result.append(piece)
    return result


@given(replies, st.one_of(st.builds(Exit, st.integers(0, 255))), st.data())
def test_any_cutting_gives_the_same_replies(
    before: list[Reply], last: Exit, data: st.DataObject
) -> None:
    sent = b"".join(map(encode, [*before, last]))
    parser = ReplyParser()
    received: list[Reply] = []
    start = 0
    while start < len(sent):
        size = data.draw(st.integers(1, 64))
        received += parser.feed(sent[start : start + size])
        start += size
    assert joined(received) == joined([*before, last])
    assert parser.ended


@given(st.lists(st.binary(max_size=100), max_size=10))
def test_noise_is_parsed_or_refused(chunks: list[bytes]) -> None:
    parser = ReplyParser()
    refused: list[ErrorCode] = []
    try:
        for chunk in chunks:
            list(parser.feed(chunk))
    except ExecError as error:
        refused.append(error.code)
    assert refused in ([], [ErrorCode.EXEC_PROTOCOL])


def test_a_failure_is_whole_and_printable() -> None:
    parser = ReplyParser()
    encoded = encode(Failure("NO_SESSION", "there is\x1b[2J none"))
    received = [reply for byte in encoded for reply in parser.feed(bytes([byte]))]
    expected = Failure("NO_SESSION", "there is [2J none")
    assert received == [expected]
    assert failure_error(expected).code is ErrorCode.EXEC_SESSION_NOT_FOUND


def test_nothing_may_follow_the_last_reply() -> None:
    parser = ReplyParser()
    list(parser.feed(b"X 0\n"))
    with pytest.raises(ExecError):
        list(parser.feed(b"O 1\nx"))
