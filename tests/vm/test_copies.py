"""What copies of a guest share and what differs: a witness inside says, a test per row of the first
table of docs/forks.md.

One VM is booted. It stands still while three copies of it are made: two forks and what is restored
from a bundle. Each test looks at all four; they change what they look at, each in a guest of
its own.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

from machinen_runtime.boot import boot
from machinen_runtime.channel_sessions import Output, TerminalSession
from machinen_runtime.handle import VmHandle
from machinen_runtime.option_types import PortForward
from machinen_runtime.restore import restore
from machinen_runtime.rewind import rewind
from tests.vm import witness
from tests.vm.conftest import MEMORY_MIB
from vmm.requests import CONSOLE_LOG

pytestmark = [pytest.mark.vm, pytest.mark.parametrize("anyio_backend", ["asyncio"], scope="module")]

STEP_S = 120.0
UP = "for i in $(seq 600); do ss -ltn | grep -q :7000 && exit; sleep 0.1; done; exit 1"


class Client:
    """A connection with the witness of one guest."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self._lines = BufferedByteReceiveStream(stream)

    async def ask(self, what: Callable[[Any], Any]) -> Any:
        """The answer of a function of the witness."""
        with anyio.fail_after(STEP_S):
            await self.stream.send(what.__name__.encode() + b"\n")
            return json.loads(await self._lines.receive_until(b"\n", 1 << 20))

    async def end(self) -> str:
        """How the connection ends for us: it has to."""
        with anyio.fail_after(STEP_S):
            try:
                await self.stream.receive()
            except anyio.EndOfStream:
                return "end of file"
            except anyio.BrokenResourceError:
                return "reset"
        raise AssertionError("the witness spoke without being asked")


async def client_of(vm: VmHandle) -> Client:
    """A new connection through the first of its port forwards."""
    (forward,) = await vm.port_forwards()
    return Client(await anyio.connect_tcp("127.0.0.1", forward.host_port))


@dataclass
class Family:
    """A source, what was connected with it before, and its copies."""

    source: VmHandle
    copies: list[VmHandle]
    clients: list[Client]
    """With the witness of the source, connected before there were copies, and of each copy."""
    session: TerminalSession
    """Attached to the source since before."""
    before: dict[str, float]
    """The clocks of the guest before it stood still."""
    after: list[dict[str, float]]
    """The clocks of each as soon as it ran again."""
    ran_s: list[float]
    """The most that each can have run between the two, by the host's clock."""

    @property
    def vms(self) -> list[VmHandle]:
        return [self.source, *self.copies]

    async def ask(self, what: Callable[[Any], Any]) -> list[Any]:
        """What the source says, then each copy."""
        return [await client.ask(what) for client in self.clients]

    async def said(self, command: str) -> list[str]:
        """What a command prints in the source, then in each copy."""
        return [(await vm.exec(command)).stdout.strip() for vm in self.vms]


@pytest.fixture(scope="module")
async def family(
    vm_home: Path, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Family]:
    async with AsyncExitStack() as stack:
        source = await stack.enter_async_context(
            await boot(name="witness", memory=MEMORY_MIB, port_forward=[await a_forward()])
        )
        await source.write_file("/root/witness.py", Path(witness.__file__).read_bytes())
        await source.exec("setsid python3 /root/witness.py </dev/null >/root/log 2>&1 &")
        await source.exec(UP)
        client = await client_of(source)
        session = await stack.enter_async_context(source.open_session(cols=80, rows=24))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(source.exec, "exec sleep 7654321")  # until its guest or its test ends
        await source.exec("until pgrep -f 7654321; do sleep 0.05; done")
        asked_s = time.monotonic()
        before = await client.ask(witness.lie_down)
        await source.pause()
        ran_before_s = time.monotonic() - asked_s
        bundle = tmp_path_factory.mktemp("copies") / "bundle"
        await source.snapshot(out_dir=bundle, leave_running=True)
        again_s = time.monotonic()
        copies = await source.fork_many(2, name="copy")
        copies.append(await restore(snap_dir=bundle, name="later"))
        for copy in copies:
            await stack.enter_async_context(copy)
            await copy.add_port_forward(witness.PORT)
        await source.resume()
        clients = [client, *[await client_of(copy) for copy in copies]]
        after, ran_s = list[dict[str, float]](), list[float]()
        for each in clients:
            after.append(await each.ask(witness.clocks))
            ran_s.append(ran_before_s + time.monotonic() - again_s)
        yield Family(source, copies, clients, session, before, after, ran_s)
        for each in clients:
            await each.stream.aclose()
        tasks.cancel_scope.cancel()


