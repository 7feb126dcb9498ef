"""Port 1978, one command per stream; docs/protocol.md, 3.1."""

import hashlib
import os
import signal
from pathlib import Path

import pytest

from tests.guest.agent_process import Agent
from tests.guest.frame_client import RESET, FrameClient, frame, parse_reply, run_request


def is_gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_gone(client: FrameClient, pid: int) -> None:
    client.wait(lambda: is_gone(pid), 5)


def test_exec_tells_stdout_stderr_and_exit_code_apart(client: FrameClient) -> None:
    reply = client.execute(b"EXEC echo out; echo err >&2; exit 7\n")
    assert (reply.stdout, reply.stderr, reply.code) == (b"out\n", b"err\n", 7)


def test_exec2_takes_text_with_newlines(client: FrameClient) -> None:
    command = "echo a\necho 'ü\n'\n".encode()
    reply = client.execute(b"EXEC2 %d\n" % len(command) + command)
    assert (reply.stdout, reply.code) == ("a\nü\n\n".encode(), 0)


def test_a_request_may_arrive_in_any_pieces(client: FrameClient) -> None:
    number = client.open(1978)
    for byte in b"EXEC2 7\necho hi":
        client.data(number, bytes([byte]))
    assert parse_reply(client.finish(number)).stdout == b"hi\n"


def test_output_keeps_its_order_when_written_with_pauses(client: FrameClient) -> None:
    script = "for i in 1 2 3; do echo o$i; sleep 0.1; echo e$i >&2; sleep 0.1; done"
    reply = client.execute(run_request(cmd=script))
    assert [text for _, text in reply.frames] == [
        b"o1\n", b"e1\n", b"o2\n", b"e2\n", b"o3\n", b"e3\n",
    ]  # fmt: skip


def test_death_by_signal_is_128_and_the_signal(client: FrameClient) -> None:
    assert client.execute(run_request(cmd="kill -TERM $$")).code == 143


def test_a_program_that_is_missing_is_127_and_one_that_cannot_run_126(client: FrameClient) -> None:
    missing = client.execute(run_request(arg=["machinen-no-such-program"]))
    assert missing.code == 127
    told = b"machinen: machinen-no-such-program cannot be run: No such file or directory\n"
    assert missing.stderr == told
    long = client.execute(run_request(arg=["x" * 200])).stderr  # the beginning is enough
    assert long.startswith(b"machinen: %s cannot be run: " % (b"x" * 63))
    assert client.execute(run_request(arg=["/etc/passwd"])).code == 126


def test_arguments_reach_the_program_unchanged(client: FrameClient) -> None:
    reply = client.execute(run_request(arg=["printf", "%s|", "a b", "", "$HOME", "ü\n"]))
    assert reply.stdout == "a b||$HOME|ü\n|".encode()


def test_environment_is_the_documented_one_and_what_was_asked_for(client: FrameClient) -> None:
    reply = client.execute(run_request(arg=["env"], env=["A=1", "HOME=/tmp", "A=two=2"]))
    assert sorted(reply.stdout.decode().splitlines()) == [
        "A=two=2",
        "HOME=/tmp",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ]


def test_cwd_is_used_and_a_wrong_one_is_refused(client: FrameClient, tmp_path: Path) -> None:
    assert client.execute(run_request(cmd="pwd", cwd=str(tmp_path))).stdout == b"%s\n" % (
        str(tmp_path).encode()
    )
    failure = client.execute(run_request(cmd="pwd", cwd=f"{tmp_path}/none")).failure
    assert failure == "CWD_INVALID No such file or directory"


def test_stdin_reaches_the_command_and_its_end_too(client: FrameClient) -> None:
    number = client.request(1978, run_request(cmd="cat", stdin="1"))
    client.data(number, b"I 6\nhello\nI 3\nyou" + b"I 0\n")
    reply = parse_reply(client.finish(number))
    assert (reply.stdout, reply.code) == (b"hello\nyou", 0)


def test_eof_of_the_client_closes_stdin_only(client: FrameClient) -> None:
    number = client.request(1978, run_request(cmd="wc -c; exit 5", stdin="1"))
    client.data(number, b"I 4\nabcd")
    client.end(number)
    reply = parse_reply(client.finish(number))
    assert (reply.stdout.strip(), reply.code) == (b"4", 5)


def test_without_stdin_a_command_reads_nothing(client: FrameClient) -> None:
    assert client.execute(run_request(cmd="cat")).code == 0


