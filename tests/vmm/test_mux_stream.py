"""One stream: order, credit in both directions, and its ends."""

from __future__ import annotations

import errno
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vmm.fake_guest import greeted, mux_and_guest, opened
from vmm.frames import INITIAL_WINDOW_BYTES, Frame, FrameError, FrameType
from vmm.mux_stream import CHUNK_BYTES, CREDIT_SHARE, MuxStream, StreamResetError

WINDOW = INITIAL_WINDOW_BYTES
CREDIT_BATCH_BYTES = WINDOW // CREDIT_SHARE


class Sent:
    """A mux that keeps what a stream posts."""

    def __init__(self) -> None:
        self.frames: list[tuple[FrameType, bytes]] = []

    def post(self, frame_type: FrameType, stream: int, payload: bytes = b"") -> None:
        self.frames.append((frame_type, payload))

    has_room = True

    async def post_when_room(self, frame: bytes) -> None:
        self.frames.append((FrameType.DATA, frame[12:]))


def data(payload: bytes) -> Frame:
    return Frame(FrameType.DATA, 1, payload)


def credit(size: int) -> Frame:
    return Frame(FrameType.CREDIT, 1, size.to_bytes(4, "little"))


EOF = Frame(FrameType.EOF, 1, b"")


async def test_bytes_arrive_in_order_and_then_the_end() -> None:
    stream = MuxStream(Sent(), 1)
    for frame in (data(b"one"), data(b"two"), EOF):
        stream.on_frame(frame)
    assert [await stream.receive() for _ in range(3)] == [b"one", b"two", b""]


async def test_what_came_before_a_reset_is_delivered_first() -> None:
    stream = MuxStream(Sent(), 1)
    stream.on_frame(data(b"last words"))
    stream.on_frame(Frame(FrameType.RESET, 1, b"\x20\0\0\0gone"))
    assert await stream.receive() == b"last words"
    with pytest.raises(StreamResetError, match="gone") as caught:
        await stream.receive()
    assert caught.value.errno_value == errno.EPIPE


async def test_a_reset_without_text_is_named_by_its_errno() -> None:
    stream = MuxStream(Sent(), 1)
    stream.on_frame(Frame(FrameType.RESET, 1, b"\x6f\0\0\0"))
    with pytest.raises(StreamResetError, match="ECONNREFUSED"):
        await stream.receive()


