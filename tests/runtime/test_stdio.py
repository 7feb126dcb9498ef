"""Pipes to a VM as streams: order, ends, the tail, and who holds up whom."""

from __future__ import annotations

import os
from collections.abc import Generator

import anyio
import pytest

from machinen_runtime.stdio import TAIL_BYTES, PipeReceiveStream, PipeSendStream

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Generator[Pipe]:
    """Read end and write end; the test closes what it hands to nobody."""
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue  # the stream under test closed it


async def test_bytes_come_in_order_and_then_the_end(pipe: Pipe) -> None:
    stream = PipeReceiveStream(pipe[0])
    os.write(pipe[1], b"hello ")
    assert await stream.receive() == b"hello "
    os.write(pipe[1], b"world")
    assert await stream.receive(3) == b"wor"
    os.close(pipe[1])
    assert await stream.receive() == b"ld"
    for _ in range(2):
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()
    assert stream.tail == b"hello world"


async def test_a_reader_waits_for_what_comes(pipe: Pipe) -> None:
    stream = PipeReceiveStream(pipe[0])
    received: list[bytes] = []

    async def read() -> None:
        received.append(await stream.receive())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        assert received == []
        os.write(pipe[1], b"late")
    assert received == [b"late"]


async def test_closing_ends_a_reader_that_waits(pipe: Pipe) -> None:
    stream = PipeReceiveStream(pipe[0])

    async def read() -> None:
        with pytest.raises(anyio.EndOfStream):
            await stream.receive()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            await stream.aclose()


async def test_the_tail_is_the_last_mebibyte(pipe: Pipe) -> None:
    stream = PipeReceiveStream(pipe[0])
    written = b"".join(b"%07d\n" % number for number in range(TAIL_BYTES // 8 + 20_000))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.drain)
        sender = PipeSendStream(pipe[1])
        await sender.send(written)
        await sender.aclose()
    assert stream.tail == written[-TAIL_BYTES:]


async def test_whoever_listens_hears_every_chunk(pipe: Pipe) -> None:
    heard: list[bytes] = []
    stream = PipeReceiveStream(pipe[0], heard.append)
    os.write(pipe[1], b"panic")
    assert await stream.receive() == b"panic"
    assert heard == [b"panic"]


async def test_without_a_pipe_there_is_nothing_to_read_and_anything_may_be_sent() -> None:
    with pytest.raises(anyio.EndOfStream):
        await PipeReceiveStream(None).receive()
    await PipeReceiveStream(None).aclose()
    sender = PipeSendStream(None)
    await sender.send(b"x" * 1_000_000)
    await sender.aclose()


async def test_a_sender_waits_for_a_reader_and_sends_all(pipe: Pipe) -> None:
    sender = PipeSendStream(pipe[1])
    sent = os.urandom(300_000)
    received = b""

    async def send() -> None:
        await sender.send(sent)
        await sender.aclose()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        async for chunk in PipeReceiveStream(pipe[0]):
            received += chunk
    assert received == sent


async def test_sending_to_a_vm_that_is_gone_says_so(pipe: Pipe) -> None:
    sender = PipeSendStream(pipe[1])
    os.close(pipe[0])
    with pytest.raises(anyio.BrokenResourceError):
        await sender.send(b"ls\n")


async def test_closing_twice_closes_once(pipe: Pipe) -> None:
    receiver, sender = PipeReceiveStream(pipe[0]), PipeSendStream(pipe[1])
    for stream in (receiver, sender, receiver, sender):
        await stream.aclose()
    again = os.pipe()  # would get the same numbers, and be closed by a second close
    for stream in (receiver, sender):
        await stream.aclose()
    os.fstat(again[0])
    os.fstat(again[1])
    for end in again:
        os.close(end)
