"""The decoder against split, dirty and hostile bytes."""

from __future__ import annotations

import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm.frames import (
    HEADER,
    MAGIC,
    MAX_LOG_BYTES,
    MAX_PAYLOAD_BYTES,
    MAX_PING_BYTES,
    MAX_RESET_TEXT_BYTES,
    Frame,
    FrameDecoder,
    FrameError,
    FrameType,
    GuestHello,
    Hello,
    decode_reset,
    encode,
)

HELLO = encode(FrameType.HELLO, 0, bytes(16))

_CONNECTION = st.one_of(
    st.tuples(st.just(FrameType.LOG), st.just(0), st.binary(max_size=MAX_LOG_BYTES)),
    st.tuples(st.just(FrameType.PING), st.just(0), st.binary(max_size=MAX_PING_BYTES)),
    st.tuples(st.just(FrameType.HELLO), st.just(0), st.binary(min_size=16, max_size=16)),
    st.tuples(st.just(FrameType.QUIESCED), st.just(0), st.binary(min_size=8, max_size=8)),
)
_STREAMS = st.integers(1, 0xFFFFFFFF)
_STREAM = st.one_of(
    st.tuples(st.just(FrameType.DATA), _STREAMS, st.binary(min_size=1, max_size=200)),
    st.tuples(st.just(FrameType.CREDIT), _STREAMS, st.binary(min_size=4, max_size=4)),
    st.tuples(st.sampled_from([FrameType.EOF, FrameType.ACCEPT]), _STREAMS, st.just(b"")),
    st.tuples(st.just(FrameType.RESET), _STREAMS, st.binary(min_size=4, max_size=50)),
)
frames_lists = st.lists(st.one_of(_CONNECTION, _STREAM).map(lambda each: Frame(*each)), max_size=8)


