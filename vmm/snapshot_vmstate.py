"""Engine `vmstate`: the whole VM, copy-on-write.

Quiesce the channel → `stop` → device state (`xen-save-devices-state`, which has nothing to do with
Xen: device state without RAM, whatever the RAM backend) → copy the pages QEMU holds its own copies
of → put a new overlay on the disk → `cont`. The image on disk is written after the guest runs
again. Measured in docs/ and bench/.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio import to_thread

from vmm.disks import create_overlay, link_layer, remove_files
from vmm.errors import VmmError
from vmm.machine import layer_node, layer_options
from vmm.mux import ChannelMux
from vmm.phases import PhaseClock
from vmm.qemu import QemuProcess
from vmm.qmp import Qmp
from vmm.ram_image import ImageWriter, RamMap, find_ram
from vmm.requests import SnapshotReport
from vmm.snapshot_engine import SnapshotRequest
from vmm.spec import VmSpec

QUIESCE_TIMEOUT_S = 0.2
STATE_FILE = "state"
RAM_FILE = "ram.img"


class VmstateEngine:
    """Snapshots of one running QEMU.

    `base_image_fd` is the image its RAM was mapped from, open since before the start, or None after
    a cold boot.
    """

    def __init__(
        self,
        spec: VmSpec,
        qemu: QemuProcess,
        qmp: Qmp,
        mux: ChannelMux,
        base_image_fd: int | None,
        qemu_version: str,
    ) -> None:
        self._spec = spec
        self._qemu = qemu
        self._qmp = qmp
        self._mux = mux
        self._base_image_fd = base_image_fd
        self._qemu_version = qemu_version

    async def snapshot(self, request: SnapshotRequest) -> SnapshotReport:
        """Freeze the VM, write `directory`, let it go on if `leave_running`.

        Raises:
            VmmError: SNAPSHOT_TARGET_INVALID or SNAPSHOT_FAILED; the source runs on and nothing is
                left.
        """
        clock = PhaseClock()
        made = _make_target(request.directory)
        try:
            report = await self._take(request, clock)
        except (OSError, ValueError, VmmError) as error:
            self._discard(request.directory, made)
            if isinstance(error, VmmError) and error.code == "QEMU_GONE":
                raise
            raise VmmError("SNAPSHOT_FAILED", f"the snapshot failed: {error}") from error
        except BaseException:
            self._discard(request.directory, made)
            raise
        return report

    async def _take(self, request: SnapshotRequest, clock: PhaseClock) -> SnapshotReport:
        directory = request.directory
        frozen = list(self._qemu.layers)
        next_layer = self._next_layer_path()
        with contextlib.ExitStack() as undo:
            undo.callback(remove_files, next_layer)
            create_overlay(self._spec.disk.overlay_template, next_layer)
            ram = self._find_ram()
            image = ImageWriter(str(directory / RAM_FILE), ram.size, self._base_image_fd)

            async def finish() -> None:
                await self._finish(directory, frozen, durable=request.durable)
                clock.mark("layers")

            with contextlib.closing(image):
                await to_thread.run_sync(image.prepare, ram)
                clock.mark("prepare")
                quiesced = await self._mux.quiesce(QUIESCE_TIMEOUT_S)
                clock.mark("quiesce")
                async with self._paused(clock, leave_running=request.leave_running) as paused:
                    await self._save_devices(directory / STATE_FILE)
                    clock.mark("device-state")
                    copied = image.take(ram)
                    clock.mark("pages")
                    await self._push_layer(next_layer)
                    undo.pop_all()  # the disk writes to it from here on
                    clock.mark("disk")
                    if not request.leave_running:
                        await finish()  # in here, so that a full disk lets the guest run on
                if request.leave_running:
                    await finish()
        return SnapshotReport(
            directory=str(directory),
            id=self._spec.id,
            name=self._spec.name,
            machine=dataclasses.asdict(self._spec.machine),
            qemu_version=self._qemu_version,
            base=self._spec.disk.base,
            layers=[_layer_name(index) for index in range(1, len(frozen))],
            state=STATE_FILE,
            ram_image=RAM_FILE,
            ram_copied_bytes=copied,
            paused_ms=round(paused.total_ms, 2),
            quiesced=quiesced,
            phases=clock.phases,
            allow_hosts=self._spec.allow_hosts,
        )

    def _find_ram(self) -> RamMap:
        restore = self._spec.restore
        size = self._spec.machine.memory_mib << 20
        return find_ram(self._qemu.pid, size, restore.ram_image if restore else None)

    @asynccontextmanager
    async def _paused(self, clock: PhaseClock, *, leave_running: bool) -> AsyncGenerator[_Pause]:
        """The guest stands still in this block; after it, or if it fails, it runs on."""
        pause = _Pause()
        failed, was_running = True, True
        try:
            was_running = (await self._qmp.execute("query-status"))["running"]
            await self._qmp.execute("stop")
            clock.mark("stop")
            yield pause
            failed = False
        finally:
            with anyio.CancelScope(shield=True):
                if failed or leave_running:
                    if was_running:
                        await self._qmp.execute("cont")
                    self._mux.resume()
                pause.end()
                clock.mark("resume")

    async def _save_devices(self, path: Path) -> None:
        """QEMU writes the state; retried while block devices still drain."""
        arguments = {"filename": str(path), "live": False}
        await self._qmp.execute("xen-save-devices-state", arguments)

    def _next_layer_path(self) -> str:
        return os.path.join(self._spec.state_dir, _layer_name(len(self._qemu.layers)))

    async def _push_layer(self, path: str) -> None:
        """Freeze the disk as it is: writes go to a new overlay from here on."""
        index = len(self._qemu.layers)
        options = layer_options(index, path, read_only=False)
        options["backing"] = None
        overlay = layer_node(index)
        await self._qmp.execute("blockdev-add", options)
        try:
            nodes = {"node": layer_node(index - 1), "overlay": overlay}
            await self._qmp.execute("blockdev-snapshot", nodes)
        except VmmError:
            with contextlib.suppress(VmmError):  # else the next snapshot finds its name taken
                await self._qmp.execute("blockdev-del", {"node-name": overlay})
            raise
        self._qemu.layers.append(path)

    async def _finish(self, directory: Path, frozen: list[str], *, durable: bool) -> None:
        """Keep the frozen disk layers beside the image."""

        def work() -> None:
            os.chmod(directory / STATE_FILE, 0o600)  # QEMU made it by the umask
            for index, path in enumerate(frozen[1:], start=1):
                link_layer(path, str(directory / _layer_name(index)))
            if durable:
                _sync(directory)

        await to_thread.run_sync(work)

    def _discard(self, directory: Path, made: bool) -> None:
        for name in (STATE_FILE, RAM_FILE, *map(_layer_name, range(1, len(self._qemu.layers) + 1))):
            remove_files(str(directory / name))
        if made:
            with contextlib.suppress(OSError):
                directory.rmdir()


class _Pause:
    """Measures how long the guest stood still."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self.total_ms = 0.0

    def end(self) -> None:
        self.total_ms = (time.monotonic() - self._begun) * 1000


def _layer_name(index: int) -> str:
    """The file name of disk layer `index`; layer 0 is the base, which lies elsewhere."""
    return f"disk-{index}.qcow2"


def _make_target(directory: Path) -> bool:
    """Make sure `directory` is an empty one; True if it had to be made."""
    problem = "is not an absolute path"
    try:
        if directory.is_absolute():
            directory.mkdir(mode=0o700)
            return True
    except FileExistsError:
        if directory.is_dir() and not any(directory.iterdir()):
            return False
        problem = "exists and is not an empty directory"
    except (OSError, ValueError) as error:
        problem = f"cannot be made: {error}"
    raise VmmError("SNAPSHOT_TARGET_INVALID", f"{directory} {problem}")


def _sync(directory: Path) -> None:
    for path in [*directory.iterdir(), directory]:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
