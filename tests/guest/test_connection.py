"""The connection itself: HELLO, malformed frames, limits; docs/protocol.md, chapter 1."""

import errno
import random
import re
import socket
import struct
import threading
from collections.abc import Callable

import pytest

from tests.guest.agent_process import Agent
from tests.guest.frame_client import (
    ACCEPT,
    CREDIT,
    DATA,
    EOF,
    HELLO,
    LOG,
    MAGIC,
    OPEN,
    PING,
    PONG,
    QUIESCED,
    RESET,
    FrameClient,
    frame,
    hello_payload,
    parse_reply,
    run_request,
)


def test_hello_is_answered_with_its_nonce_each_time(start_agent: Callable[[], Agent]) -> None:
    client = start_agent().client
    client.send(b"noise before the first MAGIC \xff\xff\xff\xff\xff" + MAGIC[4:9])
    for _ in range(2):
        answer = client.hello(nonce=0x1122334455667788)
        assert answer == struct.pack("<IQI", 1, 0x1122334455667788, 0)
        client.control.clear()


def test_a_new_epoch_is_applied_before_the_answer(start_agent: Callable[[], Agent]) -> None:
    agent = start_agent()
    longer = "the-one-it-was-copied-from"
    (agent.root / "etc/hostname").write_text(f"{longer}\n")
    (agent.root / "etc/hosts").write_text(
        f"127.0.0.1 localhost\n127.0.1.1 {longer}\n10.0.0.1 other"
    )
    payload = hello_payload(
        5, flags=3, realtime_ns=1234, hostname="fork-b", name="b", entropy=bytes(range(32))
    )
    agent.client.hello(5, payload)
    assert (agent.root / "run/machinen/name").read_text() == "b\n"
    agent.client.execute(b"EXEC true\n")  # the disk learns the name after the answer
    assert (agent.root / "etc/hostname").read_text() == "fork-b\n"
    assert (agent.root / "etc/hosts").read_text() == (
        "127.0.1.1\tfork-b\n127.0.0.1 localhost\n10.0.0.1 other"
    )
    printed = agent.stop()
    assert "would set the clock to 1234 ns" in printed
    assert "would mix in 32 bytes of entropy" in printed
    assert "would set the hostname to fork-b" in printed


def test_each_epoch_has_a_machine_id_of_its_own(start_agent: Callable[[], Agent]) -> None:
    agent = start_agent()
    client = agent.client
    seen = list[str]()
    for nonce in (5, 5, 6):  # a host repeats its HELLO until it is answered
        client.hello(nonce, hello_payload(nonce, flags=2, hostname="h", name="n"))
        at_once = (agent.root / "run/machinen/machine-id").read_text()
        client.last_id = -1
        client.streams.clear()
        client.control.clear()
        client.execute(b"EXEC true\n")  # the disk learns it after the answer
        seen.append((agent.root / "etc/machine-id").read_text())
        assert seen[-1] == at_once
        assert re.fullmatch(r"[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}\n", at_once)
    assert seen[0] == seen[1] != seen[2]
    client.hello(7, hello_payload(7, flags=1))  # the same life on a new connection
    assert (agent.root / "run/machinen/machine-id").read_text() == seen[2]


def test_without_flags_a_hello_changes_nothing(agent: Agent) -> None:
    assert not (agent.root / "etc/hostname").exists()
    assert not (agent.root / "etc/machine-id").exists()
    assert agent.stop() == ""


def test_ping_is_answered_with_its_bytes(client: FrameClient) -> None:
    client.send(frame(PING, 0, b"x" * 64) + frame(PING))
    assert client.wait_control(PONG) == b"x" * 64
    assert client.wait_control(PONG) == b""