def test_input_larger_than_every_buffer_comes_through(client: FrameClient) -> None:
    number = client.request(1978, run_request(cmd="sha256sum; wc -c", stdin="1"))
    payload = bytes(range(256)) * 8192  # 2 MiB
    for at in range(0, len(payload), 65536):
        client.data(number, b"I 65536\n" + payload[at : at + 65536])
    client.data(number, b"I 0\n")
    assert parse_reply(client.finish(number)).stdout.startswith(
        hashlib.sha256(payload).hexdigest().encode()
    )


def test_input_for_a_command_that_does_not_read_is_thrown_away(client: FrameClient) -> None:
    number = client.request(1978, run_request(cmd="exec 0<&-; sleep 0.3; echo done", stdin="1"))
    for _ in range(8):
        client.data(number, b"I 65536\n" + bytes(65536))
    assert parse_reply(client.finish(number)).stdout == b"done\n"


def test_a_signal_overtakes_input_that_nobody_reads(client: FrameClient) -> None:
    number = client.request(1978, run_request(cmd="exec sleep 100", stdin="1"))
    client.data(number, b"I 65536\n" + bytes(65536))
    client.data(number, b"I 65536\n" + bytes(65536) + b"K 15\n")
    assert parse_reply(client.finish(number)).code == 143


def test_fifty_megabytes_come_through_whole(client: FrameClient) -> None:
    reply = client.execute(run_request(cmd="yes | head -c 50000000"), 120)
    assert (len(reply.stdout), reply.code) == (50000000, 0)


def test_the_agent_never_sends_past_the_window(client: FrameClient) -> None:
    number = client.open(1978)
    stream = client.streams[number]
    stream.auto_credit = False
    client.data(number, run_request(cmd="yes | head -c 1000000"))
    client.wait(lambda: stream.heard == 262144)
    reply = client.execute(b"EXEC sleep 0.2; echo other\n")  # nothing more comes meanwhile
    assert reply.stdout == b"other\n"
    assert stream.heard == 262144


def test_a_stalled_reader_does_not_slow_another_stream(client: FrameClient) -> None:
    stalled = client.open(1978)
    client.streams[stalled].auto_credit = False
    client.data(stalled, run_request(cmd="yes"))
    client.wait(lambda: client.streams[stalled].heard == 262144)
    reply = client.execute(run_request(cmd="yes | head -c 5000000"))
    assert len(reply.stdout) == 5000000


def test_a_hundred_commands_run_at_once(client: FrameClient, tmp_path: Path) -> None:
    fifo = tmp_path / "gate"
    os.mkfifo(fifo)
    numbers = [
        client.request(1978, run_request(cmd=f"read line < {fifo}; echo {i}; exit {i}"))
        for i in range(100)
    ]
    client.wait(lambda: all(client.streams[number].accepted for number in numbers))
    listing = f"ls /proc/*/fd -l 2>/dev/null | grep -c {fifo}"
    with fifo.open("w") as gate:  # opens once a reader is there
        while int(client.execute(run_request(cmd=listing)).stdout or 0) < 101:
            client.pump()
        gate.write("go\n" * 100)
    replies = [parse_reply(client.finish(number, 60)) for number in numbers]
    assert [reply.code for reply in replies] == list(range(100))
    assert [reply.stdout for reply in replies] == [b"%d\n" % i for i in range(100)]


def test_a_reset_ends_the_whole_process_group(client: FrameClient) -> None:
    number = client.request(1978, run_request(cmd="trap '' HUP; sleep 100 & echo $$ $!; wait"))
    stream = client.streams[number]
    client.wait(lambda: parse_reply(stream.data).stdout.count(b"\n") == 1)
    shell, child = map(int, parse_reply(stream.data).stdout.split())
    client.send(frame(RESET, number, b"\x00\x00\x00\x00"))
    wait_gone(client, child)
    wait_gone(client, shell)


def test_a_hang_up_ends_the_commands(agent: Agent) -> None:
    client = agent.client
    number = client.request(1978, run_request(cmd="echo $$; exec sleep 100"))
    client.wait(lambda: parse_reply(client.streams[number].data).stdout.endswith(b"\n"))
    pid = int(parse_reply(client.streams[number].data).stdout)
    client.hello(nonce=2)  # a new connection: all streams of the old one are gone
    wait_gone(client, pid)


def test_a_background_process_does_not_hold_the_answer_back(client: FrameClient) -> None:
    reply = client.execute(run_request(cmd="sleep 1000 & echo $!; exit 4"))
    os.kill(int(reply.stdout), signal.SIGKILL)
    assert reply.code == 4


