"""A boot, a restore, a fork in which a process is killed at the end of each phase."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable
from pathlib import Path

import anyio
import pytest

from machinen_runtime.boot import boot
from machinen_runtime.errors import ErrorCode, MachinenError
from machinen_runtime.handle import VmHandle
from machinen_runtime.restore import restore
from tests.faults.aftermath import PATIENCE_S, Scene, assert_clear, passts_of
from tests.faults.conftest import SMALL

pytestmark = pytest.mark.vm

COLD = ("spawn", "imports", "qemu-start", "agent", "workload")
RESTORED = ("spawn", "imports", "qemu-start", "device-state", "resume", "agent")
FATAL = ("monitor", "qemu")
DIED = (ErrorCode.VM_DIED,)


async def assert_died(start: Awaitable[VmHandle]) -> None:
    """Starting fails clearly; or, if the last phase was over, the VM is seen to end."""
    try:
        vm = await start
    except MachinenError as error:
        assert_clear(error, *DIED)
        return
    async with vm:
        with anyio.fail_after(PATIENCE_S):
            assert (await vm.wait()).code != 0


@pytest.mark.parametrize("victim", FATAL)
@pytest.mark.parametrize("phase", COLD)
async def test_a_cold_boot_that_dies_says_so_and_leaves_nothing(
    scene: Scene, phase: str, victim: str
) -> None:
    scene.arm(f"start.{phase}", victim)
    await assert_died(boot(name="doomed", warm=False, **SMALL))
    scene.assert_struck()
    await scene.assert_nothing_left()
    await scene.assert_sound()


@pytest.mark.parametrize(
    "moment",
    [
        "client.asset-resolve",
        "client.disk-prep",
        "client.initramfs-pack",
        "start.spawn",
        "start.qemu-start",
    ],
)
async def test_a_boot_whose_client_is_killed_leaves_nothing(scene: Scene, moment: str) -> None:
    await scene.killed_client("boot", moment, name="doomed", warm=False, **SMALL)
    await scene.assert_nothing_left(gc=True)
    await scene.assert_sound()


@pytest.fixture(scope="module")
async def bundle(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("kept") / "bundle"
    await scene.source.snapshot(out_dir=directory, leave_running=True)
    return directory


@pytest.mark.parametrize("victim", FATAL)
@pytest.mark.parametrize("phase", RESTORED)
async def test_a_restore_that_dies_says_so_and_the_next_one_works(
    scene: Scene, bundle: Path, phase: str, victim: str
) -> None:
    scene.arm(f"start.{phase}", victim)
    await assert_died(restore(snap_dir=bundle))
    scene.assert_struck()
    await scene.assert_nothing_left()
    if phase == RESTORED[-1]:
        async with await restore(snap_dir=bundle) as again:
            await scene.assert_sound(again)
    await scene.assert_sound()


@pytest.mark.parametrize("victim", FATAL)
@pytest.mark.parametrize("phase", ["spawn", "device-state", "agent"])
async def test_a_fork_that_dies_says_so_and_its_source_runs_on(
    scene: Scene, phase: str, victim: str
) -> None:
    scene.arm(f"start.{phase}", victim)
    await assert_died(scene.source.fork(name="doomed"))
    scene.assert_struck()
    await scene.assert_nothing_left()
    await scene.assert_sound()


@pytest.mark.parametrize("operation", ["restore", "fork"])
@pytest.mark.parametrize("phase", ["spawn", "device-state", "agent"])
async def test_a_copy_whose_client_is_killed_leaves_nothing(
    scene: Scene, bundle: Path, operation: str, phase: str
) -> None:
    options = {"snap_dir": str(bundle)} if operation == "restore" else {"pid": scene.source.pid}
    await scene.killed_client(operation, f"start.{phase}", **options)
    await scene.assert_nothing_left(gc=True)
    await scene.assert_sound()


async def test_a_fork_whose_network_process_dies_has_it_back(scene: Scene) -> None:
    async with await scene.source.fork(name="cut-off") as fork:
        for _ in range(2):
            with anyio.fail_after(PATIENCE_S):
                while len(passts := passts_of(fork)) != 1:
                    await anyio.sleep(0.05)
                os.kill(passts[0], signal.SIGKILL)
                while passts_of(fork) in (passts, []):
                    await anyio.sleep(0.05)
        await scene.assert_sound(fork)
    await scene.assert_nothing_left()
