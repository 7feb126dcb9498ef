"""Standbys, the runtime's part: who takes one, when one is made, how they end."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinen_runtime import standby, standbys, templates
from machinen_runtime.errors import ErrorCode, RegistryError
from machinen_runtime.gc import run_gc
from machinen_runtime.launch import LaunchRequest, end_launched, launch
from machinen_runtime.monitor_process import MonitorLink
from machinen_runtime.pids import process_identity
from machinen_runtime.registry import claim_name, find, live_entries, release_name
from machinen_runtime.standbys import Standby, list_standbys, parse_slot, withdraw
from machinen_runtime.status_pipe import StatusPipe
from machinen_runtime.template_cache import prune_templates
from machinen_runtime.template_key import template_key
from machinen_runtime.template_start import from_template
from machinen_runtime.warm import launch_warm
from tests.runtime.warm_boots import FakeStart, make_request
from vmm.claim import CLAIM_SOCKET, TAKEN_SOCKET
from vmm.limits import Limits

FAKE = Path(__file__).with_name("fake_standby.py")
WAIT_S = 60


@pytest.fixture
def request_of(machinen_home: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[LaunchRequest]:
    """A boot whose standbys are FAKE."""
    monkeypatch.setenv(standby.VARIABLE, "1")
    monkeypatch.setattr(standby, "DELAY_S", 0)
    monkeypatch.setattr(standby, "PATIENCE_S", 0)
    command = [sys.executable, str(FAKE)]
    monkeypatch.setattr(standby, "vmm_command", lambda: command)
    monkeypatch.setenv("LD_FAKE_PATH", "1")  # it is handed on, and harmless
    yield replace(make_request(machinen_home), vmm_env={"PYTHONPATH": os.getcwd()})
    monkeypatch.setattr(standbys, "TAKING_S", 0)
    ends_at = time.monotonic() + WAIT_S
    while list_standbys() and time.monotonic() < ends_at:  # a sleep may hold its slot a while yet
        standbys.sweep()
        standbys.end_standbys()
    standbys.sweep()
    assert standby_leftovers(machinen_home) == []


def standby_leftovers(home: Path) -> list[str]:
    """Slots, and directories of VMs."""
    found = [*(home / "run").glob("*/*"), *(home / "machines").glob("*")]
    return sorted(str(path) for path in found)


async def made(request: LaunchRequest) -> str:
    """The key of the template of `request`, which is made; so is a standby."""
    await launch_warm(request, FakeStart())
    return template_key(request)


async def ready() -> Standby:
    """The one standby there is, once it can be taken."""
    with anyio.fail_after(WAIT_S):
        while not (found := [each for each in list_standbys() if each.is_ready]):
            await anyio.sleep(0.02)
    (only,) = found
    return only


def of_mode(request: LaunchRequest, mode: str) -> LaunchRequest:
    return replace(request, vmm_env={**request.vmm_env, "FAKE_STANDBY": mode})


async def start_if_standby(request: LaunchRequest, monitor: MonitorLink | None = None) -> Any:
    """`launch`, which a test without QEMU can only do from a standby."""
    assert monitor is not None, "it was started in the ordinary way"
    return await launch(request, monitor)


# -- made and taken -------------------------------------------------------------------------------


async def test_a_boot_leaves_a_standby_and_the_next_one_takes_it_and_leaves_another(
    request_of: LaunchRequest,
) -> None:
    key = await made(request_of)
    first = await ready()
    assert (first.key, first.match) == (key, standby.match_of(request_of, key))
    launched = await launch_warm(replace(request_of, name="taker"), start_if_standby)
    assert launched.entry.pid == first.pid
    assert launched.entry.booted == "warm"
    assert launched.phases == {"standby": 1.5}
    assert find(name="taker") == launched.entry
    assert set(launched.entry.cleanup_paths) == {str(first.run_dir), str(first.state_dir)}
    second = await ready()
    assert second.pid != first.pid
    await end_launched(launched)
    assert launched.process is not None
    assert launched.process.wait() == 143
    assert not first.state_dir.exists()


async def test_a_detached_vm_lives_on(request_of: LaunchRequest) -> None:
    await made(request_of)
    taken = await ready()
    launched = await launch_warm(replace(request_of, detached=True), start_if_standby)
    assert launched.entry.pid == taken.pid
    assert launched.process is None
    await ready()  # a new one
    assert find(pid=taken.pid) == launched.entry
    await end_launched(launched)


async def test_a_vm_with_a_terminal_gets_all_its_pipes(request_of: LaunchRequest) -> None:
    request = replace(request_of, with_stdio=True)
    await made(request)
    await ready()
    launched = await launch_warm(request, start_if_standby)
    assert None not in (launched.console_fd, launched.input_fd, launched.output_fd)
    await end_launched(launched)


async def test_one_that_says_no_status_was_killed(request_of: LaunchRequest) -> None:
    request = of_mode(request_of, "says no status")
    await made(request)
    await ready()
    launched = await launch_warm(request, start_if_standby)
    await end_launched(launched)
    assert launched.process is not None
    assert launched.process.wait() == -signal.SIGKILL


async def test_a_name_in_use_leaves_the_standby_to_the_next(request_of: LaunchRequest) -> None:
    await made(request_of)
    taken = await ready()
    claim_name("mine", os.getppid())
    with pytest.raises(RegistryError) as caught:
        await launch_warm(replace(request_of, name="mine"), start_if_standby)
    assert caught.value.code is ErrorCode.REGISTRY_NAME_IN_USE
    release_name("mine", os.getppid())
    launched = await launch_warm(replace(request_of, name="mine"), start_if_standby)
    assert launched.entry.pid == taken.pid
    await end_launched(launched)


@pytest.mark.parametrize("mode", ["deaf", "dies", "fails"])
async def test_a_standby_that_is_none_costs_an_ordinary_warm_boot(
    request_of: LaunchRequest, mode: str
) -> None:
    request = of_mode(request_of, mode)
    await made(request)
    await ready()
    asked: list[LaunchRequest] = []

    async def start(wanted: LaunchRequest, monitor: MonitorLink | None = None) -> Any:
        asked.append(wanted)
        if monitor is not None:
            return await launch(wanted, monitor)
        return await FakeStart()(wanted)

    await launch_warm(request, start)
    assert asked[-1].booted == "warm"
    assert asked[-1].vm_id is None
    assert len(asked) == (1 if mode == "deaf" else 2)
    assert live_entries() == []
    assert templates.failures(template_key(request)) == 0


async def test_a_standby_that_was_killed_is_swept_away_and_replaced(
    request_of: LaunchRequest, machinen_home: Path
) -> None:
    await made(request_of)
    dead = await ready()
    os.kill(dead.pid, signal.SIGKILL)
    with anyio.fail_after(WAIT_S):
        while list_standbys():
            await anyio.sleep(0.02)
    assert dead.state_dir.exists()
    start = FakeStart()
    await launch_warm(request_of, start)
    assert start.last.booted == "warm"
    assert not dead.state_dir.exists()
    assert (await ready()).pid != dead.pid


async def test_another_boot_at_once_is_an_ordinary_warm_one(request_of: LaunchRequest) -> None:
    key = await made(request_of)
    await ready()
    first = await standby.take_standby(request_of, key)
    assert first is not None
    assert await standby.take_standby(request_of, key) is None
    await first.end()  # nothing was said to it: it goes back
    again = await standby.take_standby(request_of, key)
    assert again is not None
    assert again.vm_id == first.vm_id
    await again.end()


def take_all(home: Path, found: Any, begin: Any) -> None:
    begin.wait(WAIT_S)
    won = [each.id for each in list_standbys() if withdraw(each)]
    found.put(won)


async def test_of_many_takers_exactly_one_gets_it(
    request_of: LaunchRequest, machinen_home: Path
) -> None:
    await made(request_of)
    only = await ready()
    context = multiprocessing.get_context("fork")
    found, begin = context.Queue(), context.Event()
    takers = [context.Process(target=take_all, args=(machinen_home, found, begin)) for _ in "12345"]
    for taker in takers:
        taker.start()
    begin.set()
    won = [vm_id for _ in takers for vm_id in found.get(timeout=WAIT_S)]
    for taker in takers:
        taker.join(WAIT_S)
    assert won == [only.id]
    standbys.give_back(only)


# -- when one is made, and when not ---------------------------------------------------------------


async def test_there_is_one_for_a_kind_however_often_one_boots(request_of: LaunchRequest) -> None:
    key = await made(request_of)
    await ready()
    assert standby.ensure_standby(request_of, key) is None
    assert len(list_standbys()) == 1


async def test_there_are_as_many_as_are_wanted(
    request_of: LaunchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(standby.VARIABLE, "3")
    key = await made(request_of)
    assert standby.ensure_standby(request_of, key) is not None
    assert standby.ensure_standby(request_of, key) is not None
    assert standby.ensure_standby(request_of, key) is None


async def test_the_oldest_of_another_kind_makes_room(
    request_of: LaunchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "MAX_TOTAL", 1)
    await made(request_of)
    oldest = await ready()
    await made(replace(request_of, machine=replace(request_of.machine, memory_mib=128)))
    with anyio.fail_after(WAIT_S):
        while oldest.id in [each.id for each in list_standbys()]:
            await anyio.sleep(0.02)
    assert (await ready()).key != oldest.key


@pytest.mark.parametrize("value", ["0", "00"])
async def test_zero_switches_them_off(
    request_of: LaunchRequest, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(standby.VARIABLE, value)
    await made(request_of)
    assert list_standbys() == []


@pytest.mark.parametrize(("value", "count"), [("", 1), ("2", 2), ("99", 4), ("x", 1), ("-1", 1)])
def test_how_many_there_shall_be(monkeypatch: pytest.MonkeyPatch, value: str, count: int) -> None:
    monkeypatch.setenv(standby.VARIABLE, value)
    assert standby.wanted_count() == count


async def test_a_host_with_little_memory_has_none(
    request_of: LaunchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    least = standby.least_available_bytes()
    monkeypatch.setattr(standby, "available_bytes", lambda: 2 * least - 1)
    await made(request_of)
    assert list_standbys() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"machine": {"mount_disk": True}},
        {"vmm_command": ["/opt/monitor"]},
        {"owned_dirs": [Path("/x")]},
        {"limits": Limits(cpus=0.5)},
        {"limits": Limits(memory_bytes=1 << 30)},
    ],
)
def test_what_a_standby_cannot_be(request_of: LaunchRequest, changes: dict[str, Any]) -> None:
    assert standby.is_possible(request_of)
    changes = dict(changes)
    if "machine" in changes:
        changes["machine"] = replace(request_of.machine, **changes["machine"])
    assert not standby.is_possible(replace(request_of, **changes))


def test_nor_is_one_made_where_qemu_is_not_confined(
    request_of: LaunchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MACHINEN_CONFINE", "off")
    assert not standby.is_possible(request_of)


async def test_a_standby_knows_nothing_of_who_had_it_made(request_of: LaunchRequest) -> None:
    key = await made(request_of)
    template = templates.open_template(key)
    assert template is not None
    told = replace(request_of, name="secret", origin={"of": "secret"}, allow_hosts=["secret"])
    assert "secret" in str(from_template(told, template))
    assert "secret" not in str(standby.nobody(from_template(told, template)))
    environ = Path(f"/proc/{(await ready()).pid}/environ").read_bytes().split(b"\0")
    names = {each.partition(b"=")[0].decode() for each in environ if each}
    allowed = {"PYTHONPATH", "PWD", "OLDPWD", "SHLVL", "_", "LD_FAKE_PATH"}
    assert names <= {*standby.KEPT_VARIABLES, *allowed}


@pytest.mark.parametrize(
    ("variable", "value"), [("LD_FAKE_PATH", "2"), ("PATH", "/usr/bin:/bin"), ("TZ", "UTC")]
)
async def test_another_environment_of_qemu_wants_another_standby(
    request_of: LaunchRequest, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    before = standby.match_of(request_of, "0" * 32)
    assert standby.match_of(replace(request_of, name="x", detached=True), "0" * 32) == before
    monkeypatch.setenv("OF_NO_CONCERN", value)
    assert standby.match_of(request_of, "0" * 32) == before
    monkeypatch.setenv(variable, value)
    assert standby.match_of(request_of, "0" * 32) != before


def test_other_limits_want_another_standby(request_of: LaunchRequest) -> None:
    ask = "from machinen_runtime.standby import surroundings; print(surroundings())"
    own = subprocess.run([sys.executable, "-c", ask], capture_output=True, check=True).stdout
    limited = ["prlimit", "--nofile=512:512", sys.executable, "-c", ask]
    assert subprocess.run(limited, capture_output=True, check=True).stdout != own


# -- their end ------------------------------------------------------------------------------------


async def test_a_template_that_goes_takes_its_standby_along(request_of: LaunchRequest) -> None:
    await made(request_of)
    await ready()
    assert len(prune_templates(everything=True)) == 1
    assert list_standbys() == []


async def test_garbage_collection_leaves_the_living_alone(
    request_of: LaunchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await made(request_of)
    living = await ready()
    for directory in (living.run_dir, living.state_dir, living.slot.parent):
        os.utime(directory, (1000, 1000))
    assert run_gc() == []
    assert living.is_ready
    os.kill(living.pid, signal.SIGKILL)
    with anyio.fail_after(WAIT_S):
        while list_standbys():
            await anyio.sleep(0.02)
    run_gc()
    assert not living.slot.exists()
    assert not living.state_dir.exists()


async def test_one_that_somebody_takes_is_not_ended(request_of: LaunchRequest) -> None:
    await made(request_of)
    only = await ready()
    assert withdraw(only)
    assert standbys.end_standbys() == 0
    standbys.give_back(only)
    assert standbys.end_standbys() == 1


async def test_one_that_is_being_made_is_ended_with_its_sleep(
    request_of: LaunchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standby, "DELAY_S", 600)
    await made(request_of)
    (only,) = list_standbys()
    assert not only.is_ready
    assert standbys.end_standbys() == 1
    with anyio.fail_after(WAIT_S):
        while list_standbys() or members(only.pid):
            await anyio.sleep(0.02)


def members(group: int) -> list[psutil.Process]:
    """The processes of a process group that live."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


