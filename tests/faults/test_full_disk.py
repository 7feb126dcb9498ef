"""The host's disk full under a running VM, and under everything one does with VMs."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

from machinen_runtime.attach import attach
from machinen_runtime.boot import boot
from machinen_runtime.errors import ErrorCode, ExecError, MachinenError
from machinen_runtime.handle import VmHandle
from machinen_runtime.memory import read_vm_state
from machinen_runtime.provision import provision
from machinen_runtime.restore import restore
from tests.faults.aftermath import KEEP, PATIENCE_S, Scene, assert_clear
from tests.faults.client import install
from tests.faults.conftest import SMALL
from tests.faults.full_disk import fill, small_tmpfs
from tests.vm.child import MACHINEN, heeding

pytestmark = pytest.mark.vm

MIB = 1 << 20
REFUSED = (ErrorCode.HOST_REFUSED, ErrorCode.VM_DIED, ErrorCode.BOOT_VMM_MISSING)
WRITE = "head -c 12M /dev/urandom >/root/big && sync && sha256sum </root/big"


@pytest.fixture
def room(tmp_path: Path) -> Generator[Path]:
    """A file system of 64 MiB."""
    with small_tmpfs(tmp_path / "room", 64 * MIB) as room:
        yield room


@asynccontextmanager
async def cramped_vm(room: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[VmHandle]:
    """A VM whose disk lies there."""
    with monkeypatch.context() as patch:
        patch.setenv("MACHINEN_STATE_DIR", str(room / "m"))
        vm = await boot(name="cramped", **SMALL)
    async with vm:
        yield vm


async def wait_state(vm: VmHandle, state: str) -> None:
    """Until the VM is in `state`, as its monitor tells it."""
    async with vm.events(stats_interval_ms=0) as events:
        if (await vm.status()).state == state:
            return
        with anyio.fail_after(PATIENCE_S):
            async for event in events:
                if getattr(event, "state", None) == state:
                    return


async def test_a_guest_whose_hosts_disk_is_full_stands_still_says_so_and_loses_nothing(
    scene: Scene, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cramped_vm(room, monkeypatch) as vm:
        ballast = fill(room, 4 * MIB)
        sums: list[str] = []

        async def write() -> None:
            sums.append((await vm.exec(WRITE)).stdout)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await wait_state(vm, "disk-full")
            assert read_vm_state(vm.entry.stats_path or "") == "disk-full"
            assert f"room for {room}" in (await vm.status()).trouble
            with pytest.raises(ExecError, match="it goes on by itself") as caught:
                await vm.exec("true", connect_timeout_ms=500)
            assert_clear(caught.value, ErrorCode.EXEC_AGENT_UNAVAILABLE)
            with pytest.raises(MachinenError) as refused:
                await vm.resume()
            assert_clear(refused.value, ErrorCode.HOST_REFUSED)
            assert refused.value.retryable
            with pytest.raises(MachinenError) as refused:
                await vm.fork(name="no-room")
            assert_clear(refused.value, ErrorCode.SNAPSHOT_DUMP_FAILED)
            await scene.assert_sound()
            ballast.unlink()  # it goes on by itself
        again = await vm.exec("sync; echo 3 >/proc/sys/vm/drop_caches; sha256sum </root/big")
        assert [again.stdout] == sums
        assert (await vm.status()).trouble == ""
    assert [*room.rglob("*.qcow2")] == []
    await scene.assert_nothing_left()
    await scene.assert_sound()


async def test_one_that_was_paused_waits_for_its_owner_and_not_for_room(
    scene: Scene, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with cramped_vm(room, monkeypatch) as vm:
        ballast = fill(room, 4 * MIB)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(vm.exec, WRITE)
            await wait_state(vm, "disk-full")
            await vm.pause()
            await vm.resume()  # tries again, and there is no room
            await wait_state(vm, "disk-full")
            await vm.pause()
            ballast.unlink()
            with pytest.raises(ExecError, match="paused"):
                await vm.exec("true", connect_timeout_ms=1500)  # longer than from look to look
            await vm.resume()
    await scene.assert_nothing_left()


async def test_one_that_waits_for_room_can_be_kept_elsewhere_and_ended(
    scene: Scene, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the guest could not write yet is in the snapshot, too."""
    async with cramped_vm(room, monkeypatch) as vm:
        await vm.exec(KEEP)
        fill(room, 4 * MIB)
        await vm.exec(f"setsid sh -c '{WRITE} >/root/sum' </dev/null >/dev/null 2>&1 &")
        await wait_state(vm, "disk-full")
        (room / "ballast").unlink()
        fill(room, 8 * MIB)  # a new layer fits, the guest does not go on
        await vm.snapshot(out_dir=tmp_path / "bundle", leave_running=True)
        assert (await vm.status()).state == "disk-full"
        with anyio.fail_after(PATIENCE_S):
            await vm.stop()
    async with await restore(snap_dir=tmp_path / "bundle") as again:
        await scene.assert_sound(again)
        done = "until [ -s /root/sum ]; do sleep 0.1; done; sha256sum </root/big | cmp - /root/sum"
        await again.exec(done, exec_timeout_ms=PATIENCE_S * 1000)
    await scene.assert_nothing_left()


