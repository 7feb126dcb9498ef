"""Whatever bytes a guest or a client sends: every reader answers, refuses, and takes no memory."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vmm.fake_guest import greeted, mux_and_guest
from vmm import fuse_wire as wire
from vmm import rename, workload
from vmm.control import _parse as parse_request  # pyright: ignore[reportPrivateUsage]
from vmm.errors import VmmError
from vmm.frames import HEADER, MAX_PAYLOAD_BYTES, FrameType
from vmm.fuse_messages import FuseStreamError, MessageBuffer
from vmm.live_mounts import _read_state as read_state  # pyright: ignore[reportPrivateUsage]
from vmm.mount_requests import MAX_ANSWER_BYTES, ask
from vmm.mux_stream import StreamResetError
from vmm.spec import LiveMountSpec, parse_spec
from vmm.vsock_server import read_connect

BYTES = st.binary(max_size=200)
CHUNKS = st.lists(BYTES.filter(bool), max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)


def told(error: VmmError, code: str, word: str = "") -> None:
    """The error is the one that was meant, and its sentence has `word` in it."""
    assert error.code == code
    assert word in str(error)


class FakeStream:
    """A stream whose guest says the given pieces, then ends: by its end of file, or a reset."""

    def __init__(self, pieces: Sequence[bytes], *, reset: bool = False) -> None:
        self.pieces = [*pieces]
        self.sent = b""
        self.taken = 0
        self._reset = reset

    async def send(self, data: bytes) -> None:
        self.sent += data

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self.pieces:
            piece = self.pieces.pop(0)
            self.taken += len(piece)
            return piece
        if self._reset:
            raise StreamResetError(5, "gone")
        return b""


# -- the answer of the mounts service ---


def asked(pieces: Sequence[bytes], *, reset: bool = False) -> tuple[bytes | str, FakeStream]:
    """What came behind OK, or the words of the refusal; and the stream."""
    stream = FakeStream(pieces, reset=reset)

    async def run() -> bytes:
        return await ask(stream, b"FUSE rw 6\n/mnt/a", "/mnt/a")  # pyright: ignore[reportArgumentType]

    try:
        return anyio.run(run), stream
    except VmmError as error:
        told(error, "MOUNT_FAILED", "/mnt/a")
        return str(error), stream


@pytest.mark.parametrize("cut", range(1, 8))
def test_what_comes_behind_ok_is_the_mounts(cut: int) -> None:
    data = b"OK\nrest"
    assert asked([data[:cut], data[cut:]])[0] == (b"rest" if cut < 3 else data[3:cut])
    rest, stream = asked([data])
    assert (rest, stream.sent) == (b"rest", b"FUSE rw 6\n/mnt/a")


def test_the_guests_reason_is_told() -> None:
    assert "no /dev/fuse" in str(asked([b"ERR 12\nno /dev", b"/fuse more"])[0])
    assert "no reason" in str(asked([b"ERR 0\n"])[0])


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"OK"],
        [b"ERR 5\nab"],
        [b"ERR " + b"9" * 5000 + b"\n"],
        [b"ERR -1\n"],
        [b"ERR \xb2\n"],
        [b"NO\n"],
        [b"x" * (MAX_ANSWER_BYTES + 1), b"x" * 100],
    ],
)
def test_what_is_no_answer_is_a_refusal(pieces: list[bytes]) -> None:
    for reset in (False, True):
        assert isinstance(asked(pieces, reset=reset)[0], str)


def test_an_endless_answer_is_not_collected() -> None:
    for first in (b"", b"ERR 99999999\n"):
        _, stream = asked([first + b"x" * 4096] + [b"x" * 4096] * 100)
        assert stream.taken <= MAX_ANSWER_BYTES + 2 * 4096 + len(first)


LINES = st.sampled_from([b"OK\n", b"ERR 3\n", b"ERR ", b"\n", b"9" * 40, b"OK", b"ERR 99999999\n"])


@given(pieces=st.lists(LINES | BYTES.filter(bool), max_size=6), reset=st.booleans())
def test_any_answer_is_ok_or_a_refusal(pieces: list[bytes], reset: bool) -> None:
    found, _ = asked(pieces, reset=reset)
    assert isinstance(found, str) or b"".join(pieces).startswith(b"OK\n" + found)


# -- CONNECT ---


class FakeClient(FakeStream):
    """A socket: an end of file is EndOfStream there."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if not self.pieces:
            raise anyio.EndOfStream
        self.taken += len(self.pieces[0])
        return self.pieces.pop(0)


@given(
    CHUNKS | st.lists(st.sampled_from([b"CONNECT ", b"1978", b"\r\n", b"\n", b"9" * 5000, b"-"]))
)
def test_any_line_is_a_connect_or_refused(pieces: list[bytes]) -> None:
    client, whole = FakeClient(pieces), b"".join(pieces)

    async def read() -> tuple[int, bytes]:
        return await read_connect(client)  # pyright: ignore[reportArgumentType]

    try:
        port, rest = anyio.run(read)
    except VmmError as error:
        told(error, "HANDSHAKE_INVALID")
    except anyio.EndOfStream:
        assert b"\n" not in whole
    else:
        line = whole.partition(b"\n")[0].rstrip(b"\r")
        assert line.startswith(b"CONNECT ")
        assert int(line[8:]) == port <= 0xFFFFFFFF
        assert whole.partition(b"\n")[2].startswith(rest)


# -- a guest on the mux ---