@pytest.mark.parametrize(
    "malformed",
    [
        frame(PING, 0, b"x" * 65),
        frame(PING, 1),
        frame(99),
        frame(0),
        frame(OPEN, 2, struct.pack("<I", 1978)),
        frame(OPEN, 0, struct.pack("<I", 1978)),
        frame(OPEN, 3, b"abc"),
        frame(DATA, 1),
        frame(DATA, 0, b"x"),
        frame(ACCEPT, 1),
        frame(QUIESCED, 0, bytes(8)),
        frame(LOG, 0, b"hello"),
        frame(CREDIT, 1, b"12345"),
        frame(HELLO, 0, b"short"),
        frame(HELLO, 0, b"\x02" + hello_payload(1)[1:]),
        frame(HELLO, 0, hello_payload(1)[:-2] + b"\x05\x00"),
        struct.pack("<IIB3s", 0, 0, PING, b"\0\0\1"),
        struct.pack("<IIB3x", 65537, 1, DATA),
        b"\xff\xff\xff\xff" + b"MACHINEX\0\1\r\n",
        b"\xff" * 16,
    ],
)
def test_after_a_malformed_frame_only_a_new_hello_is_heard(agent: Agent, malformed: bytes) -> None:
    client = agent.client
    running = client.request(1978, run_request(cmd="exec sleep 100"))
    client.wait(lambda: client.streams[running].accepted)
    client.control.clear()
    client.send(malformed + frame(PING, 0, b"lost"))
    client.send(MAGIC + frame(HELLO, 0, hello_payload(9)) + frame(PING, 0, b"found"))
    client.wait_hello(9)
    assert client.wait_control(PONG) == b"found"
    client.last_id = -1
    client.streams.clear()
    assert client.execute(b"EXEC echo back\n").stdout == b"back\n"


def test_nothing_but_hello_is_heard_first(start_agent: Callable[[], Agent]) -> None:
    client = start_agent().client
    client.send(MAGIC + frame(PING, 0, b"early"))
    client.hello(nonce=3)
    assert [kind for kind, _ in client.control] == [HELLO]


def test_a_host_that_comes_back_in_the_middle_of_a_frame_is_noticed(
    client: FrameClient,
) -> None:
    client.open(1978)
    client.send(struct.pack("<IIB3x", 60000, 1, DATA) + b"half of it")
    client.hello_until_answered(4)


def test_a_magic_within_a_payload_is_just_data(client: FrameClient) -> None:
    number = client.request(1978, run_request(cmd="exec cat", stdin="1"))
    text = MAGIC + frame(HELLO, 0, hello_payload(66))
    client.data(number, b"I %d\n" % len(text) + text + b"I 0\n")
    reply = parse_reply(client.finish(number))
    assert (reply.stdout, reply.code) == (text, 0)


def test_more_than_the_window_is_answered_with_a_reset(client: FrameClient) -> None:
    number = client.request(1978, run_request(cmd="exec sleep 100", stdin="1"))
    for _ in range(12):  # window, and a pipe of the same size
        client.send(frame(DATA, number, b"I 65000\n".ljust(65008, b"x")))
    client.finish(number)
    assert client.streams[number].reset == (errno.EPROTO, "more data than the window allows")
    assert client.execute(b"EXEC echo fine\n").stdout == b"fine\n"


def test_a_window_cannot_be_made_to_overflow(client: FrameClient) -> None:
    number = client.request(1978, run_request(cmd="exec sleep 100"))
    client.send(frame(CREDIT, number, b"\xff\xff\xff\xff"))
    client.finish(number)
    assert client.streams[number].reset == (errno.EPROTO, "the window overflows")


def test_a_host_that_widens_a_window_is_given_the_same(client: FrameClient) -> None:
    number = client.request(1978, run_request(cmd="cat", stdin="1"))
    stream = client.streams[number]
    before = stream.window
    client.send(frame(CREDIT, number, struct.pack("<I", 1 << 20)))
    client.wait(lambda: stream.window >= before + (1 << 20))
    for _ in range(16):
        client.data(number, b"I 65000\n" + b"x" * 65000)
    client.data(number, b"I 0\n")
    client.finish(number)
    assert stream.reset is None
    assert parse_reply(stream.data).stdout == b"x" * 65000 * 16


def test_data_after_eof_is_answered_with_a_reset(client: FrameClient) -> None:
    number = client.request(1978, run_request(cmd="exec sleep 100", stdin="1"))
    client.end(number)
    client.send(frame(DATA, number, b"I 1\nx"))
    client.finish(number)
    assert client.streams[number].reset == (errno.EPROTO, "data after EOF")


def test_a_stream_number_is_never_used_twice(client: FrameClient) -> None:
    client.execute(b"EXEC true\n")
    client.send(frame(OPEN, 1, struct.pack("<I", 1978)) + frame(PING, 0, b"lost"))
    client.hello(nonce=2)
    assert all(kind != PONG for kind, _ in client.control)


def test_frames_for_a_stream_that_is_gone_are_ignored(client: FrameClient) -> None:
    client.send(frame(DATA, 1, b"x") + frame(EOF, 3) + frame(CREDIT, 4, bytes(4)))
    client.send(frame(RESET, 5, bytes(4)) + frame(PING, 0, b"alive"))
    assert client.wait_control(PONG) == b"alive"


