"""Port 1977 with the kernel's real FUSE: the relay, holding, and mounts that outlive their stream.

The agent runs in a mount namespace of its own; docs/protocol.md, 3.6.
"""

import os
import shutil

import pytest

from tests.guest.agent_process import Agent
from tests.guest.frame_client import FrameClient, parse_reply
from tests.guest.fuse_responder import (
    GETATTR,
    GO,
    HOLD,
    READ,
    SETLKW,
    WRITE,
    Responder,
    hold,
    mount_request,
)

WRITE_A_MIB = "head -c 1048576 /dev/zero | tr '\\0' x | dd of=hello bs=1M iflag=fullblock 2>&1"
LOCK = "import fcntl; fcntl.lockf(open('hello', 'r+'), fcntl.LOCK_EX)"


@pytest.fixture(autouse=True)
def _needs_fuse() -> None:
    assert os.access("/dev/fuse", os.R_OK | os.W_OK), "run as root with /dev/fuse: modprobe fuse"
    assert shutil.which("unshare"), "install util-linux"


class Mounted:
    """A responder at /mnt/live of an agent, and commands run inside."""

    def __init__(self, agent: Agent, client: FrameClient, mode: str = "rw") -> None:
        self.client = client
        self.directory = agent.root / "mnt/live"
        self.host = Responder(client, "/mnt/live", mode=mode)
        assert self.host.head() == b"OK"

    def start(self, command: str) -> int:
        """Run a shell command in the mount; returns its stream."""
        return self.client.request(1978, f"EXEC cd {self.directory} && {command}\n".encode())

    def finish(self, number: int) -> tuple[int | None, bytes]:
        """Serve until the command's end; its code and what it said."""
        self.host.serve_until(lambda: self.client.streams[number].eof)
        reply = parse_reply(self.client.streams[number].data)
        return reply.code, reply.stdout + reply.stderr

    def run(self, command: str) -> tuple[int | None, bytes]:
        """Start and finish."""
        return self.finish(self.start(command))


@pytest.fixture
def mounted(mounting_agent: Agent) -> Mounted:
    return Mounted(mounting_agent, mounting_agent.client)


def reconnected(agent: Agent, *, mode: str = "rw") -> Mounted:
    """The same agent after a new connection: every stream of the old one is gone."""
    client = FrameClient(agent.client.socket)
    client.hello(nonce=2)
    return Mounted(agent, client, mode)


def test_programs_read_what_the_host_says(mounted: Mounted) -> None:
    assert mounted.run("cat hello") == (0, b"from the host\n")
    assert mounted.run("cat missing")[0] == 1


def test_a_mebibyte_crosses_both_ways_in_one_request(mounted: Mounted) -> None:
    code, said = mounted.run(WRITE_A_MIB)
    assert code == 0, said
    assert mounted.host.files["hello"] == b"x" * (1 << 20)
    assert mounted.host.opcodes.count(WRITE) == 1
    assert mounted.run("cat hello | tr -d x | wc -c") == (0, b"0\n")


def test_a_read_only_mount_refuses_before_asking(mounting_agent: Agent) -> None:
    mounted = Mounted(mounting_agent, mounting_agent.client, "ro")
    code, said = mounted.run("echo no > hello")
    assert code != 0
    assert b"Read-only file system" in said
    assert WRITE not in mounted.host.opcodes


def test_hold_waits_for_what_is_unanswered_and_lets_nothing_more_out(mounted: Mounted) -> None:
    host = mounted.host
    host.keep = lambda opcode: opcode == READ
    reader = mounted.start("cat hello")
    host.serve_until(lambda: len(host.kept) == 1)
    host.control(HOLD)
    waiting = mounted.start("cat hello")
    with pytest.raises(TimeoutError):
        host.serve_until(lambda: host.held, seconds=0.5)
    before = len(host.opcodes)
    host.let_go()
    host.serve_until(lambda: host.held)
    with pytest.raises(TimeoutError):
        host.serve_until(lambda: len(host.opcodes) > before, seconds=0.5)
    host.control(GO)
    assert mounted.finish(reader) == (0, b"from the host\n")
    assert mounted.finish(waiting) == (0, b"from the host\n")


def test_held_repeats_the_number_of_the_last_hold(mounted: Mounted) -> None:
    host = mounted.host
    host.keep = lambda opcode: opcode == READ
    reader = mounted.start("cat hello")
    host.serve_until(lambda: len(host.kept) == 1)
    for number in (7, (1 << 24) - 1):  # the first is given up before it is answered
        host.control(GO)
        host.control(hold(number))
    host.let_go()
    host.serve_until(lambda: host.held)
    assert host.held_number == (1 << 24) - 1
    host.control(GO)
    assert mounted.finish(reader) == (0, b"from the host\n")


