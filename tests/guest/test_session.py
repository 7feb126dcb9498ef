"""Named sessions and the workload; docs/protocol.md, 3.2 and 4."""

import os
import struct
import time
from collections.abc import Callable

import pytest

from tests.guest.agent_process import Agent
from tests.guest.frame_client import (
    CREDIT,
    PING,
    PONG,
    POWEROFF,
    QUIESCE,
    QUIESCED,
    RESET,
    RESUME,
    WORKLOAD_EXIT,
    FrameClient,
    Reply,
    frame,
    parse_reply,
    run_request,
)

RING = 262144


def attach(client: FrameClient, name: str = "s", **fields: str) -> int:
    """Attach and wait for the whole replay."""
    number = client.request(1978, run_request(session=name, **fields))
    client.wait(lambda: heard(client, number).replay_done)
    return number


def heard(client: FrameClient, number: int) -> Reply:
    return parse_reply(client.streams[number].data)


def say(client: FrameClient, number: int, text: str) -> None:
    client.data(number, b"I %d\n" % len(text) + text.encode())


def wait_output(client: FrameClient, number: int, text: bytes) -> None:
    client.wait(lambda: text in heard(client, number).stdout)


def test_a_session_outlives_its_client_and_replays(client: FrameClient) -> None:
    first = attach(client, cmd="echo $((6*7)); exec cat", pty="90x30")
    wait_output(client, first, b"42\r\n")
    assert heard(client, first).sizes == [(90, 30)]
    client.end(first)
    client.finish(first)
    second = attach(client, attach="1")
    assert heard(client, second).replay == b"42\r\n"
    say(client, second, "hello\n")
    wait_output(client, second, b"hello\r\nhello\r\n")


def test_a_session_outlives_the_connection(agent: Agent) -> None:
    client = agent.client
    number = attach(client, cmd="echo one; exec cat")
    wait_output(client, number, b"one")
    client.hello(nonce=2)
    client.streams.clear()
    client.last_id = -1
    assert heard(client, attach(client, attach="1")).replay == b"one\r\n"


def test_all_clients_hear_all_and_any_may_type_and_resize(client: FrameClient) -> None:
    first = attach(client, cmd="stty -echo; echo ready; exec cat", pty="80x24")
    wait_output(client, first, b"ready")
    second = attach(client, attach="1", pty="100x40")
    for number, text in ((first, "from first"), (second, "from second")):
        say(client, number, f"{text}\n")
        wait_output(client, first, text.encode())
        wait_output(client, second, text.encode())
    client.data(first, b"R 70 20\n")
    client.wait(lambda: heard(client, second).sizes == [(100, 40), (70, 20)])
    client.wait(lambda: heard(client, first).sizes == [(80, 24), (100, 40), (70, 20)])


def test_typing_survives_the_typists_leaving(client: FrameClient) -> None:
    watcher = attach(
        client, cmd="stty raw -echo; echo ready; sleep 0.5; exec head -c 200000 | wc -c"
    )
    wait_output(client, watcher, b"ready")
    typist = attach(client, attach="1")
    for _ in range(4):
        say(client, typist, "x" * 50000)
    client.end(typist)
    client.finish(typist)
    wait_output(client, watcher, b"200000")


def test_the_end_of_a_session_is_told_to_every_client(client: FrameClient) -> None:
    first = attach(client, cmd="read x; exit 9")
    second = attach(client, attach="1")
    say(client, first, "\n")
    assert parse_reply(client.finish(first)).code == 9
    assert parse_reply(client.finish(second)).code == 9
    assert client.execute(run_request(session="s", attach="1")).failure == "NO_SESSION s"


def test_sessions_are_listed_and_killed(client: FrameClient) -> None:
    before = int(time.time())
    number = attach(
        client, "a.b-c_1", cmd="trap '' HUP; echo $$; while :; do sleep 1; done", pty="81x25"
    )
    wait_output(client, number, b"\r\n")
    pid = heard(client, number).stdout.strip().decode()
    listing = client.execute(b"PTYLIST\n")
    *fields, start = listing.stdout.decode().rstrip("\n").split("\t")
    assert fields == ["a.b-c_1", pid, "81", "25", "1"]
    assert before <= int(start) <= time.time()
    assert client.execute(b"PTYKILL 7\na.b-c_1").code == 0
    assert parse_reply(client.finish(number)).code == 137
    assert client.execute(b"PTYLIST\n").stdout == b""
    assert client.execute(b"PTYKILL 7\na.b-c_1").failure == "NO_SESSION a.b-c_1"