async def a_forward() -> PortForward:
    """A port of this host that is free, leading to the witness."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
    return PortForward(host_port=port, guest_port=witness.PORT)


def all_equal(values: list[Any]) -> bool:
    return all(value == values[0] for value in values)


def all_differ(values: list[Any]) -> bool:
    return len(set(values)) == len(values)


# -- what is the same ---------------------------------------------------------------------


async def test_processes_have_their_numbers_and_the_kernel_its_boot(family: Family) -> None:
    assert all_equal(await family.ask(witness.who))


async def test_memory_is_the_same_and_shared_memory_is_shared_within_each(family: Family) -> None:
    first = await family.ask(witness.memory)
    assert all_equal(first)
    assert {each["shm"] for each in first} == {"kept"}
    notes = [each["note"] for each in await family.ask(witness.memory)]
    assert notes == [vm.name for vm in family.vms]


async def test_open_files_go_on_where_they_were_each_on_a_disk_of_its_own(family: Family) -> None:
    for vm, found in zip(family.vms, await family.ask(witness.files), strict=True):
        assert found == {
            "kept": "def",
            "gone": "still here",
            "gone_links": 0,
            "gone_now": f"still here with {vm.name}",
            "journal": f"before {vm.name}",
        }


async def test_what_was_queued_is_there_and_more_comes(family: Family) -> None:
    for found in await family.ask(witness.queued):
        assert found == {
            "pipe": "in the pipe",
            "watched": ["before", "after"],
            "pending": [signal.SIGUSR1],
            "caught": 1,
        }


async def test_connections_inside_the_guest_go_on(family: Family) -> None:
    assert all(each == ["there", "and back"] for each in await family.ask(witness.loopback))


async def test_a_programs_own_random_numbers_are_the_same(family: Family) -> None:
    assert all_equal([each["own"] for each in await family.ask(witness.draws)])


async def test_addresses_are_the_same_and_never_meet(family: Family) -> None:
    told = await family.said("ip -o addr show eth0; ip -o link show eth0")
    assert all_equal(told)
    assert "10.0.2.15/24" in told[0]
    assert "link/ether" in told[0]
    ping = "ip neigh flush dev eth0; ping -c1 -W1 10.0.2.15 >/dev/null; ip neigh show 10.0.2.15"
    assert await family.said(ping) == [""] * 4  # each is the only one with that address


async def test_nobody_asks_for_an_address(family: Family) -> None:
    """No DHCP: the address is set, so there is no lease or client id that two could share."""
    assert all("proto dhcp" not in each for each in await family.said("ip route; ip -d addr"))
    assert await family.said("ss -lunH '( sport = :68 or sport = :546 )'") == [""] * 4


# -- what differs -------------------------------------------------------------------------


async def test_each_has_a_machine_id_and_programs_may_watch_for_it(family: Family) -> None:
    told = await family.said("cat /etc/machine-id; cat /run/machinen/machine-id")
    ids = [each.split() for each in told]
    assert all_differ([each[0] for each in ids])
    assert all(each[0] == each[1] and len(each[0]) == 32 for each in ids)
    heard = await family.ask(witness.epochs)
    assert heard[0] == []  # the source is who it was
    assert all("machine-id" in each for each in heard[1:])


async def test_a_programs_environment_is_the_sources_and_its_name_a_file_away(
    family: Family,
) -> None:
    (main,) = await family.source.sessions()
    look = f"tr '\\0' '\\n' </proc/{main.pid}/environ | grep MACHINEN_VM_NAME"
    told = await family.said(f"{look}; cat /run/machinen/name")
    assert [each.split() for each in told] == [
        [f"MACHINEN_VM_NAME={family.source.name}", vm.name] for vm in family.vms
    ]


async def test_the_kernels_random_numbers_differ_by_every_way_to_them(family: Family) -> None:
    drawn = [number for each in await family.ask(witness.draws) for number in each["kernel"]]
    assert len(drawn) == 16
    assert all_differ(drawn)


async def test_pids_sockets_and_logs_on_the_host_are_each_ones_own(family: Family) -> None:
    assert all_differ([vm.pid for vm in family.vms])
    assert all_differ([vm.vsock_path for vm in family.vms])
    logs = [Path(vm.entry.cleanup_paths[1], CONSOLE_LOG) for vm in family.vms]
    assert all_differ([log.stat().st_ino for log in logs])


# -- time ---------------------------------------------------------------------------------


async def test_the_wall_clock_is_right_however_wrong_it_was(family: Family) -> None:
    assert family.before["realtime"] < 1.1e9  # the copies were made of a guest in 2001
    for client in family.clients:
        before = time.time()
        told = (await client.ask(witness.clocks))["realtime"]
        assert before - 1 <= told <= time.time() + 1  # a guest hears of the time a moment later


async def test_the_monotonic_clock_goes_on_without_the_time_nobody_ran(family: Family) -> None:
    for after, ran_s in zip(family.after, family.ran_s, strict=True):
        for clock in ("monotonic", "boottime", "uptime"):
            passed_s = after[clock] - family.before[clock]
            assert 0 <= passed_s <= ran_s * 1.02 + 0.1  # guests measure their clock at boot


async def test_timers_are_due_at_the_same_moment_and_sleeps_end(family: Family) -> None:
    told = await family.ask(witness.timers)
    assert all_equal([each["due"] for each in told])
    assert all_equal([each["nap"][0] for each in told])
    for each in told:
        assert each["now"][0] <= each["due"] - each["left"] <= each["now"][1]
        assert each["nap"][1] - each["nap"][0] >= witness.NAP_S * 1e9


# -- who was connected ----------------------------------------------------------------------


async def test_who_was_attached_stays_with_the_source_and_copies_have_nobody(
    family: Family,
) -> None:
    await family.session.send(b"echo still-$((6*7))\n")
    seen = b""
    with anyio.fail_after(STEP_S):
        while b"still-42" not in seen:
            event = await family.session.receive()
            seen += event.data if isinstance(event, Output) else b""
    for vm in family.vms:
        (main,) = await vm.sessions()
        assert main.clients == (2 if vm is family.source else 1)  # whoever started it listens


async def test_a_running_exec_goes_on_in_the_source_and_ends_in_copies(family: Family) -> None:
    look = "pgrep -f '^sleep 7654321'"
    for copy in family.copies:
        await copy.exec(f"for i in $(seq 600); do {look} || exit 0; sleep 0.1; done; exit 1")
    await family.source.exec(look)


async def test_a_client_of_a_forward_stays_with_the_source_and_copies_see_it_end(
    family: Family,
) -> None:
    """The first client has been asked by every test: it is connected since before the copies."""
    assert await family.clients[0].ask(witness.ends) == []
    for client in family.clients[1:]:
        with anyio.fail_after(STEP_S):
            while not (ends := await client.ask(witness.ends)):
                await anyio.sleep(0.05)
        assert len(ends) == 1


async def test_what_listened_listens_and_forwards_are_only_those_asked_for(family: Family) -> None:
    for vm in family.vms:
        assert (await vm.exec("ss -ltnH '( sport = :7000 )' | wc -l")).stdout == "1\n"
    ports = [(await vm.port_forwards())[0].host_port for vm in family.vms]
    assert all_differ(ports)


async def test_locks_are_held_by_the_same_processes_in_each(family: Family) -> None:
    """Last of those that ask the witness: its child ends, in one guest after the other."""
    for found in await family.ask(witness.locks):
        assert found == {"held": [True, True], "ended": True, "free": [True, True]}


# -- the end of a VM, last ------------------------------------------------------------------


async def test_clients_of_a_vm_that_ends_or_is_rewound_see_their_connection_end(
    family: Family, tmp_path: Path
) -> None:
    killed, crashed, rewound = family.copies
    await killed.kill()
    assert await family.clients[1].end() == "reset"
    os.kill(crashed.pid, signal.SIGKILL)
    assert await family.clients[2].end() in ("reset", "end of file")
    await crashed.wait()
    await rewound.snapshot(out_dir=tmp_path / "back", leave_running=True)
    back = await rewind(tmp_path / "back", pid=rewound.pid, undo=False)
    try:
        assert await family.clients[3].end() == "reset"
        again = await client_of(back.vm)  # the same port of the host leads to the VM in its place
        assert (await again.ask(witness.who))["pid"] > 0
        await again.stream.aclose()
    finally:
        await back.vm.kill()