def in_step() -> FrameDecoder:
    decoder = FrameDecoder()
    assert decoder.feed(MAGIC) == []
    return decoder


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at the given places."""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(frames_lists, st.lists(st.integers(0, 10_000), max_size=20))
def test_any_split_of_valid_frames_decodes_the_same(wanted: list[Frame], cuts: list[int]) -> None:
    decoder = FrameDecoder()
    decoded: list[Frame] = []
    for piece in pieces(MAGIC + b"".join(encode(*frame) for frame in wanted), cuts):
        decoded += decoder.feed(piece)
    assert decoded == wanted


@given(st.binary(max_size=100), st.lists(st.integers(0, 1000), max_size=6))
def test_garbage_before_a_magic_is_thrown_away(garbage: bytes, cuts: list[int]) -> None:
    decoder = FrameDecoder()
    decoded: list[Frame] = []
    for piece in pieces(garbage + MAGIC + HELLO, cuts):
        decoded += decoder.feed(piece)
    assert decoded == [Frame(FrameType.HELLO, 0, bytes(16))]


def test_a_magic_that_begins_inside_garbage_that_looks_like_one_is_found() -> None:
    assert FrameDecoder().feed(MAGIC[:-1] + MAGIC + HELLO) != []


@given(st.lists(st.binary(max_size=3000), max_size=30))
def test_a_hostile_guest_gets_a_frame_error_and_no_memory(chunks: list[bytes]) -> None:
    decoder = in_step()
    for chunk in chunks:
        try:
            decoder.feed(chunk)
        except FrameError:
            decoder.lose_step()
        assert buffered(decoder) < HEADER.size + MAX_PAYLOAD_BYTES


def test_endless_garbage_without_a_magic_is_not_kept() -> None:
    decoder = FrameDecoder()
    for _ in range(50):
        assert decoder.feed(b"\xff" * 65536) == []
    assert buffered(decoder) < len(MAGIC)


def test_the_largest_frame_is_the_most_that_is_kept() -> None:
    decoder = in_step()
    whole = encode(FrameType.DATA, 1, bytes(MAX_PAYLOAD_BYTES))
    assert decoder.feed(whole[:-1]) == []
    assert buffered(decoder) == len(whole) - 1
    assert len(decoder.feed(whole[-1:])) == 1
    assert buffered(decoder) == 0


@pytest.mark.parametrize(
    ("kind", "smallest", "largest"),
    [
        (FrameType.HELLO, 16, 16),
        (FrameType.QUIESCED, 8, 8),
        (FrameType.WORKLOAD_EXIT, 2, 2),
        (FrameType.PING, 0, MAX_PING_BYTES),
        (FrameType.PONG, 0, MAX_PING_BYTES),
        (FrameType.LOG, 0, MAX_LOG_BYTES),
        (FrameType.OPEN, 4, 4),
        (FrameType.ACCEPT, 0, 0),
        (FrameType.DATA, 1, MAX_PAYLOAD_BYTES),
        (FrameType.CREDIT, 4, 4),
        (FrameType.EOF, 0, 0),
        (FrameType.RESET, 4, 4 + MAX_RESET_TEXT_BYTES),
    ],
)
def test_every_type_has_its_bounds(kind: FrameType, smallest: int, largest: int) -> None:
    stream = 2 if kind in range(FrameType.OPEN, FrameType.QUIESCE) else 0
    for size in {smallest, largest}:
        assert in_step().feed(encode(kind, stream, bytes(size)))[0].payload == bytes(size)
    for size in {smallest - 1, largest + 1} - {-1}:
        with pytest.raises(FrameError, match=r"bytes|length"):
            in_step().feed(encode(kind, stream, bytes(size)))


@pytest.mark.parametrize(
    ("kind", "payload"),
    [(FrameType.QUIESCE, bytes(8)), (FrameType.RESUME, bytes(8)), (FrameType.POWEROFF, bytes(4))],
)
def test_what_only_the_host_may_send_is_refused(kind: FrameType, payload: bytes) -> None:
    with pytest.raises(FrameError):
        in_step().feed(encode(kind, 0, payload))


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<IIB3s", 0, 0, 0, b"\0\0\0"),
        struct.pack("<IIB3s", 0, 0, 16, b"\0\0\0"),
        struct.pack("<IIB3s", 0, 0, 255, b"\0\0\0"),
        struct.pack("<IIB3s", 0, 0, FrameType.PING, b"\0\0\1"),
        struct.pack("<IIB3s", 0, 1, FrameType.PING, b"\0\0\0"),
        struct.pack("<IIB3s", 1, 0, FrameType.DATA, b"\0\0\0"),
        struct.pack("<IIB3s", 0xFFFFFFFE, 1, FrameType.DATA, b"\0\0\0"),
        b"\xff\xff\xff\xffMACHINEX",
    ],
    ids=["type 0", "type 16", "type 255", "padding", "stream", "no stream", "length", "magic"],
)
def test_a_malformed_header_is_refused_before_its_payload_comes(header: bytes) -> None:
    with pytest.raises(FrameError):
        in_step().feed(header)


def test_a_magic_between_frames_is_passed_over() -> None:
    ping = encode(FrameType.PING, 0, b"1")
    assert len(in_step().feed(ping + MAGIC + HELLO + ping)) == 3


def test_after_lost_step_a_frame_counts_only_behind_a_new_magic() -> None:
    decoder = in_step()
    decoder.lose_step()
    assert decoder.feed(encode(FrameType.PING)) == []
    assert len(decoder.feed(MAGIC + HELLO)) == 1


def test_a_hello_carries_what_the_protocol_lists() -> None:
    hello = Hello(nonce=7, realtime_ns=9, entropy=b"e" * 32, hostname="höst", name="n" * 300)
    data = hello.encode()
    assert data.startswith(MAGIC)
    length, stream, kind, _ = HEADER.unpack_from(data, len(MAGIC))
    assert (stream, kind) == (0, FrameType.HELLO)
    payload = data[len(MAGIC) + HEADER.size :]
    assert len(payload) == length
    fixed = struct.unpack_from("<IQIQ32sHH", payload)
    assert fixed == (1, 7, 3, 9, b"e" * 32, 5, 255)
    assert payload[-260:] == "höst".encode() + b"n" * 255


def test_a_guests_hello_is_read_back() -> None:
    assert GuestHello.decode(struct.pack("<IQI", 1, 2**64 - 1, 1)) == (1, 2**64 - 1, 1)


def test_a_resets_text_need_not_be_utf8() -> None:
    assert decode_reset(b"\x6f\0\0\0no \xff") == (111, "no �")


def buffered(decoder: FrameDecoder) -> int:
    """Bytes the decoder holds on to."""
    return len(decoder._buffer)  # pyright: ignore[reportPrivateUsage]
