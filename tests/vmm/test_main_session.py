"""Terminal bytes out of a session's replies, however they are cut."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vmm.fake_guest import greeted
from vmm.frames import FrameType
from vmm.main_session import OutputSplitter, attach_main
from vmm.mux_stream import StreamResetError

_DATA = st.binary(max_size=60)
_REPLY = st.one_of(
    st.tuples(st.sampled_from([b"O", b"P", b"E", b"F"]), _DATA).map(
        lambda pair: (b"%b %d\n%b" % (pair[0], len(pair[1]), pair[1]), pair)
    ),
    st.tuples(st.integers(1, 999), st.integers(1, 999)).map(
        lambda size: (b"S %d %d\n" % size, (b"S", b""))
    ),
    st.integers(0, 255).map(lambda code: (b"X %d\n" % code, (b"X", b""))),
)


@given(st.lists(_REPLY, max_size=12), st.lists(st.integers(0, 1000), max_size=20))
def test_any_chunking_gives_the_same_terminal_output(
    replies: list[tuple[bytes, tuple[bytes, bytes]]], cuts: list[int]
) -> None:
    wire = b"".join(text for text, _ in replies)
    wanted = b"".join(data for _, (tag, data) in replies if tag in (b"O", b"P"))
    edges = [0, *sorted(cut % (len(wire) + 1) for cut in cuts), len(wire)]
    splitter = OutputSplitter()
    chunks = [wire[start:end] for start, end in itertools.pairwise(edges)]
    assert b"".join(splitter.feed(chunk) for chunk in chunks) == wanted


@pytest.mark.parametrize(
    "garbage",
    [b"\n", b"hello\n", b"O x\n", b"O -1\n", b"Q 1\n", b"O 1234567890\n", b"O" * 25, b"o 1\nx"],
)
def test_what_is_no_reply_ends_the_stream(garbage: bytes) -> None:
    with pytest.raises(StreamResetError):
        OutputSplitter().feed(garbage)


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_a_hostile_session_costs_no_memory(chunks: list[bytes]) -> None:
    splitter = OutputSplitter()
    for chunk in chunks:
        try:
            splitter.feed(chunk)
        except StreamResetError:
            return
        assert len(splitter._pending) <= 24  # pyright: ignore[reportPrivateUsage]


async def test_the_pipes_lead_to_session_main(tmp_path: Path) -> None:
    input_read, input_write = os.pipe()
    output_read, output_write = os.pipe()
    async with greeted(tmp_path) as (mux, port), anyio.create_task_group() as tasks:
        tasks.start_soon(attach_main, mux, input_read, output_write)
        stream_id, number = await port.accept()
        assert number == 1978
        request = b"session=main\0attach=1\0"
        assert (await port.expect(FrameType.DATA)).payload == b"RUN %d\n" % len(request) + request
        os.write(input_write, b"ls\n")
        assert await port.receive_data(7) == b"I 3\nls\n"
        await port.send(FrameType.DATA, stream_id, b"S 80 24\nP 0\nO 5\nfiles")
        await anyio.wait_readable(output_read)
        assert os.read(output_read, 100) == b"files"
        await port.send(FrameType.DATA, stream_id, b"X 0\n")
        await port.send(FrameType.EOF, stream_id)
    assert os.read(output_read, 100) == b""
    for descriptor in (input_read, input_write, output_read):
        os.close(descriptor)


@pytest.mark.parametrize("ending", ["nonsense", "reset", "lost"])
async def test_a_session_that_breaks_off_closes_the_output_pipe(
    tmp_path: Path, ending: str
) -> None:
    input_read, input_write = os.pipe()
    output_read, output_write = os.pipe()
    async with greeted(tmp_path) as (mux, port), anyio.create_task_group() as tasks:
        tasks.start_soon(attach_main, mux, input_read, output_write)
        stream_id, _ = await port.accept()
        await port.expect(FrameType.DATA)
        match ending:
            case "nonsense":
                await port.send(FrameType.DATA, stream_id, b"Who are you?\n")
            case "reset":
                await port.send(FrameType.RESET, stream_id, bytes(4))
            case _:
                await port.stream.aclose()
        await anyio.wait_readable(output_read)
    assert os.read(output_read, 100) == b""
    for descriptor in (input_read, input_write, output_read):
        os.close(descriptor)
