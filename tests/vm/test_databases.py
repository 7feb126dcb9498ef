"""Databases under load, copied at any moment: every copy is whole, goes on, and is alone.

One guest runs SQLite with both of its journals and PostgreSQL, with money that moves all the time.
Once with one processor, once with two.
"""

from __future__ import annotations

import json
import random
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from machinen_runtime.boot import boot
from machinen_runtime.handle import VmHandle
from tests.vm import bank
from tests.vm.guest_postgres import as_owner, put_postgres, start_postgres

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(600),
    pytest.mark.parametrize("anyio_backend", ["asyncio"], scope="module"),
]

MEMORY_MIB = 768
JOURNALS = ("wal", "delete")
MOMENTS = {"bank-1": (1, 4), "bank-2": (1, 2)}
"""How many forks are made at each moment."""
RUN = "setsid python3 /root/bank.py run /root/{0}.db </dev/null >/root/{0}.log 2>&1 &"
WAIT = "for i in $(seq 1200); do {0} && exit 0; sleep 0.1; done; exit 1"
BANKS = "/root/wal.db /root/delete.db"
CRASH = "pkill -9 python3; pkill -9 postgres; pkill -9 pgbench; "
ALL_GONE = CRASH + WAIT.format("! pgrep 'python3|postgres|pgbench' >/dev/null")


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What PostgreSQL adds to the base."""
    tree = tmp_path_factory.mktemp("postgres")
    put_postgres(tree, tmp_path_factory.mktemp("packages"))
    return tree


@pytest.fixture(scope="module", params=[1, 2], ids=["1-vcpu", "2-vcpus"])
async def busy(
    request: pytest.FixtureRequest, vm_home: Path, anyio_backend: str, postgres: Path
) -> AsyncGenerator[VmHandle]:
    """A guest in which three banks are at work."""
    cpus: int = request.param
    options: dict[str, Any] = {"memory": MEMORY_MIB, "network": "none", "cpus": cpus}
    async with await boot(name=f"bank-{cpus}", **options) as vm:
        await vm.write_file("/root/bank.py", Path(bank.__file__).read_bytes())
        await start_postgres(vm, postgres)
        for journal in JOURNALS:
            await vm.exec(f"python3 /root/bank.py open /root/{journal}.db {journal}")
            await vm.exec(RUN.format(journal))
        await wait_until_at_work(vm)
        yield vm


async def sqlite_said(vm: VmHandle) -> list[dict[str, Any]]:
    return json.loads((await vm.exec(f"python3 /root/bank.py check {BANKS}")).stdout)


async def postgres_said(vm: VmHandle) -> dict[str, Any]:
    told = await vm.exec(as_owner("psql -qAt -v ON_ERROR_STOP=1 -f check.sql"))
    return json.loads(told.stdout)


async def wait_until_at_work(vm: VmHandle) -> None:
    """Until each bank has moved money as the host that this is now."""
    await vm.exec(as_owner("psql -q -v ON_ERROR_STOP=1 -f wait.sql"))
    await vm.exec(f"timeout 300 python3 /root/bank.py wait {BANKS}")


async def all_hosts(vm: VmHandle) -> set[str]:
    """Who has moved money in any of its banks; each is whole."""
    hosts: set[str] = set()
    for told in await sqlite_said(vm):
        assert told["integrity"] == "ok"
        assert (told["sum"], told["wrong_accounts"]) == (bank.ACCOUNTS * bank.EACH, 0)
        hosts |= set(told["hosts"])
    told = await postgres_said(vm)
    assert (told["indexes"], told["catalogue"], told["torn"]) == (3, True, 0)
    assert (told["sum"], told["wrong_accounts"]) == (bank.ACCOUNTS * bank.EACH, 0)
    return hosts | set(told["hosts"])


async def crash_and_recover(vm: VmHandle) -> None:
    """Kill whoever writes, and start again from what is on the disk."""
    await vm.exec(ALL_GONE)
    await vm.exec(as_owner("pg_ctl -w -l log start >/dev/null"))


async def test_every_copy_is_whole_goes_on_and_recovers(busy: VmHandle) -> None:
    """First as it stands, with its writers at work, then after the death of all of them. Siblings
    are at work at the same time, and none has a row that another one has written since."""
    assert busy.name is not None
    dice = random.Random(busy.name)

    async def look_at(copy: VmHandle) -> None:
        assert copy.name is not None
        assert await all_hosts(copy) <= {str(busy.name), copy.name}
        await wait_until_at_work(copy)
        await crash_and_recover(copy)
        assert await all_hosts(copy) == {str(busy.name), copy.name}
        stopped = await copy.exec(as_owner("pg_ctl -w -m fast stop >/dev/null && pg_checksums -c"))
        assert "Bad checksums:  0" in stopped.stdout  # every page on the disk

    for moment, count in enumerate(MOMENTS[busy.name]):
        await anyio.sleep(dice.random())  # which moment it is, is the test's input
        copies = await busy.fork_many(count, name=f"{busy.name}-{moment}")
        async with AsyncExitStack() as stack, anyio.create_task_group() as looking:
            for copy in copies:
                await stack.enter_async_context(copy)
                looking.start_soon(look_at, copy)
    assert await all_hosts(busy) == {busy.name}  # and the source has heard of none of this


class Client:
    """A connection of this host with a guest's PostgreSQL (protocol 3.0: message flow, formats)."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 120)
        body = struct.pack("!i", 196608) + b"user\0bank\0database\0postgres\0\0"
        self.socket.sendall(struct.pack("!i", len(body) + 4) + body)
        self._until_ready()

    def ask(self, query: str) -> str:
        """The one value that a query has."""
        body = query.encode() + b"\0"
        self.socket.sendall(b"Q" + struct.pack("!i", len(body) + 4) + body)
        return self._until_ready()

    def _until_ready(self) -> str:
        value = ""
        while True:
            kind = self._read(1)
            body = self._read(struct.unpack("!i", self._read(4))[0] - 4)
            assert kind != b"E", body
            if kind == b"D":
                value = body[6:].decode()
            if kind == b"Z":
                return value

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.socket.recv(size - len(data))
            assert more, "the server has closed the connection"
            data += more
        return data


def in_thread(function: Any, *arguments: Any) -> Any:
    return anyio.to_thread.run_sync(function, *arguments)


async def test_a_client_outside_stays_with_the_source(busy: VmHandle) -> None:
    """In the middle of a transaction; the copy's server rolls that back, for its client is gone."""
    forward = await busy.add_port_forward(5432)
    client = await in_thread(Client, forward.host_port)
    with client.socket:
        await in_thread(client.ask, "create table mine (n int)")
        await in_thread(client.ask, "begin")
        await in_thread(client.ask, "insert into mine values (1)")
        async with await busy.fork(name=f"{busy.name}-client") as copy:
            server = "select count(*) from pg_stat_activity where state like '%in transaction%'"
            idle = as_owner(f"psql -Atc \"{server} and query like 'insert into mine%'\"")
            await copy.exec(WAIT.format(f'[ "$({idle})" = 0 ]'))
            count = as_owner("psql -Atc 'select count(*) from mine'")
            assert (await copy.exec(count)).stdout == "0\n"
            await in_thread(client.ask, "commit")
            assert await in_thread(client.ask, "select count(*) from mine") == "1"
            assert (await copy.exec(count)).stdout == "0\n"
        await in_thread(client.ask, "drop table mine")
    await busy.remove_port_forward(forward.host_port)
