"""Streams that programs in the guest open: /run/machinen/vsock and the web proxy's port."""

from __future__ import annotations

import errno
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.guest.agent_process import Agent
from tests.guest.frame_client import (
    ACCEPT,
    DATA,
    EOF,
    RESET,
    WINDOW,
    FrameClient,
    frame,
    hello_payload,
    run_request,
)

MAX_GUEST_STREAMS = 256
HELLO_PROXY = 4


@pytest.fixture
def connect(agent: Agent) -> Iterator[Callable[[], socket.socket]]:
    """Connects to the agent's Unix socket, as a program in the guest does."""
    opened: list[socket.socket] = []
    here = os.open(agent.root / "run/machinen", os.O_PATH)  # the whole path may be too long

    def one() -> socket.socket:
        program = socket.socket(socket.AF_UNIX)
        program.settimeout(60)
        program.connect(f"/proc/self/fd/{here}/vsock")
        opened.append(program)
        return program

    yield one
    os.close(here)
    for program in opened:
        program.close()


Connect = Callable[[], socket.socket]


def test_a_program_speaks_with_a_port_of_the_host(client: FrameClient, connect: Connect) -> None:
    program = connect()
    program.sendall(b"CONNECT 5000\nfirst words")
    number, port = client.wait_opened()
    assert (number, port) == (2, 5000)
    client.send(frame(ACCEPT, number))
    assert program.recv(100) == b"OK 2\n"
    client.wait(lambda: bytes(client.streams[number].data) == b"first words")
    client.send(frame(DATA, number, b"an answer"))
    assert program.recv(100) == b"an answer"
    program.shutdown(socket.SHUT_WR)
    client.wait(lambda: client.streams[number].eof)
    client.send(frame(DATA, number, b"half closed") + frame(EOF, number))
    assert program.recv(100) == b"half closed"
    assert program.recv(100) == b""


def test_a_line_may_come_in_pieces(client: FrameClient, connect: Connect) -> None:
    program = connect()
    for piece in (b"CONN", b"ECT 7", b"7\r\n"):
        program.sendall(piece)
        client.execute(b"EXEC true\n")  # the agent has had a turn
    number, port = client.wait_opened()
    assert port == 77
    client.send(frame(ACCEPT, number))
    assert program.recv(100) == f"OK {number}\n".encode()


def test_a_port_the_host_refuses_hangs_up(client: FrameClient, connect: Connect) -> None:
    program = connect()
    program.sendall(b"CONNECT 5000\n")
    number, _ = client.wait_opened()
    client.send(frame(RESET, number, struct.pack("<I", errno.ECONNREFUSED)))
    assert program.recv(100) == b""


@pytest.mark.parametrize("line", [b"HELLO\n", b"CONNECT x\n", b"CONNECT " + b"1" * 40, b"\n"])
def test_what_is_no_line_is_hung_up_on(client: FrameClient, connect: Connect, line: bytes) -> None:
    program = connect()
    program.sendall(line)
    with suppress(ConnectionResetError):  # it hung up before it read everything
        assert program.recv(100) == b""
    assert client.execute(b"EXEC echo fine\n").stdout == b"fine\n"
    assert client.opened == []


def test_a_reader_that_stops_stops_its_own_stream_alone(
    client: FrameClient, connect: Connect
) -> None:
    program, other = connect(), connect()
    program.sendall(b"CONNECT 1\n")
    number, _ = client.wait_opened()
    client.streams[number].auto_credit = False
    client.send(frame(ACCEPT, number))
    program.setblocking(False)
    sent = 0
    while sent < 4 * WINDOW:
        try:
            sent += program.send(bytes(65536))
        except BlockingIOError:
            client.pump()
            if client.streams[number].heard == WINDOW:
                break
    assert client.streams[number].heard == WINDOW
    other.sendall(b"CONNECT 2\n")
    second, _ = client.wait_opened()
    client.send(frame(ACCEPT, second) + frame(DATA, second, b"not stalled"))
    data = b""
    while not data.endswith(b"not stalled"):
        data += other.recv(100)


def test_only_so_many_streams_and_the_host_still_has_room(
    client: FrameClient, connect: Connect
) -> None:
    for _ in range(MAX_GUEST_STREAMS):
        connect().sendall(b"CONNECT 1\n")
        number, _ = client.wait_opened()
        client.send(frame(ACCEPT, number))
    surplus = connect()
    surplus.sendall(b"CONNECT 1\n")
    assert surplus.recv(100) == b""
    assert client.execute(b"EXEC echo room\n").stdout == b"room\n"


def test_without_a_host_a_program_is_hung_up_on(
    start_agent: Callable[[], Agent],
) -> None:
    agent = start_agent()
    with socket.socket(socket.AF_UNIX) as program:
        program.settimeout(60)
        connect_when_it_listens(program, agent.root / "run/machinen")
        with suppress(BrokenPipeError, ConnectionResetError):  # it may hang up before it reads
            program.sendall(b"CONNECT 1\n")
            assert program.recv(10) == b""


@pytest.mark.parametrize("early", [frame(DATA, 2, b"x"), frame(EOF, 2)])
def test_a_host_that_speaks_before_it_accepts_breaks_the_protocol(
    client: FrameClient, connect: Connect, early: bytes
) -> None:
    program = connect()
    program.sendall(b"CONNECT 1\n")
    client.wait_opened()
    client.send(early)
    assert program.recv(100) == b""
    client.hello(nonce=9)
    connect().sendall(b"CONNECT 3\n")
    assert client.wait_opened() == (2, 3), "a new connection counts anew"


def test_the_web_proxy_is_offered_while_the_host_has_one(start_agent: Callable[[], Agent]) -> None:
    client = start_agent().client
    client.hello(1, hello_payload(1, flags=HELLO_PROXY))
    told = client.execute(run_request(cmd="echo $http_proxy $HTTPS_PROXY")).stdout.split()
    assert len(told) == 2
    assert told[0] == told[1]
    place = re.fullmatch(rb"http://127\.0\.0\.1:(\d+)", told[0])
    assert place is not None
    port = int(place[1])
    with socket.create_connection(("127.0.0.1", port), 20) as program:
        program.sendall(b"CONNECT example.org:443 HTTP/1.1\r\n\r\n")
        number, asked = client.wait_opened()
        assert asked == 1979
        client.send(frame(ACCEPT, number) + frame(DATA, number, b"HTTP/1.1 200"))
        assert program.recv(100) == b"HTTP/1.1 200"
        client.wait(lambda: client.streams[number].data.startswith(b"CONNECT example.org"))
    client.hello(2, hello_payload(2))
    client.last_id = -1
    client.streams.clear()
    assert client.execute(run_request(cmd="echo -n $http_proxy")).stdout == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), 20)


def connect_when_it_listens(program: socket.socket, directory: Path) -> None:
    """The agent makes its socket, then listens, and tells nobody."""
    deadline = time.monotonic() + 60
    while True:
        with suppress(FileNotFoundError, ConnectionRefusedError):
            here = os.open(directory, os.O_PATH)
            try:
                return program.connect(f"/proc/self/fd/{here}/vsock")
            finally:
                os.close(here)
        assert time.monotonic() < deadline
        time.sleep(0.005)
