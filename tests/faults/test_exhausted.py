"""A host without descriptors, processes or memory to spare."""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import anyio
import pytest

from machinen_runtime.attach import attach
from machinen_runtime.boot import boot
from machinen_runtime.errors import ErrorCode, MachinenError
from machinen_runtime.handle import VmHandle
from machinen_runtime.templates import failures, template_keys
from tests.faults.aftermath import PATIENCE_S, Scene, assert_clear
from tests.faults.conftest import ROOT, SMALL
from tests.faults.few_processes import few_processes
from tests.vm.child import heeding
from tests.vm.conftest import qemu_of
from vmm.qemu import LEAST_DESCRIPTORS
from vmm.requests import StatsEvent

pytestmark = pytest.mark.vm

REFUSED = (ErrorCode.HOST_REFUSED, ErrorCode.EXEC_AGENT_UNAVAILABLE)


@pytest.fixture(autouse=True)
def no_template_is_blamed() -> Generator[None]:
    """Tests beside this one may make more, and the cache may drop the oldest for them."""
    before = {key: failures(key) for key in template_keys()}
    yield
    assert {key: failures(key) for key in before} == before


async def act(scene: Scene, operation: str, *before: str, files: int = 256) -> str:
    """Have a client with little of something do it; the code of its error, or `done`."""
    options: dict[str, Any] = SMALL if operation == "boot" else {"pid": scene.source.pid}
    argv = [sys.executable, "-m", "tests.faults.limited", str(files), operation]
    with anyio.fail_after(2 * PATIENCE_S):
        command = heeding(*before, *argv, json.dumps(options))
        ended = await anyio.run_process(command, check=False)
    assert ended.returncode == 0, ended.stderr.decode()
    code, sentence = json.loads(ended.stdout.splitlines()[-1])
    if code != "done":
        assert_clear(MachinenError(ErrorCode(code), sentence), *REFUSED)
    return code


@pytest.mark.parametrize(
    ("operation", "files"), [("boot", 22), ("boot", 24), ("boot", 63), ("fork", 24)]
)
async def test_without_descriptors_one_is_told_so_and_nothing_is_left(
    scene: Scene, operation: str, files: int
) -> None:
    assert await act(scene, operation, files=files) == ErrorCode.HOST_REFUSED
    await scene.assert_nothing_left()
    await scene.assert_sound()


async def test_with_as_few_descriptors_as_it_asks_for_a_vm_boots(scene: Scene) -> None:
    assert await act(scene, "boot", files=LEAST_DESCRIPTORS) == "done"
    await scene.assert_nothing_left()


@pytest.mark.parametrize(
    ("operation", "count"), [("boot", 1), ("boot", 8), ("boot", 9), ("fork", 8)]
)
async def test_without_processes_one_is_told_so_and_nothing_is_left(
    scene: Scene, operation: str, count: int
) -> None:
    with few_processes(count) as prefix:
        assert await act(scene, operation, *prefix) == ErrorCode.HOST_REFUSED
        await scene.assert_nothing_left()
    await scene.assert_sound()


async def test_a_monitor_that_may_open_no_file_keeps_its_vm_and_serves_later(scene: Scene) -> None:
    """Its figures, its sleep and its clients wait; the guest runs on."""
    async with await scene.source.fork(name="short") as vm:
        await vm.auto_pause(1000)
        async with vm.events(stats_interval_ms=250) as events:
            figures = (event async for event in events if isinstance(event, StatsEvent))
            await anext(figures)
            limits = resource.prlimit(vm.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(vm.pid, resource.RLIMIT_NOFILE, (0, limits[1]))
            try:
                with pytest.raises(MachinenError) as caught, anyio.fail_after(PATIENCE_S):
                    await vm.exec("true", connect_timeout_ms=2000)
                assert_clear(caught.value, ErrorCode.EXEC_AGENT_UNAVAILABLE)
            finally:
                resource.prlimit(vm.pid, resource.RLIMIT_NOFILE, limits)
            with anyio.fail_after(PATIENCE_S):
                await anext(figures)
        await scene.assert_sound(vm)
    await scene.assert_nothing_left()
    await scene.assert_sound()


async def test_a_qemu_without_memory_is_told_so_and_nothing_is_left(
    scene: Scene, tmp_path: Path
) -> None:
    """The monitor's own limit, which QEMU inherits, is too small for the guest."""
    monitor = tmp_path / "monitor"
    limited = f'ulimit -v 1000000\nPYTHONPATH={ROOT} exec {sys.executable} -m vmm "$@"\n'
    monitor.write_text(f"#!/bin/sh\n{limited}")
    monitor.chmod(0o755)
    with pytest.raises(MachinenError) as caught:
        await boot(binary=monitor, warm=False, **{**SMALL, "memory": 2048})
    assert_clear(caught.value, ErrorCode.HOST_REFUSED)
    await scene.assert_nothing_left()
    await scene.assert_sound()


@pytest.mark.parametrize("victim", ["qemu", "monitor"])
async def test_the_hosts_killer_takes_one_vm_and_who_used_it_hears_so(
    scene: Scene, victim: str
) -> None:
    """What a host out of memory does: SIGKILL, to whom it likes."""
    async with await scene.source.fork(name="largest") as vm:
        begun = anyio.Event()

        def note(_: bytes) -> None:
            begun.set()

        async def use() -> None:
            with pytest.raises(MachinenError) as caught:
                await vm.exec("echo begun; sleep 1000", on_stdout=note)
            assert_clear(caught.value, ErrorCode.VM_DIED, ErrorCode.EXEC_AGENT_UNAVAILABLE)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(use)
            await begun.wait()
            os.kill(qemu_of(vm).pid if victim == "qemu" else vm.pid, 9)
        with anyio.fail_after(PATIENCE_S):
            await vm.wait()
    await scene.assert_nothing_left(gc=True)
    await scene.assert_sound()


HUNGRY = """mount -o remount,size=100% /dev/shm; head -c 330M /dev/zero >/dev/shm/most
tail /dev/zero; code=$?; rm /dev/shm/most; exit $code"""


async def test_a_guest_out_of_memory_ends_its_own_program_and_lives(scene: Scene) -> None:
    async def greedy(vm: VmHandle) -> int:
        with anyio.fail_after(2 * PATIENCE_S):
            return (await vm.exec_raw(HUNGRY)).exit_code

    async with await scene.source.fork(name="hungry") as vm:
        assert await greedy(vm) != 0
        await scene.assert_sound(vm)
        await (await attach(pid=vm.pid)).exec("true")
    await scene.assert_nothing_left()