def test_an_unknown_port_is_refused(client: FrameClient) -> None:
    for port in (0, 1973, 65536, 131072, 0xFFFFFFFF):
        number = client.open(port)
        client.finish(number)
        assert client.streams[number].reset == (errno.ECONNREFUSED, "no such port")


def test_there_are_at_most_512_streams(client: FrameClient) -> None:
    numbers = [client.open(1975) for _ in range(512)]
    one_more = client.open(1975)
    client.finish(one_more)
    assert client.streams[one_more].reset == (errno.EMFILE, "too many streams")
    assert all(client.streams[number].accepted for number in numbers)
    client.send(frame(RESET, numbers[0], bytes(4)))
    again = client.open(1975)
    client.wait(lambda: client.streams[again].accepted)


def test_a_flood_of_pings_is_not_read_while_its_answers_are_not(agent: Agent) -> None:
    agent.socket.settimeout(2)
    flood = frame(PING, 0, b"x" * 64) * 100_000
    with pytest.raises(TimeoutError):
        agent.socket.sendall(flood)  # 7.6 MB: far more than the agent may queue
    agent.socket.settimeout(0.2)
    agent.client.hello_until_answered(2)
    assert agent.client.execute(b"EXEC echo fine\n").stdout == b"fine\n"


# -- forwards ---------------------------------------------------------------------------------


def test_a_forward_reaches_a_port_and_passes_eof_both_ways(client: FrameClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = client.open(65536 + server.getsockname()[1])
        peer, _ = server.accept()
        with peer:
            client.wait(lambda: client.streams[number].accepted)
            client.data(number, b"ping")
            client.end(number)
            assert peer.makefile("rb").read() == b"ping"
            peer.sendall(b"pong")
            peer.shutdown(socket.SHUT_WR)
            assert client.finish(number) == b"pong"
            assert client.streams[number].reset is None


def test_a_forward_carries_megabytes_both_ways_at_once(client: FrameClient) -> None:
    payload = random.Random(1).randbytes(5_000_000)
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = client.open(65536 + server.getsockname()[1])
        peer, _ = server.accept()

        def echo() -> None:
            while data := peer.recv(65536):
                peer.sendall(data)
            peer.close()

        echoing = threading.Thread(target=echo)
        echoing.start()
        client.data(number, payload)
        client.end(number)
        assert client.finish(number, 60) == payload
        echoing.join()


def test_a_forward_to_a_closed_port_is_refused(client: FrameClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    number = client.open(65536 + port)
    client.finish(number)
    assert client.streams[number].reset == (errno.ECONNREFUSED, "Connection refused")
    assert not client.streams[number].accepted


def test_an_aborted_forward_aborts_on_the_other_side(client: FrameClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = client.open(65536 + server.getsockname()[1])
        peer, _ = server.accept()
        with peer:
            client.wait(lambda: client.streams[number].accepted)
            client.send(frame(RESET, number, bytes(4)))
            peer.settimeout(60)
            with pytest.raises(ConnectionResetError):
                peer.recv(1)


def test_random_frames_never_end_the_agent(agent: Agent) -> None:
    """Whatever comes, the agent answers the next HELLO; sanitizers watch it meanwhile."""
    client = agent.client
    source = random.Random(20)
    requests = [
        b"EXEC echo hi\n",
        run_request(session="s", cmd="cat"),
        b"PUSH /nowhere\n",
        b"K=V\n",
    ]
    for nonce in range(10, 60):
        burst = MAGIC + frame(HELLO, 0, hello_payload(nonce))
        number = 1
        for _ in range(source.randrange(40)):
            kind = source.choice([OPEN, DATA, DATA, DATA, CREDIT, EOF, RESET, PING, 8, 10])
            payload = {
                OPEN: struct.pack("<I", source.choice([1974, 1975, 1976, 1978, 65537, 7])),
                DATA: source.choice([*requests, source.randbytes(source.randrange(1, 200))]),
                CREDIT: source.randbytes(4),
                RESET: bytes(4),
                8: bytes(8),
                10: bytes(8),
            }.get(kind, b"")
            stream = 0 if kind in (PING, 8, 10) else number
            if kind == OPEN:
                number += 2
                stream = number
            burst += frame(kind, stream, payload)
        if source.random() < 0.5:
            burst += source.randbytes(source.randrange(100))
        client.send(burst)
    client.hello_until_answered(99)
    client.last_id = -1
    client.streams.clear()
    assert client.execute(b"EXEC echo alive\n").stdout == b"alive\n"
