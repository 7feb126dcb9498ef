"""Images that are built, and process trees that are dumped, while somebody is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator
from functools import partial
from pathlib import Path

import anyio
import pytest

from machinen_runtime.boot import boot
from machinen_runtime.errors import ErrorCode, MachinenError
from machinen_runtime.handle import VmHandle
from machinen_runtime.provision import provision
from machinen_runtime.restore import restore
from tests.faults.aftermath import PATIENCE_S, Scene, assert_clear
from tests.faults.conftest import SMALL
from tests.vm.conftest import qemu_of

pytestmark = pytest.mark.vm

DIED = (
    ErrorCode.VM_DIED,
    ErrorCode.SNAPSHOT_DUMP_FAILED,
    ErrorCode.EXEC_AGENT_UNAVAILABLE,
    ErrorCode.PROVISION_INSTALL_HOOK_FAILED,
)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image that shall be built anew; what is there stays until the new one is whole."""
    path = tmp_path / "images" / "image.tar"
    path.parent.mkdir()
    path.write_bytes(b"what was there")
    return path


@pytest.mark.parametrize("stage", ["boot", "install", "archive"])
async def test_an_image_whose_maker_is_killed_is_as_it_was(
    scene: Scene, image: Path, stage: str
) -> None:
    await scene.killed_client("provision", f"stage.{stage}", out=str(image), memory=512)
    assert image.read_bytes() == b"what was there"
    await scene.assert_nothing_left(gc=True)
    await scene.assert_sound()


@pytest.mark.parametrize("victim", ["qemu", "monitor"])
async def test_an_image_whose_sandbox_is_killed_is_as_it_was(
    scene: Scene, image: Path, victim: str
) -> None:
    async def install(vm: VmHandle) -> None:
        os.kill(qemu_of(vm).pid if victim == "qemu" else vm.pid, signal.SIGKILL)
        await vm.exec("sync")

    with pytest.raises(MachinenError) as caught, anyio.fail_after(2 * PATIENCE_S):
        await provision(out=image, install=install, memory=512)
    assert_clear(caught.value, *DIED)
    assert os.listdir(image.parent) == ["image.tar"]
    assert image.read_bytes() == b"what was there"
    await scene.assert_nothing_left(gc=victim == "monitor")
    await scene.assert_sound()


@pytest.fixture
async def tree(scene: Scene) -> AsyncGenerator[VmHandle]:
    """A sandbox whose session has something worth dumping."""
    async with await boot(name="tree", cmd=["sleep", "1000"], **SMALL) as vm:
        yield vm
    await scene.assert_nothing_left(gc=True)
    await scene.assert_sound()


@pytest.mark.parametrize("moment", ["dump", "checksums"])
async def test_a_dumped_tree_whose_client_is_killed_goes_on(
    scene: Scene, tree: VmHandle, moment: str
) -> None:
    out_dir = scene.snapshots / "half"
    options = {"out_dir": str(out_dir), "leave_running": True, "engine": "criu"}
    await scene.killed_client("snapshot", f"client.{moment}", pid=tree.pid, **options)
    assert not out_dir.exists()
    assert (await tree.exec("pgrep -c sleep")).stdout == "1\n"


async def test_a_sandbox_that_dies_while_its_tree_is_dumped_leaves_no_bundle(
    scene: Scene, tree: VmHandle
) -> None:
    out_dir = scene.snapshots / "half"
    dump = partial(tree.snapshot, out_dir=out_dir, engine="criu", leave_running=True)

    async def kill_in_the_middle() -> None:
        while not any(scene.snapshots.glob(".half.*/img")):
            await anyio.sleep(0.01)
        qemu_of(tree).kill()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kill_in_the_middle)
        with pytest.raises(MachinenError) as caught, anyio.fail_after(PATIENCE_S):
            await dump()
        assert_clear(caught.value, *DIED)
    assert not out_dir.exists()


async def test_a_tree_whose_new_sandbox_dies_while_it_is_brought_back_can_be_again(
    scene: Scene, tree: VmHandle, tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    await tree.snapshot(out_dir=bundle, engine="criu", leave_running=True)
    scene.arm("start.agent", "qemu")
    with pytest.raises(MachinenError) as caught, anyio.fail_after(PATIENCE_S):
        await restore(snap_dir=bundle)
    assert_clear(caught.value, *DIED)
    scene.assert_struck()
    async with await restore(snap_dir=bundle) as again:
        assert (await again.exec("pgrep -c sleep")).stdout == "1\n"