def test_the_guest_may_fill_its_window_and_no_more() -> None:
    stream = MuxStream(Sent(), 1)
    for _ in range(4):
        stream.on_frame(data(bytes(WINDOW // 4)))
    with pytest.raises(FrameError, match="window"):
        stream.on_frame(data(b"x"))


def test_a_widened_window_is_filled_both_ways_and_no_further() -> None:
    sent = Sent()
    stream = MuxStream(sent, 1)
    stream.widen(4 * WINDOW)
    assert sent.frames == [(FrameType.CREDIT, (3 * WINDOW).to_bytes(4, "little"))]
    stream.on_frame(Frame(FrameType.CREDIT, 1, (3 * WINDOW).to_bytes(4, "little")))
    assert stream.send_now(bytes(4 * WINDOW))
    assert not stream.send_now(b"x")
    stream.on_frame(Frame(FrameType.CREDIT, 1, (4 * WINDOW).to_bytes(4, "little")))
    with pytest.raises(FrameError, match="never sent"):
        stream.on_frame(Frame(FrameType.CREDIT, 1, (1).to_bytes(4, "little")))
    for _ in range(16):
        stream.on_frame(data(bytes(WINDOW // 4)))
    with pytest.raises(FrameError, match="window"):
        stream.on_frame(data(b"x"))


async def test_a_widened_window_is_credited_a_quarter_at_a_time() -> None:
    sent = Sent()
    stream = MuxStream(sent, 1)
    stream.widen(4 * WINDOW)
    stream.on_data = lambda _piece: True
    for _ in range(8):
        stream.on_frame(data(bytes(WINDOW // 2)))
    credits = sent.frames[1:]
    assert credits == [(FrameType.CREDIT, WINDOW.to_bytes(4, "little"))] * 4


def test_a_window_that_widens_once_it_flows_is_narrow_until_then() -> None:
    sent = Sent()
    stream = MuxStream(sent, 1)
    stream.widen(4 * WINDOW, once_it_flows=True)
    assert sent.frames == []
    for _ in range(4):
        stream.on_frame(data(bytes(WINDOW // 4)))
    with pytest.raises(FrameError, match="window"):
        stream.on_frame(data(b"x"))


async def test_a_window_widens_with_its_first_credit_and_never_again() -> None:
    sent = Sent()
    stream = MuxStream(sent, 1)
    stream.widen(4 * WINDOW, once_it_flows=True)
    stream.on_data = lambda _piece: True
    for _ in range(9):
        stream.on_frame(data(bytes(WINDOW // 2)))
    numbers = [int.from_bytes(payload, "little") for _, payload in sent.frames]
    assert numbers == [3 * WINDOW + WINDOW // 2] + [WINDOW] * 4


async def test_bytes_that_were_read_but_not_credited_count_against_the_window() -> None:
    stream = MuxStream(Sent(), 1)
    for _ in range(4):
        stream.on_frame(data(bytes(WINDOW // 4)))
    await stream.receive()
    with pytest.raises(FrameError, match="window"):
        stream.on_frame(data(b"x"))


async def test_credit_is_given_when_the_next_bytes_are_asked_for() -> None:
    sent = Sent()
    stream = MuxStream(sent, 1)
    stream.on_frame(data(bytes(CREDIT_BATCH_BYTES)))
    stream.on_frame(data(b"next"))
    await stream.receive()
    assert sent.frames == []
    await stream.receive()
    assert sent.frames == [(FrameType.CREDIT, CREDIT_BATCH_BYTES.to_bytes(4, "little"))]


@given(st.lists(st.integers(1, 65536), max_size=40))
def test_a_guest_that_keeps_to_its_credit_is_never_refused(sizes: list[int]) -> None:
    async def run() -> None:
        sent = Sent()
        stream = MuxStream(sent, 1)
        window, outstanding = WINDOW, 0
        for size in sizes:
            while size > window:
                outstanding -= len(await stream.receive())
                stream._give_credit()  # pyright: ignore[reportPrivateUsage]
                window += sum(int.from_bytes(payload, "little") for _, payload in sent.frames)
                sent.frames.clear()
            window -= size
            outstanding += size
            stream.on_frame(data(bytes(size)))
        while outstanding:
            outstanding -= len(await stream.receive())
        assert outstanding == 0

    anyio.run(run)


def test_credit_for_bytes_never_sent_is_a_violation() -> None:
    with pytest.raises(FrameError, match="never sent"):
        MuxStream(Sent(), 1).on_frame(credit(1))


def test_data_after_the_end_is_a_violation() -> None:
    stream = MuxStream(Sent(), 1)
    stream.on_frame(EOF)
    with pytest.raises(FrameError, match="after EOF"):
        stream.on_frame(data(b"x"))


async def test_a_sender_stops_at_the_window_and_goes_on_with_credit() -> None:
    sent = Sent()
    stream = MuxStream(sent, 1)
    payload = bytes(range(256)) * ((WINDOW + CHUNK_BYTES) // 256)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.send, payload)
        await anyio.wait_all_tasks_blocked()
        assert sum(len(each) for _, each in sent.frames) == WINDOW
        stream.on_frame(credit(CHUNK_BYTES))
    assert b"".join(each for _, each in sent.frames) == payload
    assert max(len(each) for _, each in sent.frames) == CHUNK_BYTES


async def test_a_sender_that_waits_for_credit_learns_of_a_reset() -> None:
    stream = MuxStream(Sent(), 1)
    async with anyio.create_task_group() as tasks:

        async def send() -> None:
            with pytest.raises(StreamResetError):
                await stream.send(bytes(WINDOW + 1))

        tasks.start_soon(send)
        await anyio.wait_all_tasks_blocked()
        stream.on_reset(errno.ECONNRESET, "")


async def test_a_reader_that_waits_learns_of_a_reset() -> None:
    stream = MuxStream(Sent(), 1)
    async with anyio.create_task_group() as tasks:

        async def receive() -> None:
            with pytest.raises(StreamResetError):
                await stream.receive()

        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        stream.on_reset(errno.ECONNRESET, "")


def test_our_end_is_told_once() -> None:
    sent = Sent()
    stream = MuxStream(sent, 1)
    stream.send_eof()
    stream.send_eof()
    assert sent.frames == [(FrameType.EOF, b"")]


def test_closing_a_finished_stream_says_nothing_more() -> None:
    sent = Sent()
    stream = MuxStream(sent, 1)
    stream.send_eof()
    stream.on_frame(EOF)
    stream.close()
    assert sent.frames == [(FrameType.EOF, b"")]


def test_closing_an_unfinished_stream_resets_it_once() -> None:
    sent = Sent()
    stream = MuxStream(sent, 1)
    stream.send_eof()
    stream.close()
    stream.close()
    assert [kind for kind, _ in sent.frames] == [FrameType.EOF, FrameType.RESET]


def test_a_stream_the_guest_reset_is_not_reset_again() -> None:
    sent = Sent()
    stream = MuxStream(sent, 1)
    stream.on_reset(errno.ECONNREFUSED, "no")
    stream.send_eof()
    stream.close()
    assert sent.frames == []


async def test_a_guest_past_its_window_loses_the_whole_channel(tmp_path: Path) -> None:
    async with mux_and_guest(tmp_path) as (mux, guest):
        port = await guest.connected()
        await port.greet()
        await mux.ready.wait()
        async with opened(mux, port) as (stream, stream_id):
            for _ in range(5):
                await port.send(FrameType.DATA, stream_id, bytes(65536))
            assert await port.is_hung_up()
            for _ in range(4):
                assert len(await stream.receive()) == 65536
            with pytest.raises(StreamResetError):
                await stream.receive()
        await guest.wait_note("past the window")


async def test_megabytes_flow_through_in_both_directions(tmp_path: Path) -> None:
    size = 3 * WINDOW + 17
    payload = bytes(range(251)) * (size // 251 + 1)
    payload, received = payload[:size], b""
    async with (
        greeted(tmp_path) as (mux, port),
        opened(mux, port) as (stream, stream_id),
        anyio.create_task_group() as tasks,
    ):
        # The guest echoes, keeping to the credit both ways.
        async def echo() -> None:
            window, echoed = WINDOW, 0
            pending = b""
            while echoed < size:
                frame = await port.next()
                if frame.type is FrameType.CREDIT:
                    window += frame.number
                elif frame.type is FrameType.DATA:
                    pending += frame.payload
                    await port.credit(stream_id, len(frame.payload))
                while pending and window:
                    part = pending[: min(window, 65536)]
                    pending = pending[len(part) :]
                    window -= len(part)
                    echoed += len(part)
                    await port.send(FrameType.DATA, stream_id, part)

        tasks.start_soon(echo)
        tasks.start_soon(stream.send, payload)
        while len(received) < size:
            received += await stream.receive()
    assert received == payload


async def test_what_somebody_takes_where_it_arrives_is_consumed_at_once() -> None:
    sent = Sent()
    stream = MuxStream(sent, 1)
    taken: list[bytes] = []
    stream.on_data = lambda piece: taken.append(piece) is None
    stream.on_frame(data(bytes(CREDIT_BATCH_BYTES)))
    assert len(taken) == 1
    assert sent.frames == [(FrameType.CREDIT, CREDIT_BATCH_BYTES.to_bytes(4, "little"))]


async def test_what_nobody_takes_is_received_in_order() -> None:
    stream = MuxStream(Sent(), 1)
    offered: list[bytes] = []
    stream.on_data = lambda piece: offered.append(piece) is not None
    stream.on_frame(data(b"a"))
    stream.on_data = lambda piece: offered.append(piece) is None
    stream.on_frame(data(b"b"))  # not offered: it would overtake
    assert offered == [b"a"]
    assert [await stream.receive(), await stream.receive()] == [b"a", b"b"]


async def test_send_now_sends_all_or_nothing() -> None:
    sent = Sent()
    stream = MuxStream(sent, 1)
    assert stream.send_now(bytes(CHUNK_BYTES + 1))
    assert [len(payload) for _, payload in sent.frames] == [CHUNK_BYTES, 1]
    assert not stream.send_now(bytes(WINDOW))
    sent.has_room = False
    assert not stream.send_now(b"x")
    assert len(sent.frames) == 2


async def test_a_batch_is_all_that_is_there_and_is_credited_as_single_pieces_are() -> None:
    sent = Sent()
    stream = MuxStream(sent, 1)
    pieces = [bytes([number]) * 60_000 for number in range(4)]
    for piece in pieces:
        stream.on_frame(data(piece))
    assert await stream.receive_batch() == b"".join(pieces[:3])  # the third passed BATCH_BYTES
    assert await stream.receive_batch() == pieces[3]
    assert sent.frames == [(FrameType.CREDIT, (180_000).to_bytes(4, "little"))]
    with pytest.raises(FrameError, match="window"):
        stream.on_frame(data(bytes(WINDOW - 60_000 + 1)))