def test_a_lock_that_is_waited_for_does_not_keep_hold_from_ending(mounted: Mounted) -> None:
    host = mounted.host
    host.keep = lambda opcode: opcode == SETLKW
    locker = mounted.start(f'python3 -c "{LOCK}" && echo locked')
    host.serve_until(lambda: len(host.kept) == 1)
    host.control(HOLD)
    host.serve_until(lambda: host.held)
    host.control(GO)
    host.let_go()
    assert mounted.finish(locker) == (0, b"locked\n")


def test_a_mount_outlives_its_connection_and_open_files_go_on(
    mounting_agent: Agent, mounted: Mounted
) -> None:
    fifo, said = (mounting_agent.root / "mnt" / name for name in ("go", "said"))
    command = f"exec 3<hello; cd /; mkfifo {fifo}; read x <{fifo}; cat <&3 >{said}"
    mounted.finish(mounted.start(f"setsid sh -c '{command}' >/dev/null 2>&1 </dev/null &"))
    mounted.host.serve_until(fifo.exists)
    mounted.host.control(HOLD)
    mounted.host.serve_until(lambda: mounted.host.held)
    again = reconnected(mounting_agent)
    fifo.write_text("go\n")
    again.host.serve_until(lambda: said.exists() and said.read_bytes() != b"")
    assert said.read_bytes() == b"from the host\n"
    assert READ in again.host.opcodes


def test_what_a_lost_connection_left_unanswered_fails_and_the_next_goes_on(
    mounting_agent: Agent, mounted: Mounted
) -> None:
    host = mounted.host
    host.keep = lambda opcode: opcode == READ
    said, done = (mounting_agent.root / "mnt" / name for name in ("said", "done"))
    command = f"cat hello 2>{said}; echo code $? >>{said}; mv {said} {done}"
    mounted.start(f"setsid sh -c '{command}' >/dev/null 2>&1 </dev/null & sleep 0")
    host.serve_until(lambda: len(host.kept) == 1)
    again = reconnected(mounting_agent)
    again.host.serve_until(done.exists)
    assert "Input/output error\ncode 1" in done.read_text()
    assert again.run("cat hello") == (0, b"from the host\n")


def test_a_mount_comes_back_in_another_mode(mounting_agent: Agent, mounted: Mounted) -> None:
    assert mounted.run("cat hello")[0] == 0
    again = reconnected(mounting_agent, mode="ro")
    assert b"Read-only" in again.run("echo no > hello")[1]


def test_unmounting_in_the_guest_ends_the_stream(mounted: Mounted) -> None:
    number = mounted.client.request(1978, f"EXEC umount {mounted.directory}\n".encode())
    stream = mounted.client.streams[mounted.host.stream]
    mounted.host.serve_until(lambda: stream.reset is not None)
    assert stream.reset is not None
    assert stream.reset[1] == "unmounted in the guest"
    mounted.client.finish(number)


def test_pushing_into_a_live_mount_does_not_stop_the_agent(mounted: Mounted) -> None:
    host = mounted.host
    host.keep = lambda opcode: opcode == GETATTR
    number = mounted.client.request(1976, f"PULL {mounted.directory}/hello\n".encode())
    host.serve_until(lambda: len(host.kept) > 0)
    assert mounted.client.execute(b"EXEC echo alive\n").stdout == b"alive\n"
    host.let_go()
    host.serve_until(lambda: mounted.client.streams[number].eof)
    assert b"from the host" in mounted.client.streams[number].data


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (b"FUSE rw 8\n/etc/foo", "below /mnt/"),
        (b"FUSE rw 9\n/mnt/../a", "climbs"),
        (b"FUSE up 6\n/mnt/a", "FUSE ro|rw"),
        (b"x" * 64, "no FUSE or DISK line"),
        (b"FUSE rw 6\n/mnt/\0", "NUL"),
        (b"DISK 6\n/mnt/a", "No such device"),
        (mount_request("/mnt/live/inside"), "cannot lie in another"),
        (mount_request("/mnt/live"), "has a stream already"),
    ],
)
def test_what_cannot_be_mounted_is_told_why(
    mounted: Mounted, request_: bytes, problem: str
) -> None:
    number = mounted.client.request(1977, request_)
    mounted.host.serve_until(lambda: mounted.client.streams[number].eof)
    said = bytes(mounted.client.streams[number].data)
    head, _, text = said.partition(b"\n")
    assert head == b"ERR %d" % len(text)
    assert problem in text.decode()
    assert mounted.run("cat hello") == (0, b"from the host\n")


@pytest.mark.parametrize("message", [bytes(4), b"\x07\0\0\0" * 4, b"\xff\xff\xff\x7f" + bytes(12)])
def test_a_host_that_sends_no_fuse_message_loses_the_stream(
    mounted: Mounted, message: bytes
) -> None:
    mounted.client.data(mounted.host.stream, message)
    stream = mounted.client.streams[mounted.host.stream]
    mounted.client.wait(lambda: stream.reset is not None)
    assert stream.reset is not None
    assert stream.reset[1] == "no FUSE message"
