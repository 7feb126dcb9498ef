"""Every method of VmHandle, on the handle that booted a VM, on one that attached to it, and on one
of a detached VM.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteReceiveStream, ByteSendStream

from machinen_runtime.attach import attach
from machinen_runtime.boot import boot
from machinen_runtime.channel_sessions import Exited, Output, TerminalSession
from machinen_runtime.errors import BootError, ErrorCode, ExecError, RegistryError
from machinen_runtime.handle import ExitStatus, VmHandle
from machinen_runtime.log_events import LogEvent
from machinen_runtime.registry import find, live_entries
from tests.vm.child import MACHINEN
from tests.vm.conftest import MEMORY_MIB
from vmm.requests import StatsEvent

pytestmark = pytest.mark.vm

SMALL: dict[str, Any] = {"memory": MEMORY_MIB, "network": "none"}
KINDS = ("booted", "attached", "detached")


@pytest.fixture(scope="module")
async def detached(vm_home: Path, anyio_backend: str) -> AsyncGenerator[VmHandle]:
    """A handle that detached from the VM it had booted."""
    handle = await boot(name="alone", detached=True, **SMALL)
    yield handle
    await handle.kill()
    assert find_pid("alone") is None


@pytest.fixture(params=KINDS)
async def handle(request: pytest.FixtureRequest, vm: VmHandle, detached: VmHandle) -> VmHandle:
    match request.param:
        case "booted":
            return vm
        case "attached":
            return await attach(pid=vm.pid)
        case _:
            return detached


def find_pid(name: str) -> int | None:
    try:
        return find(name=name).pid
    except RegistryError:
        return None


async def test_commands_files_and_terminals(handle: VmHandle) -> None:
    assert (await handle.exec("echo out; echo err >&2")).stderr == "err\n"
    with pytest.raises(ExecError) as caught:
        await handle.exec("exit 3")
    assert caught.value.code is ErrorCode.EXEC_NONZERO_EXIT
    assert (await handle.exec_raw(["sh", "-c", "exit 4"])).exit_code == 4
    await handle.write_file("/srv/deep/file", "text", mode=0o640)
    assert (
        await handle.exec("cat /srv/deep/file; stat -c %a /srv/deep/file")
    ).stdout == "text640\n"

    screen = Screen()
    pty = handle.exec_pty("stty size; exit 5", cols=91, rows=31, stdin=Nothing(), stdout=screen)
    assert (await pty.result).exit_code == 5
    assert bytes(screen.shown) == b"31 91\r\n"


class Nothing(ByteReceiveStream):
    """A keyboard nobody types on."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        await anyio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        pass


class Screen(ByteSendStream):
    """Keeps what is shown."""

    def __init__(self) -> None:
        self.shown = bytearray()

    async def send(self, item: bytes) -> None:
        self.shown += item

    async def aclose(self) -> None:
        pass


async def test_sessions(handle: VmHandle) -> None:
    async with handle.open_session("work", cols=99, rows=33, cmd="cat; exit 2", create=True) as one:
        await one.send(b"hello\n")
        await output_until(one, b"hello")
        async with handle.open_session("work") as other:  # no size: it keeps its own
            await output_until(other, b"hello")
        (info,) = [each for each in await handle.sessions() if each.name == "work"]
        assert (info.cols, info.rows) == (99, 33)
        await one.send(b"\x04")
        while not isinstance(event := await one.receive(), Exited):
            pass
        assert event.code == 2
    async with handle.open_session("more", cmd="sleep 1000", create=True):
        await handle.kill_session("more")
    with pytest.raises(ExecError) as caught:
        await handle.kill_session("nobody")
    assert caught.value.code is ErrorCode.EXEC_SESSION_NOT_FOUND


async def output_until(session: Any, text: bytes) -> None:
    seen = b""
    with anyio.fail_after(60):
        while text not in seen:
            event = await session.receive()
            seen += event.data if isinstance(event, Output) else b""


async def test_state_figures_and_pause(handle: VmHandle) -> None:
    await handle.pause()
    assert (await handle.status()).state == "paused"
    with pytest.raises(BootError) as caught:
        await handle.rename("other")
    assert caught.value.retryable
    await handle.resume()
    async with handle.events(stats_interval_ms=250) as events:
        async for event in events:
            if isinstance(event, StatsEvent):
                assert event.rss_bytes > 0
                break
    stats = await handle.memory_stats()
    assert stats.ceiling_mib == MEMORY_MIB
    assert stats.host_rss_bytes is not None
    assert stats.host_rss_bytes > 50 << 20
    assert stats.lazy_pages_pending == 0


async def test_one_that_sleeps_wakes_for_a_command_and_for_a_key(handle: VmHandle) -> None:
    async with handle.open_session("sleepy", cols=80, rows=24, create=True) as session:
        await session.send(b"echo up-$((40+2))\n")
        await shown(session, b"up-42")
        await handle.auto_pause(1000)
        await asleep(handle)
        assert (await handle.exec("echo awake")).stdout == "awake\n"
        await asleep(handle)
        await session.send(b"echo key-$((40+2))\n")
        await shown(session, b"key-42")
        await asleep(handle)
        async with await handle.fork(name="of-one-that-sleeps") as fork:
            assert (await fork.exec("hostname")).stdout == "of-one-that-sleeps\n"
        await handle.auto_pause(None)
        assert not (await handle.status()).asleep
    await handle.kill_session("sleepy")