@st.composite
def some_frame(draw: st.DrawFn) -> bytes:
    """A frame with a whole header; of any type, stream and length, its payload often of another."""
    payload = draw(st.binary(max_size=64))
    kind = draw(st.sampled_from([*FrameType]) | st.integers(0, 255))
    stream = draw(st.integers(0, 9) | st.integers(0, 0xFFFFFFFF))
    length = draw(st.just(len(payload)) | st.integers(0, 0xFFFFFFFF))
    return HEADER.pack(length, stream, int(kind), bytes(3)) + payload


NO_FRAMES = b"\xee" * 2 * (HEADER.size + MAX_PAYLOAD_BYTES)
"""Whatever frame was begun, this ends it and is none."""


@given(st.lists(some_frame() | BYTES, max_size=10))
def test_whatever_a_guest_sends_the_next_connection_is_as_good_as_new(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    directory = tmp_path_factory.mktemp("mux")

    async def converse() -> None:
        async with mux_and_guest(directory) as (mux, guest):
            first = await guest.connected()
            await first.greet()
            await mux.ready.wait()
            with suppress(anyio.BrokenResourceError):  # the mux may have hung up already
                for piece in pieces:
                    await first.stream.send(piece)
                await first.stream.send(NO_FRAMES)
            again = await guest.connected()
            await again.greet()
            await mux.ready.wait()

    anyio.run(converse)


async def test_a_guest_in_good_order_is_greeted_once(tmp_path: Path) -> None:
    async with greeted(tmp_path) as (mux, _):
        assert mux.ready.is_set()


# -- a live mount's stream ---


@given(data=st.binary(max_size=400), cuts=st.lists(st.integers(1, 60), max_size=20))
def test_any_bytes_are_fuse_messages_or_refused(data: bytes, cuts: list[int]) -> None:
    buffer, position = MessageBuffer(), 0
    try:
        for cut in [*cuts, len(data)]:
            for message in buffer.feed(data[position : position + cut]):
                assert len(message) == int.from_bytes(message[:4], "little")
            position += cut
    except FuseStreamError:
        return


@given(
    sizes=st.lists(st.integers(0, 100), max_size=8), cuts=st.lists(st.integers(1, 90), max_size=20)
)
def test_messages_are_the_same_however_they_are_cut(sizes: list[int], cuts: list[int]) -> None:
    wanted = [
        struct.pack("<I", wire.IN_HEADER.size + size) + bytes(wire.IN_HEADER.size + size - 4)
        for size in sizes
    ]
    data, position, found = b"".join(wanted), 0, list[bytes]()
    buffer = MessageBuffer()
    for cut in [*cuts, len(data)]:
        found += [bytes(message) for message in buffer.feed(data[position : position + cut])]
        position += cut
    assert found == wanted
    assert buffer.is_empty


# -- the words of a shell and of a session ---


@given(st.lists(BYTES.filter(bool) | st.sampled_from([b"X 0\n", b"F 99999\n", b"F 3\nabc"])))
def test_any_reply_is_a_workload_or_its_failure(pieces: list[bytes]) -> None:
    stream = FakeStream(pieces)

    async def start() -> bytes:
        spec = workload.WorkloadSpec(cmd=["true"])
        return await workload.start_workload(stream, spec)  # pyright: ignore[reportArgumentType]

    try:
        assert anyio.run(start)[:1] in (b"S", b"O")
    except VmmError as error:
        told(error, "WORKLOAD_FAILED")


class FakeMux:
    """A mux whose only stream is the given one."""

    def __init__(self, stream: FakeStream) -> None:
        self._stream = stream

    def open_stream(self, port: int) -> Any:
        assert port == workload.EXEC_PORT
        stream = self._stream

        class Opened:
            async def __aenter__(self) -> FakeStream:
                return stream

            async def __aexit__(self, *_: object) -> None:
                pass

        return Opened()


@given(st.lists(BYTES.filter(bool) | st.sampled_from([b"X 0\n", b"\nX 0\n", b"X 00000\n"])))
def test_a_guest_takes_its_name_only_if_the_last_word_is_exit_0(pieces: list[bytes]) -> None:
    stream = FakeStream(pieces)

    async def tell() -> bool:
        return await rename.tell_guest(FakeMux(stream), "new", "new")  # pyright: ignore[reportArgumentType]

    took = anyio.run(tell)
    assert stream.taken <= rename.MAX_REPLY_BYTES + 200
    if took:
        last = b"".join(pieces)[: stream.taken].rstrip(b"\n").rpartition(b"\n")[2]
        assert last.startswith(b"X 0")


# -- files and lines of other processes ---


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_line_on_the_control_socket_is_a_request_or_refused(line: bytes) -> None:
    try:
        request = parse_request(line)
    except (ValueError, RecursionError):
        return
    assert isinstance(request["id"], int)
    assert isinstance(request["method"], str)
    assert isinstance(request["params"], dict)


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_text_is_a_spec_or_a_refusal(text: bytes) -> None:
    with pytest.raises(VmmError, match="cannot use the VM spec"):
        parse_spec(text)


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps({"mounts": value}).encode()))
def test_any_state_file_is_a_state_or_a_refusal(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "live-mounts.json"
    path.write_bytes(content)
    spec = LiveMountSpec(host="/srv", guest="/mnt/a", mode="rw", state_file=str(path))
    try:
        state = read_state(spec)
    except VmmError as error:
        told(error, "RESTORE_FAILED", "live-mounts.json")
    else:
        assert state is None or isinstance(state, dict)
