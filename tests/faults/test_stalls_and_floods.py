"""A guest that stands still, a guest that floods each stream: its host and its neighbours go on."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import anyio
import psutil
import pytest

from machinen_runtime.attach import attach
from machinen_runtime.errors import ErrorCode, ExecError, MachinenError
from machinen_runtime.handle import VmHandle
from tests.faults.aftermath import PATIENCE_S, Scene, assert_clear
from tests.vm.child import MACHINEN, heeding
from tests.vm.conftest import qemu_of

pytestmark = pytest.mark.vm

FLOOD_S = 2
MAX_GROWTH_BYTES = 64 << 20


@contextmanager
def stopped(pid: int) -> Generator[None]:
    """The process stands still for the length of the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def stop_agent(vm: VmHandle) -> None:
    """Until nobody takes a command any more: on a busy host one may be given up before it runs."""
    codes: list[ErrorCode] = []
    with anyio.fail_after(PATIENCE_S):
        while codes[-2:] != [ErrorCode.EXEC_AGENT_TIMEOUT, ErrorCode.EXEC_AGENT_UNAVAILABLE]:
            with pytest.raises(ExecError) as caught:
                await vm.exec("kill -STOP $PPID", connect_timeout_ms=500, exec_timeout_ms=1000)
            known = (ErrorCode.EXEC_AGENT_TIMEOUT, ErrorCode.EXEC_AGENT_UNAVAILABLE)
            assert_clear(caught.value, *known)
            codes.append(caught.value.code)


async def test_a_qemu_that_stands_still_holds_up_its_own_clients_alone(
    scene: Scene, tmp_path: Path
) -> None:
    async with await scene.source.fork(name="still") as vm:
        with stopped(qemu_of(vm).pid):
            with pytest.raises(ExecError) as caught, anyio.fail_after(PATIENCE_S):
                await vm.exec("true", connect_timeout_ms=500)
            assert_clear(caught.value, ErrorCode.EXEC_AGENT_UNAVAILABLE)
            assert caught.value.retryable
            with pytest.raises(MachinenError) as refused, anyio.fail_after(PATIENCE_S):
                await vm.snapshot(out_dir=tmp_path / "b", leave_running=True, timeout_ms=1000)
            assert_clear(refused.value, ErrorCode.SNAPSHOT_TIMEOUT)
            assert (await (await attach(pid=vm.pid)).status()).state == "snapshotting"
            await scene.assert_sound()
        with anyio.fail_after(PATIENCE_S):
            await scene.assert_sound(vm)
            await vm.pause()  # after what is left of that snapshot
            await vm.resume()
        assert os.listdir(tmp_path) == []
    await scene.assert_nothing_left()


async def test_a_qemu_that_stands_still_is_stopped_all_the_same(scene: Scene) -> None:
    async with await scene.source.fork(name="still") as vm:
        os.kill(qemu_of(vm).pid, signal.SIGSTOP)
        with anyio.fail_after(PATIENCE_S):
            await vm.stop(grace_ms=500)
            await vm.wait()
    await scene.assert_nothing_left()
    await scene.assert_sound()


async def test_a_guest_whose_agent_stands_still_is_forked_kept_and_ended(
    scene: Scene, tmp_path: Path
) -> None:
    """Nobody in it answers: to quiesce, to be greeted, to be powered off."""
    async with await scene.source.fork(name="deaf") as vm:
        await stop_agent(vm)
        with anyio.fail_after(PATIENCE_S):
            await vm.snapshot(out_dir=tmp_path / "bundle", leave_running=True)
            await vm.stop(grace_ms=500)
            await vm.wait()
    await scene.assert_nothing_left()
    await scene.assert_sound()


FLOODS = {
    "stdout of exec": f"timeout {FLOOD_S} yes flood",
    "stderr of exec": f"timeout {FLOOD_S} yes flood >&2",
    "the console": f"timeout {FLOOD_S} yes flood >/dev/console",
    "the terminal of session main": f"timeout {FLOOD_S} yes flood >/dev/pts/0",
    "the kernel's log": "for i in $(seq 500); do echo flood $i >/dev/kmsg; done",
    "processes": f"for i in $(seq 60); do sleep {FLOOD_S} & done; wait",
}


@pytest.mark.parametrize("command", FLOODS.values(), ids=FLOODS)
async def test_a_flood_holds_up_nobody_else(scene: Scene, command: str) -> None:
    async with await scene.source.fork(name="flood") as vm:
        monitor = psutil.Process(vm.pid)
        before = monitor.memory_info().rss
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(vm.exec_raw, command)
            await scene.assert_sound(vm)
            await scene.assert_sound()
            assert (await vm.status()).state == "running"
        assert monitor.memory_info().rss - before < MAX_GROWTH_BYTES
        await scene.assert_sound(vm)
    await scene.assert_nothing_left()


async def test_a_flood_whose_reader_stands_still_waits_in_the_guest(scene: Scene) -> None:
    """A client that takes nothing at all of what its command writes."""
    async with await scene.source.fork(name="unread") as vm:
        monitor = psutil.Process(vm.pid)
        before = monitor.memory_info().rss
        argv = heeding(*MACHINEN, "exec", "unread", "--", "yes", "flood")
        async with await anyio.open_process(argv, stderr=subprocess.DEVNULL) as client:
            assert client.stdout is not None
            await client.stdout.receive(1)  # from here on nobody reads
            for _ in range(3):
                await scene.assert_sound(vm)
                await scene.assert_sound()
            assert monitor.memory_info().rss - before < MAX_GROWTH_BYTES
            client.kill()
        await scene.assert_sound(vm)
    await scene.assert_nothing_left()


async def test_a_flood_whose_reader_is_slow_comes_whole(scene: Scene) -> None:
    """It takes the next piece when a command beside it has ended."""
    lines = 100_000
    async with await scene.source.fork(name="slow") as vm:
        monitor = psutil.Process(vm.pid)
        before = monitor.memory_info().rss
        argv = heeding(*MACHINEN, "exec", "slow", "--", "seq", str(lines))
        async with await anyio.open_process(argv, stderr=subprocess.DEVNULL) as client:
            assert client.stdout is not None
            came = b""
            with anyio.fail_after(2 * PATIENCE_S):
                async for piece in client.stdout:
                    came += piece
                    await vm.exec("true")
            assert await client.wait() == 0
        assert came.splitlines() == [b"%d" % number for number in range(1, lines + 1)]
        assert monitor.memory_info().rss - before < MAX_GROWTH_BYTES
    await scene.assert_nothing_left()
