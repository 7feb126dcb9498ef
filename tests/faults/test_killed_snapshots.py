"""A snapshot, a fork's among them, in which a process is killed at the end of each phase."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest

from machinen_runtime.boot import boot
from machinen_runtime.errors import ErrorCode, MachinenError
from machinen_runtime.handle import VmHandle
from machinen_runtime.restore import restore
from tests.faults.aftermath import KEEP, PATIENCE_S, Scene, assert_clear
from tests.faults.conftest import SMALL

pytestmark = pytest.mark.vm

PHASES = ("prepare", "quiesce", "stop", "device-state", "pages", "disk", "resume", "layers")
DIED = (ErrorCode.VM_DIED, ErrorCode.SNAPSHOT_DUMP_FAILED)


@asynccontextmanager
async def victim_vm() -> AsyncGenerator[VmHandle]:
    """A source that does not survive."""
    async with await boot(name="victim", **SMALL) as vm:
        yield vm
        with anyio.fail_after(PATIENCE_S):
            await vm.wait()


@pytest.mark.parametrize(
    ("phase", "victim"),
    [*((phase, "monitor") for phase in PHASES), *((phase, "qemu") for phase in PHASES[:-1:2])],
)
async def test_a_source_that_dies_leaves_no_bundle_and_the_error_says_so(
    scene: Scene, phase: str, victim: str
) -> None:
    out_dir = scene.snapshots / "half"
    async with victim_vm() as vm:
        scene.arm(f"snapshot.{phase}", victim)
        keep = partial(vm.snapshot, out_dir=out_dir, leave_running=phase != "layers")
        act = keep if victim == "monitor" else partial(vm.fork, name="never")
        with pytest.raises(MachinenError) as caught:
            await act()
        assert_clear(caught.value, *DIED)
        scene.assert_struck()
    assert not out_dir.exists()
    await scene.assert_nothing_left(gc=victim == "monitor")
    await scene.assert_sound()


@pytest.mark.parametrize(
    ("moment", "leave_running"),
    [
        *((f"snapshot.{phase}", False) for phase in PHASES),
        ("client.checksums", False),
        ("snapshot.stop", True),
        ("snapshot.layers", True),
        ("client.checksums", True),
    ],
)
async def test_a_source_whose_client_is_killed_runs_on(
    scene: Scene, moment: str, leave_running: bool
) -> None:
    out_dir = scene.snapshots / "half"
    options = {"out_dir": str(out_dir), "leave_running": leave_running}
    await scene.killed_client("snapshot", moment, pid=scene.source.pid, **options)
    assert not out_dir.exists()
    await scene.assert_nothing_left(gc=True)
    await scene.assert_sound()


async def test_a_client_that_is_killed_when_the_bundle_is_whole_has_lost_nothing(
    scene: Scene,
) -> None:
    out_dir = scene.snapshots / "whole"
    async with await boot(name="victim", **SMALL) as vm:
        await vm.exec(KEEP)
        options = {"out_dir": str(out_dir), "leave_running": False}
        await scene.killed_client("snapshot", "client.end", pid=vm.pid, **options)
        with anyio.fail_after(PATIENCE_S):
            await vm.wait()
    async with await restore(snap_dir=out_dir) as again:
        await scene.assert_sound(again)
    for path in sorted(out_dir.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    out_dir.rmdir()
    await scene.assert_nothing_left(gc=True)


@pytest.mark.parametrize("phase", ["prepare", "pages", "layers"])
async def test_a_fork_whose_client_is_killed_leaves_its_source(scene: Scene, phase: str) -> None:
    await scene.killed_client("fork", f"snapshot.{phase}", pid=scene.source.pid)
    await scene.assert_nothing_left(gc=True)
    await scene.assert_sound()


@pytest.mark.parametrize("phase", ["quiesce", "pages", "resume"])
async def test_a_snapshot_during_which_the_network_process_dies_is_whole(
    scene: Scene, phase: str, tmp_path: Path
) -> None:
    scene.arm(f"snapshot.{phase}", "passt")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(scene.kill_wanted, f"snapshot.{phase}")
        await scene.source.snapshot(out_dir=tmp_path / "bundle", leave_running=True)
    scene.assert_struck()
    async with await restore(snap_dir=tmp_path / "bundle") as again:
        await scene.assert_sound(again)
    await scene.accept_new_passt()
    await scene.assert_sound()
