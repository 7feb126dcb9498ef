"""init and the agent in a real guest; docs/protocol.md, chapter 4."""

import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.guest.boot_guest import DISK_GIB, BootedGuest, read_file_of_disk
from tests.guest.conftest import make
from tests.guest.frame_client import (
    CREDIT,
    DATA,
    PING,
    PONG,
    POWEROFF,
    WORKLOAD_EXIT,
    frame,
    parse_reply,
    run_request,
)

pytestmark = pytest.mark.vm


def boot(build: Path, directory: Path, *, with_disk: bool = True) -> BootedGuest:
    make(build)
    init, agent = ((build / name).read_bytes() for name in ("init", "agent"))
    return BootedGuest(directory, init, agent, with_disk=with_disk)


@pytest.fixture(scope="module")
def guest(build: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BootedGuest]:
    """A guest for all tests that leave it as it was."""
    booted = boot(build, tmp_path_factory.mktemp("guest"))
    try:
        booted.connect()
        booted.greet(flags=3, hostname="alpha", name="a")
        yield booted
    finally:
        booted.close()


@pytest.fixture
def boot_one(build: Path, tmp_path: Path) -> Iterator[Callable[..., BootedGuest]]:
    """Boot a guest for one test."""
    booted: list[BootedGuest] = []

    def start(*, with_disk: bool = True) -> BootedGuest:
        booted.append(boot(build, tmp_path, with_disk=with_disk))
        return booted[-1]

    yield start
    for each in booted:
        each.close()


def test_the_root_is_the_disk_grown_to_its_size(guest: BootedGuest) -> None:
    source, kind, size_kib = guest.run("df --output=source,fstype,size / | tail -1").split()
    assert (source, kind) == ("/dev/vda", "ext4")
    assert int(size_kib) > (DISK_GIB - 1) * 1024 * 1024
    assert "noatime" in guest.run("grep ' / ' /proc/self/mounts")


def test_programs_find_the_file_systems_they_expect(guest: BootedGuest) -> None:
    mounts = guest.run("cat /proc/self/mounts")
    kinds = {line.split()[1]: line.split()[2] for line in mounts.splitlines()}
    expected = {
        "/": "ext4", "/proc": "proc", "/sys": "sysfs", "/dev": "devtmpfs", "/run": "tmpfs",
        "/dev/pts": "devpts", "/dev/shm": "tmpfs", "/sys/fs/cgroup": "cgroup2",
    }  # fmt: skip
    assert {path: kinds.get(path) for path in expected} == expected
    modes = guest.run("stat -c '%a' /tmp /var/tmp /dev/shm /dev/ptmx /root")
    assert modes.split()[:4] == ["1777", "1777", "1777", "666"]
    assert guest.run("bash -c 'cat <(echo through /dev/fd)'") == "through /dev/fd\n"


def test_loopback_and_ethernet_are_up(guest: BootedGuest) -> None:
    addresses = guest.run("ip -4 -o addr show")
    assert "127.0.0.1/8" in addresses
    assert "10.0.2.15/24" in addresses
    assert "default via 10.0.2.2 dev eth0" in guest.run("ip route")
    assert guest.run("cat /etc/resolv.conf").count("nameserver") >= 1


def test_the_first_hello_sets_clock_and_names(guest: BootedGuest) -> None:
    assert abs(float(guest.run("date +%s.%N")) - time.time()) < 5
    assert guest.run("hostname; cat /etc/hostname /run/machinen/name") == "alpha\nalpha\na\n"
    assert guest.run("getent ahostsv4 alpha").split()[0] == "127.0.1.1"


def test_a_new_epoch_renames_and_steps_the_clock(guest: BootedGuest) -> None:
    guest.run("date -s @1000000000")
    guest.greet(flags=3, hostname="beta", name="b")
    guest.client.last_id = -1
    guest.client.streams.clear()
    assert abs(float(guest.run("date +%s.%N")) - time.time()) < 5
    assert guest.run("hostname; cat /run/machinen/name") == "beta\nb\n"
    guest.greet(flags=3, hostname="alpha", name="a")
    guest.client.last_id = -1
    guest.client.streams.clear()


def test_orphans_are_reaped(guest: BootedGuest) -> None:
    pid = guest.run("(setsid sh -c 'echo $$; exec sleep 0.2' &)").strip()
    guest.client.wait(lambda: guest.run(f"test -e /proc/{pid} && echo there; true") == "")
    assert guest.run("ps -eo stat= | grep -c ^Z; true") == "0\n"