def test_a_session_that_cannot_start_says_why(client: FrameClient) -> None:
    reply = client.execute(run_request(session="s", arg=["machinen-no-such-program"]))
    assert reply.code == 127
    assert b"machinen-no-such-program cannot be run" in reply.stdout
    failure = client.execute(run_request(session="s", cmd="true", cwd="/no/such")).failure
    assert failure == "CWD_INVALID No such file or directory"
    assert client.execute(b"PTYLIST\n").stdout == b""


def test_there_are_at_most_64_sessions(client: FrameClient) -> None:
    for i in range(64):
        attach(client, f"n{i}", cmd="exec cat")
    failure = client.execute(run_request(session="one-more", cmd="cat")).failure
    assert failure == "TOO_MANY_SESSIONS 64 sessions are open"
    assert client.execute(b"PTYLIST\n").stdout.count(b"\n") == 64


def test_the_replay_is_the_last_256_kib_from_a_line_start(client: FrameClient) -> None:
    script = "stty -opost; seq 100000; printf done; exec cat"
    number = attach(client, cmd=script)
    wait_output(client, number, b"done")
    replay = heard(client, attach(client, attach="1")).replay
    written = b"".join(b"%d\n" % i for i in range(1, 100001)) + b"done"
    assert written.endswith(replay)
    assert RING - 512 <= len(replay) <= RING
    assert written[-len(replay) - 1 :].startswith(b"\n")


def test_the_replay_restores_modes_whose_switching_is_lost(client: FrameClient) -> None:
    switches = r"\033[?1049h\033[?25l\033[?2004h\033[?1000;1006h\033="
    script = f"printf '{switches}'; seq 100000; printf done; exec cat"
    number = attach(client, cmd=script)
    wait_output(client, number, b"done")
    replay = heard(client, attach(client, attach="1")).replay
    modes = b"\x1b[?1049h\x1b=\x1b[?25l\x1b[?1000h\x1b[?1006h\x1b[?2004h"
    assert replay.startswith(modes)
    assert replay[len(modes) :][:1].isdigit()


def test_a_client_that_stops_reading_is_cut_off_and_the_session_goes_on(
    client: FrameClient,
) -> None:
    reader = attach(
        client, cmd="stty -opost; read x; yes | head -c 20000000; echo; echo the end; exec cat"
    )
    stuck = client.open(1978)
    client.streams[stuck].auto_credit = False
    client.data(stuck, run_request(session="s", attach="1"))
    client.wait(lambda: heard(client, stuck).replay_done)
    say(client, reader, "\n")
    client.wait(lambda: heard(client, reader).stdout.endswith(b"the end\n"), 60)
    assert client.streams[stuck].reset == (105, "this client does not read its session's output")


def test_a_slow_client_is_waited_for(client: FrameClient) -> None:
    slow = client.open(1978)
    stream = client.streams[slow]
    stream.auto_credit = False
    client.data(
        slow, run_request(session="s", cmd="stty -opost; yes | head -c 3000000; echo; exec cat")
    )
    credited = 0
    while not heard(client, slow).stdout.endswith(b"y\n\n"):
        while stream.heard == credited:
            client.pump()
        time.sleep(0.02)  # what makes it slow
        part = stream.heard - credited
        credited += part
        client.send(frame(CREDIT, slow, struct.pack("<I", part)))
        assert stream.reset is None


def test_ptysession_gives_the_replay_as_output(client: FrameClient) -> None:
    number = client.request(1978, b"PTYSESSION 80 24 1 19\ns" + b"echo one; exec cat ")
    wait_output(client, number, b"one\r\n")
    again = client.request(1978, b"PTYSESSION 80 24 1 0\ns")
    wait_output(client, again, b"one\r\n")
    assert {tag for tag, _ in heard(client, again).frames} == {"O"}


def test_a_login_session_runs_roots_shell(start_agent: Callable[[], Agent]) -> None:
    agent = start_agent()
    (agent.root / "etc/passwd").write_text("root:x:0:0:root:/:/bin/bash\n")
    agent.client.hello()
    number = attach(agent.client, login="1")
    say(agent.client, number, 'echo "<$0 $HOME $USER $LOGNAME $SHELL $PWD $TERM>"\n')
    wait_output(agent.client, number, b"<-bash / root root /bin/bash / xterm-256color>")


def test_winsize_resizes_the_main_session(client: FrameClient) -> None:
    port = client.request(1974, b"80 24\n")
    stream = client.streams[port]
    client.wait(lambda: stream.data.startswith(b"err there is no session main\n"))
    script = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done"
    number = attach(client, "main", cmd=script)
    wait_output(client, number, b"ready")
    stream.data.clear()
    client.data(port, b"10")
    client.data(port, b"1 33\nnonsense\n")
    client.wait(lambda: stream.data.count(b"\n") == 2)
    assert stream.data.startswith(b"ok 101 33\nerr a line is")
    wait_output(client, number, b"33 101")
    client.end(port)
    client.finish(port)