async def test_one_that_answers_nobody_is_killed_in_the_end(
    request_of: LaunchRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    await made(request_of)
    only = await ready()
    os.kill(only.pid, signal.SIGSTOP)
    start = FakeStart()
    assert withdraw(only)  # as one did who heard nothing of it
    await launch_warm(request_of, start)
    assert [each.id for each in list_standbys()] == [only.id]
    monkeypatch.setattr(standbys, "TAKING_S", 0)
    await launch_warm(request_of, start)
    assert only.id not in [each.id for each in list_standbys()]
    assert not only.state_dir.exists()


# -- slots ----------------------------------------------------------------------------------------

SLOT = Path("/run/standby") / f"{'a' * 32}.0"
WHOLE = {"id": "12345678", "key": "0" * 32, "pid": 7, "process_identity": "b/1", "made_at": 1.0}


def test_a_slot_says_who_sits_in_it() -> None:
    found = parse_slot(SLOT, json.dumps(WHOLE).encode())
    assert found is not None
    assert (found.id, found.match, found.pid) == ("12345678", "a" * 32, 7)
    assert parse_slot(SLOT, found.to_json().encode()) == found


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "../../etc"},
        {"id": ""},
        {"key": "x"},
        {"pid": 1},
        {"pid": -1},
        {"pid": True},
        {"pid": "7"},
        {"process_identity": None},
        {"made_at": "now"},
    ],
)
def test_a_slot_with_nonsense_is_nobodys(changes: dict[str, Any]) -> None:
    assert parse_slot(SLOT, json.dumps({**WHOLE, **changes}).encode()) is None


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_in_a_slot_are_nobodys(text: bytes) -> None:
    assert parse_slot(SLOT, text) is None