def test_output_still_in_the_pipe_comes_before_the_answer(client: FrameClient) -> None:
    number = client.open(1978)
    stream = client.streams[number]
    stream.auto_credit = False  # so that the command ends long before its output is read
    client.data(number, run_request(cmd="sleep 30 & echo $! >&2; head -c 500000 /dev/zero"))
    client.wait(lambda: stream.heard == 262144)
    client.execute(b"EXEC sleep 0.5\n")
    stream.auto_credit = True
    client.send(frame(5, number, (262144).to_bytes(4, "little")))
    reply = parse_reply(client.finish(number))
    os.kill(int(reply.stderr), signal.SIGKILL)
    assert (len(reply.stdout), reply.code) == (500000, 0)


def test_a_terminal_has_its_size_and_can_be_resized(client: FrameClient) -> None:
    script = "trap 'stty size; exit 3' WINCH; tty; stty size; while :; do sleep 0.05; done"
    number = client.request(1978, run_request(cmd=script, pty="90x30"))
    stream = client.streams[number]
    client.wait(lambda: b"30 90" in parse_reply(stream.data).stdout)
    assert parse_reply(stream.data).stdout.startswith(b"/dev/pts/")
    client.data(number, b"R 100 40\n")
    reply = parse_reply(client.finish(number))
    assert b"40 100" in reply.stdout
    assert reply.code == 3


def test_the_pty_request_gives_a_terminal_with_its_environment(client: FrameClient) -> None:
    command = b'test -t 0 -a -t 1 -a -t 2 && echo "$TERM $LANG"'
    reply = client.execute(b"PTY 80 24 %d\n" % len(command) + command)
    assert reply.stdout == b"xterm-256color C.UTF-8\r\n"


def test_a_terminal_ends_its_input_with_eof_typed_even_within_a_line(client: FrameClient) -> None:
    number = client.request(1978, run_request(cmd="stty -echo; echo ok; cat", pty="80x24"))
    client.wait(lambda: b"ok" in parse_reply(client.streams[number].data).stdout)
    client.data(number, b"I 3\nabcI 0\n")
    reply = parse_reply(client.finish(number))
    assert (reply.stdout, reply.code) == (b"ok\r\nabc", 0)


def test_leaving_a_terminal_ends_every_job_of_its_shell(client: FrameClient) -> None:
    script = "set -m; trap '' HUP; sleep 100 & echo $!; wait"
    number = client.request(1978, run_request(cmd=script, pty="80x24"))
    client.wait(lambda: parse_reply(client.streams[number].data).stdout.endswith(b"\n"))
    child = int(parse_reply(client.streams[number].data).stdout.split()[-1])
    client.send(frame(RESET, number, b"\x00\x00\x00\x00"))
    wait_gone(client, child)


@pytest.mark.parametrize(
    ("request_bytes", "reason"),
    [
        (b"HELLO\n", "no such request"),
        (b"EXEC2 -1\n", "length"),
        (b"EXEC2 1048577\n", "length"),
        (b"PTY 0 24 1\nx", "PTY wants"),
        (b"PTY 80 24\n", "PTY wants"),
        (b"EXEC " + b"x" * 5000 + b"\n", "longer than 4096"),
        (run_request(cmd="true", nonsense="1"), "no such field"),
        (run_request(cmd="true", login="1"), "one of"),
        (run_request(env="A=1"), "nothing to run"),
        (run_request(cmd="true", env="=1"), "env="),
        (run_request(cmd="true", cwd="relative"), "absolute"),
        (run_request(cmd="true", pty="80"), "COLSxROWS"),
        (run_request(cmd="true", session="a/b"), "session name"),
        (run_request(cmd="true", session="x", workload="1"), "session=main"),
        (b"RUN 3\nabc", "NUL"),
    ],
)
def test_a_bad_request_says_what_is_wrong(
    client: FrameClient, request_bytes: bytes, reason: str
) -> None:
    failure = client.execute(request_bytes).failure
    assert failure is not None
    assert failure.startswith("BAD_REQUEST ")
    assert reason in failure


def test_a_request_that_is_cut_short_is_answered(client: FrameClient) -> None:
    number = client.request(1978, b"EXEC2 10\nabc")
    client.end(number)
    assert "ended within" in str(parse_reply(client.finish(number)).failure)


def test_a_client_that_talks_nonsense_loses_its_stream_and_no_other(client: FrameClient) -> None:
    number = client.request(1978, run_request(cmd="exec sleep 100", stdin="1"))
    client.data(number, b"Z 1\n")
    client.finish(number)
    assert client.streams[number].reset == (71, "not a frame of a client")
    assert client.execute(b"EXEC echo fine\n").stdout == b"fine\n"