def test_children_of_the_agent_have_ordinary_limits(guest: BootedGuest) -> None:
    assert guest.run("cat /proc/self/oom_score_adj /proc/$PPID/oom_score_adj") == "0\n-1000\n"
    assert int(guest.run("ulimit -n")) <= 4096
    assert guest.run("ls /proc/self/fd | wc -l") == "4\n"  # 0, 1, 2 and the directory


def test_the_host_may_leave_in_the_middle_of_anything_and_come_back(guest: BootedGuest) -> None:
    session = guest.client.request(1978, run_request(session="s", cmd="echo one; exec cat"))
    guest.client.wait(lambda: b"one" in guest.client.streams[session].data)
    for _ in range(5):
        flood = guest.client.request(1978, run_request(cmd="exec yes"))
        sink = guest.client.request(1978, run_request(cmd="exec cat >/dev/null", stdin="1"))
        stream = guest.client.streams[flood]
        guest.client.wait(lambda stream=stream: stream.heard > 300_000)
        guest.client.send(struct.pack("<IIB3x", 60000, sink, DATA) + b"half a frame")
        guest.client.socket.close()
        guest.connect()
        guest.greet()
    guest.client.wait(lambda: guest.run("pgrep -c '^(yes|cat)$' || true") == "1\n")
    session = guest.client.request(1978, run_request(session="s", attach="1"))
    guest.client.wait(lambda: parse_reply(guest.client.streams[session].data).replay_done)
    assert parse_reply(guest.client.streams[session].data).replay == b"one\r\n"
    assert guest.client.execute(b"PTYKILL 1\ns").code == 0


def test_without_a_host_the_agent_sleeps(guest: BootedGuest) -> None:
    ticks = "cut -d' ' -f14,15 /proc/$PPID/stat"
    before = sum(map(int, guest.run(ticks).split()))
    guest.client.socket.close()
    time.sleep(2)  # what is measured
    guest.connect()
    guest.greet()
    assert sum(map(int, guest.run(ticks).split())) - before < 20  # of 200


def test_a_hundred_commands_at_once(guest: BootedGuest) -> None:
    client = guest.client
    numbers = [client.request(1978, run_request(cmd=f"sleep 1; exit {i}")) for i in range(100)]
    codes = [parse_reply(client.finish(number, 120)).code for number in numbers]
    assert codes == list(range(100))


def test_a_flood_does_not_hold_another_stream_back(guest: BootedGuest) -> None:
    client = guest.client
    stalled = client.open(1978)
    client.streams[stalled].auto_credit = False
    client.data(stalled, run_request(cmd="exec yes"))
    client.wait(lambda: client.streams[stalled].heard == 262144)
    assert guest.run("seq 100000 | tail -1") == "100000\n"
    client.send(frame(CREDIT, stalled, struct.pack("<I", 1000)))
    client.wait(lambda: client.streams[stalled].heard == 263144)
    client.send(frame(7, stalled, bytes(4)))


def test_power_off_leaves_a_clean_disk_with_what_was_written(
    boot_one: Callable[..., BootedGuest],
) -> None:
    guest = boot_one()
    client = guest.connect()
    guest.greet(flags=3, hostname="alpha", name="a")
    workload = client.request(1978, run_request(session="main", workload="1", login="1"))
    client.wait(lambda: b"# " in client.streams[workload].data)  # the prompt of root's shell
    guest.run("echo kept > /root/note")
    client.send(frame(POWEROFF, 0, struct.pack("<I", 5000)))
    assert client.wait_control(WORKLOAD_EXIT) == b"\x81\x01"
    client.send(frame(PONG, 0, client.wait_control(PING)))
    assert guest.process.wait(30) == 0
    assert "machinen-init" not in guest.console()
    assert read_file_of_disk(guest, "/root/note") == b"kept\n"


def test_an_agent_that_dies_ends_the_vm_and_the_console_says_why(
    boot_one: Callable[..., BootedGuest],
) -> None:
    guest = boot_one()
    client = guest.connect()
    guest.greet()
    client.request(1978, b"EXEC kill -9 $PPID\n")
    assert guest.process.wait(30) == 0
    assert "machinen-init: the agent was killed by signal 9" in guest.console()


def test_a_guest_without_a_disk_says_so_and_ends(boot_one: Callable[..., BootedGuest]) -> None:
    guest = boot_one(with_disk=False)
    assert guest.process.wait(120) == 0
    assert "machinen-init: mounting /dev/vda failed: No such device" in guest.console()
