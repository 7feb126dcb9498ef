"""The channel's connection: greeting, turns, quiescing, and guests that break the protocol."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import anyio
import pytest

from tests.vmm.fake_guest import greeted, mux_and_guest, opened
from vmm import frames
from vmm.errors import VmmError
from vmm.frames import HEADER, INITIAL_WINDOW_BYTES, MAX_STREAMS, FrameType
from vmm.mux import MAX_VIOLATIONS, ChannelMux
from vmm.mux_stream import MuxStream, StreamResetError


async def test_the_host_greets_again_with_the_same_nonce_until_it_is_answered(
    tmp_path: Path,
) -> None:
    async with mux_and_guest(tmp_path) as (mux, guest):
        port = await guest.connected()
        first, flags = await port.hello()
        second, _ = await port.hello()
        assert first == second
        assert flags == frames.HELLO_SET_TIME | frames.HELLO_NEW_EPOCH
        assert not mux.ready.is_set()
        await port.answer_hello(first)
        await mux.ready.wait()


async def test_an_answer_to_another_greeting_is_not_ours(tmp_path: Path) -> None:
    async with mux_and_guest(tmp_path) as (mux, guest):
        port = await guest.connected()
        nonce, _ = await port.hello()
        await port.answer_hello(nonce ^ 1)
        assert await port.hello() == (nonce, 3)
        assert not mux.ready.is_set()


async def test_frames_from_before_the_hello_are_thrown_away(tmp_path: Path) -> None:
    async with mux_and_guest(tmp_path) as (mux, guest):
        port = await guest.connected()
        nonce, _ = await port.hello()
        await port.stream.send(b"old bytes" + frames.MAGIC)
        await port.send(FrameType.WORKLOAD_EXIT, 0, b"\1\0")
        await port.send(FrameType.DATA, 1, b"late")
        await port.answer_hello(nonce, flags=frames.HELLO_WORKLOAD_STARTED)
        await mux.ready.wait()
        assert mux.workload_exit is None
        assert mux.workload_started


async def test_a_greeting_that_was_long_on_its_way_is_followed_by_the_time(tmp_path: Path) -> None:
    async with mux_and_guest(tmp_path) as (_, guest):
        port = await guest.connected()
        before_ns = time.time_ns()
        told = await port.greet()
        assert before_ns <= int.from_bytes(told.payload, "little") <= time.time_ns()


async def test_a_ping_is_answered_with_its_bytes(tmp_path: Path) -> None:
    async with greeted(tmp_path) as (_, port):
        await port.send(FrameType.PING, 0, b"how are you")
        assert await port.next() == (FrameType.PONG, 0, b"how are you")


async def test_a_line_of_the_agent_is_noted(tmp_path: Path) -> None:
    async with mux_and_guest(tmp_path) as (_, guest):
        port = await guest.connected()
        await port.greet()
        await port.send(FrameType.LOG, 0, b"out of \xff memory")
        await port.send(FrameType.PING)
        await port.expect(FrameType.PONG)
        assert guest.notes == ["agent: out of � memory"]


async def test_the_workloads_exit_is_kept(tmp_path: Path) -> None:
    async with greeted(tmp_path) as (mux, port):
        await port.send(FrameType.WORKLOAD_EXIT, 0, b"\x03\x09")
        await port.send(FrameType.PING)
        await port.expect(FrameType.PONG)
        assert mux.workload_exit == (3, 9)


async def test_a_stream_the_guest_opens_is_refused(tmp_path: Path) -> None:
    async with greeted(tmp_path) as (_, port):
        await port.send(FrameType.OPEN, 2, b"\1\0\0\0")
        refusal = await port.expect(FrameType.RESET)
        assert (refusal.stream, refusal.number) == (2, errno.ECONNREFUSED)


async def test_late_frames_of_a_forgotten_stream_are_ignored(tmp_path: Path) -> None:
    async with greeted(tmp_path) as (mux, port):
        async with opened(mux, port) as (_, stream_id):
            pass
        await port.expect(FrameType.RESET)
        await port.send(FrameType.DATA, stream_id, b"late")
        await port.send(FrameType.EOF, stream_id)
        await port.send(FrameType.PING)
        await port.expect(FrameType.PONG)


VIOLATIONS = {
    "garbage": b"GET / HTTP/1.1\r\n",
    "an odd stream": frames.encode(FrameType.OPEN, 3, bytes(4)),
    "an oversized frame": HEADER.pack(65537, 1, FrameType.DATA, b"\0\0\0"),
    "what only a host says": frames.encode(FrameType.POWEROFF, 0, bytes(4)),
}


@pytest.mark.parametrize("violation", VIOLATIONS.values(), ids=VIOLATIONS)
async def test_a_violation_ends_the_streams_and_the_channel_comes_back(
    tmp_path: Path, violation: bytes
) -> None:
    async with mux_and_guest(tmp_path) as (mux, guest):
        port = await guest.connected()
        await port.greet()
        await mux.ready.wait()
        async with opened(mux, port) as (stream, _):
            await port.stream.send(violation)
            with pytest.raises(StreamResetError, match="lost"):
                await stream.receive()
        assert await port.is_hung_up()
        again = await guest.connected()
        await again.greet()
        await mux.ready.wait()
        async with opened(mux, again):
            pass
        assert [note for note in guest.notes if "broke the channel's protocol" in note]


async def test_a_guest_that_breaks_the_channel_too_often_loses_it(tmp_path: Path) -> None:
    async with mux_and_guest(tmp_path) as (mux, guest):
        for _ in range(MAX_VIOLATIONS):
            port = await guest.connected()
            await port.greet()
            await port.stream.send(b"\xff" * 32)
            assert await port.is_hung_up()
        await guest.wait_note("stays closed")
        with pytest.raises(VmmError) as caught:
            async with mux.open_stream(1978):
                raise AssertionError("opened")
        assert caught.value.code == "AGENT_UNAVAILABLE"


async def test_an_agent_of_another_version_is_a_violation(tmp_path: Path) -> None:
    async with mux_and_guest(tmp_path) as (mux, guest):
        port = await guest.connected()
        nonce, _ = await port.hello()
        await port.answer_hello(nonce, version=2)
        assert await port.is_hung_up()
        await guest.wait_note("version 2")
        assert not mux.ready.is_set()


async def test_the_end_of_qemu_ends_the_mux_and_its_streams(tmp_path: Path) -> None:
    async with greeted(tmp_path) as (mux, port), opened(mux, port) as (stream, _):
        await port.stream.aclose()
        with pytest.raises(StreamResetError):
            await stream.receive()
        assert not mux.ready.is_set()


async def test_a_mux_without_a_socket_ends_at_once(tmp_path: Path) -> None:
    mux = ChannelMux(lambda nonce: pytest.fail("greeted"), lambda text: None)
    with anyio.fail_after(60):
        await mux.run(str(tmp_path / "absent.sock"))


async def test_no_stream_can_be_opened_before_the_agent_answers(tmp_path: Path) -> None:
    async with mux_and_guest(tmp_path) as (mux, _):
        with pytest.raises(VmmError) as caught:
            async with mux.open_stream(1978):
                raise AssertionError("opened")
        assert caught.value.retryable


async def test_a_refused_stream_says_why(tmp_path: Path) -> None:
    async with greeted(tmp_path) as (mux, port), anyio.create_task_group() as tasks:

        async def refuse() -> None:
            opening = await port.expect(FrameType.OPEN)
            await port.send(FrameType.RESET, opening.stream, b"\x6f\0\0\0no such service")

        tasks.start_soon(refuse)
        with pytest.raises(VmmError, match="no such service") as caught:
            async with mux.open_stream(4):
                raise AssertionError("opened")
        assert caught.value.code == "STREAM_REFUSED"


async def test_there_are_at_most_512_streams(tmp_path: Path) -> None:
    async with greeted(tmp_path) as (mux, port):
        async with anyio.create_task_group() as tasks:

            async def hold() -> None:
                async with mux.open_stream(1978):
                    await anyio.sleep_forever()

            for _ in range(MAX_STREAMS):
                tasks.start_soon(hold)
            for _ in range(MAX_STREAMS):
                await port.accept()
            with pytest.raises(VmmError, match="too many streams") as caught:
                async with mux.open_stream(1978):
                    raise AssertionError("opened")
            assert caught.value.code == "STREAM_REFUSED"
            tasks.cancel_scope.cancel()
        for _ in range(MAX_STREAMS):
            await port.expect(FrameType.RESET)
        async with opened(mux, port):
            pass


# -- turns ----------------------------------------------------------------------------------------


async def test_many_senders_at_once_all_get_through(tmp_path: Path) -> None:
    size, senders = 100_000, 8
    received: dict[int, int] = {}
    async with greeted(tmp_path) as (mux, port), anyio.create_task_group() as tasks:

        async def send_all() -> None:
            async with mux.open_stream(1978) as stream:
                await stream.send(bytes(size))
                stream.send_eof()
                assert await stream.receive() == b""

        for _ in range(senders):
            tasks.start_soon(send_all)
        ended = 0
        while ended < senders:
            frame = await port.next()
            if frame.type is FrameType.OPEN:
                await port.send(FrameType.ACCEPT, frame.stream)
            elif frame.type is FrameType.DATA:
                received[frame.stream] = received.get(frame.stream, 0) + len(frame.payload)
            elif frame.type is FrameType.EOF:
                ended += 1
                await port.send(FrameType.EOF, frame.stream)
    assert list(received.values()) == [size] * senders


async def test_a_stream_without_credit_does_not_hold_up_another(tmp_path: Path) -> None:
    async with (
        greeted(tmp_path) as (mux, port),
        opened(mux, port) as (stalled, stalled_id),
        opened(mux, port) as (other, other_id),
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(send_quietly, stalled, bytes(INITIAL_WINDOW_BYTES + 1))
        assert await port.receive_data(INITIAL_WINDOW_BYTES) == bytes(INITIAL_WINDOW_BYTES)
        await other.send(b"still here")
        assert await port.next() == (FrameType.DATA, other_id, b"still here")
        await port.credit(stalled_id, 1)
        assert await port.next() == (FrameType.DATA, stalled_id, b"\0")


async def test_a_reader_that_stalls_does_not_hold_up_another(tmp_path: Path) -> None:
    async with (
        greeted(tmp_path) as (mux, port),
        opened(mux, port) as (_, stalled_id),
        opened(mux, port) as (other, other_id),
    ):
        for _ in range(INITIAL_WINDOW_BYTES // 65536):
            await port.send(FrameType.DATA, stalled_id, bytes(65536))
        await port.send(FrameType.DATA, other_id, b"fresh")
        assert await other.receive() == b"fresh"


# -- quiesce --------------------------------------------------------------------------------------


async def test_a_quiesced_mux_sends_nothing_until_it_resumes(tmp_path: Path) -> None:
    async with (
        greeted(tmp_path) as (mux, port),
        opened(mux, port) as (stream, stream_id),
        anyio.create_task_group() as tasks,
    ):
        confirmed: list[bool] = []

        async def quiesce() -> None:
            confirmed.append(await mux.quiesce(10))

        tasks.start_soon(quiesce)
        token = (await port.expect(FrameType.QUIESCE)).payload
        await stream.send(b"held back")
        await port.send(FrameType.QUIESCED, 0, token)
        with anyio.move_on_after(0.1):
            pytest.fail(f"sent while quiesced: {await port.next()}")
        assert confirmed == [True]
        mux.resume()
        assert (await port.expect(FrameType.RESUME)).payload != bytes(8)
        assert await port.next() == (FrameType.DATA, stream_id, b"held back")


async def test_a_guest_that_does_not_quiesce_in_time_is_held_all_the_same(tmp_path: Path) -> None:
    async with greeted(tmp_path) as (mux, port), opened(mux, port) as (stream, _):
        assert not await mux.quiesce(0.05)
        await port.expect(FrameType.QUIESCE)
        await port.send(FrameType.QUIESCED, 0, b"too late")
        await stream.send(b"held back")
        with anyio.move_on_after(0.1):
            pytest.fail(f"sent while quiesced: {await port.next()}")
        mux.resume()
        await port.expect(FrameType.RESUME)
        assert await port.receive_data(9) == b"held back"


async def test_without_an_agent_there_is_nothing_to_quiesce(tmp_path: Path) -> None:
    async with mux_and_guest(tmp_path) as (mux, guest):
        assert not await mux.quiesce(10)
        mux.resume()
        port = await guest.connected()
        await port.greet()
        await mux.ready.wait()


async def test_a_connection_that_is_lost_while_quiesced_starts_unheld(tmp_path: Path) -> None:
    async with mux_and_guest(tmp_path) as (mux, guest):
        port = await guest.connected()
        await port.greet()
        await mux.ready.wait()
        assert not await mux.quiesce(0.05)
        await port.stream.send(b"\xff" * 32)
        again = await guest.connected()
        await again.greet()
        await mux.ready.wait()


async def test_power_off_and_time_reach_the_guest(tmp_path: Path) -> None:
    async with greeted(tmp_path) as (mux, port):
        assert mux.power_off(1500)
        assert (await port.expect(FrameType.POWEROFF)).number == 1500
        mux.tell_time()
        await port.expect(FrameType.RESUME)


async def test_power_off_without_an_agent_says_so(tmp_path: Path) -> None:
    async with mux_and_guest(tmp_path) as (mux, _):
        assert not mux.power_off(1500)


# -- helpers --------------------------------------------------------------------------------------


async def send_quietly(stream: MuxStream, data: bytes) -> None:
    await stream.send(data)