@pytest.mark.parametrize(
    ("variable", "left_bytes"),
    [
        ("STATE_DIR", 0),
        ("STATE_DIR", 100_000),
        ("RUNTIME_DIR", 0),
        ("REGISTRY_DIR", 0),
        ("REGISTRY_DIR", 8192),
    ],
)
async def test_a_boot_without_room_is_refused_and_leaves_nothing(
    scene: Scene, room: Path, monkeypatch: pytest.MonkeyPatch, variable: str, left_bytes: int
) -> None:
    full = room / "d"
    full.mkdir(mode=0o700)
    ballast = fill(room, left_bytes)
    with monkeypatch.context() as patch:
        patch.setenv(f"MACHINEN_{variable}", str(full))
        try:
            vm = await boot(name="squeezed", **SMALL)
        except MachinenError as error:
            assert_clear(error, *REFUSED)
        else:  # little is enough for some
            async with vm:
                assert (await vm.exec("echo here")).stdout == "here\n"
        left = [path for path in full.rglob("*") if path.name not in ("names", ".lock")]
        assert left == []
    ballast.unlink()
    await scene.assert_nothing_left()
    await scene.assert_sound()


@pytest.mark.parametrize(
    ("left_mib", "leave_running"), [(0, True), (24, True), (1, False), (24, False)]
)
async def test_a_snapshot_without_room_costs_nothing_but_the_attempt(
    scene: Scene, room: Path, left_mib: int, leave_running: bool
) -> None:
    ballast = fill(room, left_mib * MIB)
    with pytest.raises(MachinenError) as caught:
        await scene.source.snapshot(out_dir=room / "bundle", leave_running=leave_running)
    assert_clear(caught.value, ErrorCode.SNAPSHOT_DUMP_FAILED)
    ballast.unlink()
    assert os.listdir(room) == []
    await scene.assert_nothing_left()
    await scene.assert_sound()


@pytest.mark.parametrize("missing", ["with_sums", "write_meta"])
async def test_a_vm_to_end_with_a_snapshot_whose_last_file_has_no_room_runs_on(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """The files are written, the bundle is not: to end the VM now would lose it."""

    def refuse(*_: object) -> None:
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(b"x")

    monkeypatch.setattr(f"machinen_runtime.snapshot.{missing}", refuse)
    with pytest.raises(MachinenError) as caught:
        await scene.source.snapshot(out_dir=tmp_path / "bundle", leave_running=False)
    assert_clear(caught.value, ErrorCode.SNAPSHOT_DUMP_FAILED)
    assert os.listdir(tmp_path) == []
    await scene.assert_nothing_left()
    await scene.assert_sound()


async def test_a_restore_without_room_for_its_disk_is_refused(
    scene: Scene, room: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle"
    await scene.source.snapshot(out_dir=bundle, leave_running=True)
    fill(room)
    with monkeypatch.context() as patch:
        patch.setenv("MACHINEN_STATE_DIR", str(room))
        with pytest.raises(MachinenError) as caught:
            await restore(snap_dir=bundle)
        assert_clear(caught.value, *REFUSED)
    assert os.listdir(room) == ["ballast"]
    async with await restore(snap_dir=bundle) as again:
        await scene.assert_sound(again)
    await scene.assert_nothing_left()


async def test_a_cache_without_room_is_refused_and_one_without_room_for_a_template_does_without(
    scene: Scene, room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ballast = fill(room, 64 * 1024)
    with monkeypatch.context() as patch:
        patch.setenv("MACHINEN_CACHE_DIR", str(room))
        with pytest.raises(MachinenError) as caught:
            await boot(**SMALL)
        assert_clear(caught.value, *REFUSED)
        assert not [path for path in room.rglob(".*") if path.is_file()]
        ballast.unlink()
        fill(room, 8 * MIB)  # initramfs and overlays fit, a template does not
        async with await boot(**SMALL) as vm:
            assert (await vm.exec("echo there")).stdout == "there\n"
        assert not [path for path in (room / "templates").glob("*") if path.is_dir()]
    await scene.assert_nothing_left()


async def test_an_image_without_room_is_not_half_made(scene: Scene, room: Path) -> None:
    out = room / "image.tar"
    out.write_bytes(b"what was there")
    fill(room, 4 * MIB)
    with pytest.raises(MachinenError) as caught:
        await provision(out=out, install=install, memory=SMALL["memory"])
    assert_clear(caught.value, ErrorCode.PROVISION_DISK_TOO_SMALL)
    assert out.read_bytes() == b"what was there"
    assert sorted(os.listdir(room)) == ["ballast", "image.tar"]
    await scene.assert_nothing_left()


FULL_SHM = """
mount -t tmpfs -o size=64k tmpfs /dev/shm && ! head -c 1M /dev/zero >/dev/shm/full 2>/dev/null &&
exec "$@"
"""


async def test_a_full_dev_shm_harms_nobody(scene: Scene) -> None:
    """In a mount namespace of its own: others use the host's."""
    in_full_shm = ["unshare", "--mount", "sh", "-c", FULL_SHM, "sh"]
    forking = [*MACHINEN, "fork", "source", "--new-name", "shm", "--detach"]
    done = await anyio.run_process(heeding(*in_full_shm, *forking), check=False)
    assert done.returncode == 0, done.stderr.decode()
    fork = await attach(name="shm")
    await scene.assert_sound(fork)
    await fork.kill()
    await scene.assert_nothing_left(gc=True)
    await scene.assert_sound()