@given(st.fixed_dictionaries({name: st.none() | st.integers() | st.text() for name in WHOLE}))
def test_any_values_in_a_slot_name_no_directory_of_somebody_else(value: dict[str, Any]) -> None:
    found = parse_slot(SLOT, json.dumps(value).encode())
    assert found is None or found.run_dir.parent == standbys.runtime_root()


def test_a_slot_of_a_dead_standby_is_not_listed(machinen_home: Path) -> None:
    standbys.standbys_root().mkdir(parents=True)
    slot = standbys.standbys_root() / SLOT.name
    slot.write_text(json.dumps({**WHOLE, "pid": os.getpid(), "process_identity": "b/1"}))
    assert list_standbys() == []
    assert [each.slot for each in list_standbys(dead=True)] == [slot]
    with slot.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert [each.slot for each in list_standbys()] == [slot]
    standbys.sweep()
    assert not slot.exists()


def make_slot(home: Path, match: str) -> tuple[Standby, int]:
    """A slot of this very process, locked, and its directories."""
    found = parse_slot(
        standbys.standbys_root() / f"{match}.0",
        json.dumps(
            {**WHOLE, "pid": os.getpid(), "process_identity": process_identity(os.getpid())}
        ).encode(),
    )
    assert found is not None
    for directory in (found.slot.parent, found.run_dir, found.state_dir):
        directory.mkdir(parents=True, exist_ok=True)
    found.slot.write_text(found.to_json())
    descriptor = os.open(found.slot, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return found, descriptor


@pytest.mark.parametrize("said", [b"HTTP/1.1 200 OK\r\n", b"", b"x" * 10_000, None])
async def test_somebody_else_at_the_socket_is_not_spoken_with(
    machinen_home: Path, monkeypatch: pytest.MonkeyPatch, said: bytes | None
) -> None:
    monkeypatch.setenv(standby.VARIABLE, "1")
    request = make_request(machinen_home)
    found, slot_fd = make_slot(machinen_home, standby.match_of(request, "0" * 32))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(found.run_dir / CLAIM_SOCKET))
        server.listen()
        async with anyio.create_task_group() as tasks:
            if said is not None:
                tasks.start_soon(anyio.to_thread.run_sync, answer, server, said)
            assert await standby.take_standby(request, "0" * 32) is None
    assert (found.run_dir / TAKEN_SOCKET).exists()  # nobody else tries
    os.close(slot_fd)


