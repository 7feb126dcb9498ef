"""Large output, which the agent moves and does not copy (guest/splice.c): every byte, in order."""

import random
import struct
import sys
from pathlib import Path

import pytest

from tests.guest.agent_process import Agent
from tests.guest.frame_client import (
    CREDIT,
    HELLO,
    MAGIC,
    QUIESCE,
    QUIESCED,
    RESUME,
    FrameClient,
    frame,
    hello_payload,
    parse_reply,
    run_request,
)

MEGABYTE = 1_000_000


@pytest.fixture
def client(agent: Agent) -> FrameClient:
    return agent.client


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Bytes that are found in one place only."""
    file = tmp_path / "large"
    file.write_bytes(random.Random(1).randbytes(3 * MEGABYTE))
    return file


def test_both_outputs_come_whole_through_any_window(client: FrameClient, large: Path) -> None:
    draw = random.Random(2)
    number = client.request(1978, run_request(cmd=f"cat {large} >&2 & cat {large}; wait"))
    stream = client.streams[number]
    stream.auto_credit = False
    credited = 262144
    while not stream.eof:
        more = draw.choice([1, 7, 100, 4096, 16384, 65536, 100_000])
        more = min(more, 262144 - credited + stream.heard)  # a host credits what it has read
        if more > 0:
            client.send(frame(CREDIT, number, struct.pack("<I", more)))
            credited += more
        client.pump()
        assert stream.heard <= credited
    reply = parse_reply(stream.data)
    assert (reply.stdout, reply.stderr) == (large.read_bytes(), large.read_bytes())
    assert reply.code == 0
    assert max(len(body) for _, body in reply.frames) > 65536, "nothing of it was moved"


@pytest.mark.parametrize("block", ["1", "5000", "4096", "65536", "300000"])
def test_whatever_pieces_a_program_writes(client: FrameClient, large: Path, block: str) -> None:
    size = 60_000 if block == "1" else 2 * MEGABYTE
    command = f"head -c {size} {large} | dd bs={block} status=none"
    assert client.execute(run_request(cmd=command)).stdout == large.read_bytes()[:size]


def test_pages_that_belong_to_a_file_are_not_changed_by_us(
    client: FrameClient, large: Path
) -> None:
    script = (
        "import os, sys\n"
        "a, b = os.pipe()\n"
        "f = os.open(sys.argv[1], os.O_RDONLY)\n"
        "while (n := os.splice(f, b, 65536)):\n"
        "    while n: n -= os.splice(a, 1, n)\n"
    )
    program = large.with_name("program")
    program.write_text(script)
    reply = client.execute(run_request(cmd=f"{sys.executable} {program} {large}"))
    assert (reply.stdout, reply.stderr) == (large.read_bytes(), b"")
    assert random.Random(1).randbytes(3 * MEGABYTE) == large.read_bytes()


def test_a_host_that_does_not_read_hears_everything_later(client: FrameClient, large: Path) -> None:
    first = client.request(1978, run_request(cmd=f"cat {large}"))
    second = client.request(1978, run_request(cmd=f"cat {large}"))
    client.send(frame(QUIESCE, 0, struct.pack("<Q", 7)))
    assert client.wait_control(QUIESCED) == struct.pack("<Q", 7)
    heard = [client.streams[number].heard for number in (first, second)]
    client.send(frame(RESUME, 0, bytes(8)))
    for number in (first, second):
        assert parse_reply(client.finish(number)).stdout == large.read_bytes()
    assert min(heard) < 3 * MEGABYTE


def test_a_new_connection_hears_nothing_of_the_old_one(agent: Agent, large: Path) -> None:
    client = agent.client
    number = client.request(1978, run_request(cmd="cat /dev/zero"))
    client.wait(lambda: client.streams[number].heard > MEGABYTE)
    client.send(MAGIC + frame(HELLO, 0, hello_payload(9)))  # what waits now is of no use to anybody
    client.synced = False
    client.buffer.clear()
    client.control.clear()
    client.streams.clear()
    client.last_id = -1
    client.wait_hello(9)
    reply = client.execute(run_request(cmd=f"cat {large}"))
    assert (reply.stdout, reply.code) == (large.read_bytes(), 0)
    assert list(client.streams) == [1]