# -- the workload -----------------------------------------------------------------------------


def start_workload(client: FrameClient, command: str) -> int:
    number = client.request(1978, run_request(session="main", workload="1", cmd=command))
    client.wait(lambda: heard(client, number).replay_done)
    return number


def answer_pings(client: FrameClient) -> None:
    client.send(frame(PONG, 0, client.wait_control(PING)))


@pytest.mark.parametrize(
    ("command", "payload"), [("exit 6", b"\x06\x00"), ("kill -KILL $$", b"\x89\x09")]
)
def test_the_end_of_the_workload_is_announced_and_ends_the_agent(
    agent: Agent, command: str, payload: bytes
) -> None:
    client = agent.client
    number = start_workload(client, command)
    assert client.wait_control(WORKLOAD_EXIT) == payload
    assert heard(client, number).code == payload[0]
    answer_pings(client)
    assert agent.process.wait(60) == 0


def test_a_host_that_does_not_answer_does_not_hold_the_end_back(agent: Agent) -> None:
    start_workload(agent.client, "exit 0")
    agent.client.wait_control(WORKLOAD_EXIT)
    assert agent.process.wait(60) == 0


def test_a_restored_host_learns_that_the_workload_runs(agent: Agent) -> None:
    client = agent.client
    assert client.wait_hello(1)[12:] == b"\0\0\0\0"
    start_workload(client, "exec sleep 100")
    assert client.hello(2)[12:] == b"\1\0\0\0"
    client.send(frame(POWEROFF, 0, struct.pack("<I", 5000)))
    assert client.wait_control(WORKLOAD_EXIT) == b"\x8f\x0f"


def test_poweroff_kills_a_workload_that_does_not_obey(agent: Agent) -> None:
    client = agent.client
    number = start_workload(client, "trap 'echo no' TERM; echo ready; while :; do sleep 1; done")
    wait_output(client, number, b"ready")
    client.send(frame(POWEROFF, 0, struct.pack("<I", 300)))
    assert client.wait_control(WORKLOAD_EXIT) == b"\x89\x09"


def test_poweroff_hangs_up_on_a_shell_that_ignores_term(agent: Agent) -> None:
    client = agent.client
    number = client.request(
        1978,
        run_request(session="main", workload="1", arg=["bash", "--norc", "-i"], env="PS1=ready>"),
    )
    wait_output(client, number, b"ready>")
    client.send(frame(POWEROFF, 0, struct.pack("<I", 600_000)))  # far longer than we wait
    assert client.wait_control(WORKLOAD_EXIT) == b"\x81\x01"


def test_poweroff_without_a_workload_ends_the_agent(agent: Agent) -> None:
    agent.client.send(frame(POWEROFF, 0, struct.pack("<I", 5000)))
    assert agent.process.wait(60) == 0


def test_while_quiet_nothing_is_sent_and_nothing_is_lost(agent: Agent) -> None:
    client = agent.client
    session = attach(client, cmd="exec cat")
    flood = client.request(1978, run_request(cmd="yes"))
    client.wait(lambda: client.streams[flood].heard > 1000000)
    client.streams[flood].auto_credit = False
    client.send(frame(QUIESCE, 0, struct.pack("<Q", 77)))
    assert client.wait_control(QUIESCED) == struct.pack("<Q", 77)
    so_far = client.streams[flood].heard
    say(client, session, "hello\n")
    client.send(frame(CREDIT, flood, struct.pack("<I", 500000)))
    deadline = time.monotonic() + 0.5
    while time.monotonic() < deadline:
        client.pump()
    assert client.streams[flood].heard == so_far
    assert not client.buffer, "a frame was cut in two"
    client.send(frame(RESUME, 0, struct.pack("<Q", 0)))
    wait_output(client, session, b"hello\r\nhello\r\n")
    client.wait(lambda: client.streams[flood].heard >= so_far + 500000)
    client.send(frame(RESET, flood, bytes(4)))


def test_a_workload_that_ends_while_quiet_is_announced_afterwards(agent: Agent) -> None:
    client = agent.client
    number = start_workload(client, "echo $$; exec sleep 100")
    wait_output(client, number, b"\r\n")
    client.send(frame(QUIESCE, 0, bytes(8)))
    client.wait_control(QUIESCED)
    os.kill(int(heard(client, number).stdout), 15)
    with pytest.raises(TimeoutError):
        client.wait_control(WORKLOAD_EXIT, 1)
    client.hello(nonce=2)
    assert client.wait_control(WORKLOAD_EXIT) == b"\x8f\x0f"