def answer(server: socket.socket, said: bytes) -> None:
    connected, _ = server.accept()
    with connected:
        connected.sendall(said)


async def test_a_socket_of_another_user_is_not_spoken_with(
    machinen_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(standby.VARIABLE, "1")
    monkeypatch.setattr("vmm.peers.ROOT", -1)
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    request = make_request(machinen_home)
    found, slot_fd = make_slot(machinen_home, standby.match_of(request, "0" * 32))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(found.run_dir / CLAIM_SOCKET))
        server.listen()
        assert await standby.take_standby(request, "0" * 32) is None
    os.close(slot_fd)


@given(st.binary(max_size=300))
def test_whatever_a_status_pipe_holds_is_a_status(said: bytes) -> None:
    read_fd, write_fd = os.pipe()
    os.write(write_fd, said)
    os.close(write_fd)
    assert StatusPipe(read_fd, b"").wait() == -signal.SIGKILL


@pytest.mark.parametrize("status", [0, 7, 255])
def test_a_status_is_what_was_said_last(status: int) -> None:
    read_fd, write_fd = os.pipe()
    os.write(write_fd, b"garbage\n" + json.dumps({"event": "ended", "status": status}).encode())
    os.close(write_fd)
    pipe = StatusPipe(read_fd, b'{"event": "ready"}\n')
    assert pipe.wait() == status
    assert pipe.wait() == status