async def shown(session: TerminalSession, wanted: bytes) -> None:
    """Until the session has said this."""
    seen = b""
    with anyio.fail_after(60):
        while wanted not in seen:
            event = await session.receive()
            seen += event.data if isinstance(event, Output) else b""


async def asleep(handle: VmHandle) -> None:
    """Until it is."""
    with anyio.fail_after(120):
        while not (await handle.status()).asleep:
            await anyio.sleep(0.05)


async def test_a_new_name_reaches_registry_monitor_and_guest(handle: VmHandle) -> None:
    before, name = handle.name, f"renamed/{handle.pid}"
    assert before is not None
    await handle.rename(name)
    try:
        assert (handle.name, find_pid(name), find_pid(before)) == (name, handle.pid, None)
        assert (await handle.status()).name == name
        told = await handle.exec("hostname; cat /run/machinen/name; getent hosts $(hostname)")
        hostname, guest_name, resolved = told.stdout.splitlines()
        assert (hostname, guest_name) == (name.replace("/", "-"), name)
        assert resolved.split() == ["127.0.1.1", hostname]
    finally:
        await handle.rename(before)
    assert (find_pid(before), find_pid(name)) == (handle.pid, None)


async def test_snapshot_and_fork(handle: VmHandle, tmp_path: Path) -> None:
    await handle.exec("echo kept > /run/mark")
    result = await handle.snapshot(out_dir=tmp_path / "bundle", leave_running=True)
    assert (tmp_path / "bundle" / "meta.json").is_file()
    assert result.paused_ms > 0
    async with await handle.fork(name="sibling", cwd=tmp_path, out_dir="forked") as fork:
        assert (tmp_path / "forked" / "meta.json").is_file()
        assert (await fork.exec("cat /run/mark; hostname")).stdout == "kept\nsibling\n"
        assert (await fork.memory_stats()).host_rss_bytes is not None
    assert find_pid("sibling") is None


async def test_streams_belong_to_who_booted(handle: VmHandle, vm: VmHandle) -> None:
    if handle is vm:
        await handle.stdin.send(b"echo to'' main\n")
        seen = b""
        with anyio.fail_after(60):
            while b"to main" not in seen:
                seen += await handle.stdout.receive()
    else:
        await handle.stdin.send(b"swallowed\n")
        with pytest.raises(anyio.EndOfStream):
            await handle.stdout.receive()
        assert (await handle.output(), await handle.error_output()) == ("", "")


async def test_an_attached_handle_hears_its_execs(vm: VmHandle) -> None:
    heard: list[LogEvent] = []
    handle = await attach(name=vm.name, on_log=heard.append)
    await handle.exec("echo out; echo err >&2")
    assert {event.source for event in heard} == {"exec-stdout", "exec-stderr"}
    await handle.detach()
    assert (await handle.exec("echo still")).stdout == "still\n"


async def test_a_fork_ends_by_attached_hands_which_cannot_tell_how(vm: VmHandle) -> None:
    fork = await vm.fork(name="to-end")
    handles = [await attach(name="to-end") for _ in range(2)]
    ends: list[ExitStatus] = []
    async with anyio.create_task_group() as tasks:

        async def wait() -> None:
            ends.append(await handles[0].wait())

        tasks.start_soon(wait)
        await handles[1].kill()
    assert ends == [ExitStatus(code=None, signal=None)]
    assert (await fork.wait()).code == 143
    assert (await handles[0].memory_stats()).host_rss_bytes is None
    with pytest.raises(BootError) as caught:
        await handles[0].status()
    assert caught.value.code is ErrorCode.VM_DIED
    await fork.detach()


BOOT = [*MACHINEN, "boot", "--detach", "--json"]


async def test_of_many_who_boot_under_one_name_one_wins_and_nothing_is_left_of_the_rest(
    vm_home: Path,
) -> None:
    argv = [*BOOT, "--name", "race/one", "--memory", str(MEMORY_MIB), "--network", "none"]
    before = {entry.pid for entry in live_entries()}
    done: list[subprocess.CompletedProcess[bytes]] = []

    async def race() -> None:
        done.append(await anyio.run_process(argv, check=False))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(race)
    (won,) = [each for each in done if each.returncode == 0]
    assert all(b"(REGISTRY_NAME_IN_USE)" in each.stderr for each in done if each is not won)
    pid = json.loads(won.stdout)["pid"]
    assert {entry.pid for entry in live_entries()} - before == {pid}
    assert find_pid("race/one") == pid
    assert len(list((vm_home / "r").iterdir())) == len(live_entries())
    winner = await attach(name="race/one")
    await winner.kill()
    assert not winner.vsock_path.parent.exists()


async def test_a_detached_boot_that_fails_leaves_its_console_and_nothing_else(
    vm_home: Path,
) -> None:
    before = sorted((vm_home / "r").iterdir())
    with pytest.raises(BootError) as caught:
        await boot(name="late", detached=True, timeout_ms=300, warm=False, **SMALL)
    assert caught.value.code is ErrorCode.BOOT_DETACHED_READINESS_FAILED
    (log,) = [word for word in str(caught.value).split() if ".boot.log" in word]
    assert "the guest's agent did not answer in time" in Path(log.strip("):")).read_text()
    assert find_pid("late") is None
    with anyio.fail_after(60):
        while sorted((vm_home / "r").iterdir()) != before:
            await anyio.sleep(0.05)
