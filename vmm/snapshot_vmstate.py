"""Engine `vmstate`: the whole VM, copy-on-write.

Quiesce the channel → `stop` → device state (`xen-save-devices-state`, which has nothing to do with
Xen: device state without RAM, whatever the RAM backend) and beside it the pages QEMU holds its own
copies of → put a new overlay on the disk → `cont`. From `stop` to `cont` it is one thread
(vmm/standstill.py). Measured in docs/ and bench/.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import anyio
from anyio import to_thread

from vmm.disk_chain import DiskChain
from vmm.disk_merge import ChainMerger
from vmm.disks import (
    MOUNT_STEM,
    ROOT_STEM,
    MountFiles,
    copy_sparse,
    create_overlay,
    link_layer,
    own_disks_path,
    remove_files,
)
from vmm.errors import VmmError, as_os_error, host_refusal
from vmm.live_mounts import STATE_FILE as LIVE_STATE_FILE
from vmm.live_mounts import LiveMounts
from vmm.machine import MOUNT_CHAIN, ROOT_CHAIN
from vmm.mux import ChannelMux
from vmm.phases import PhaseClock
from vmm.qemu import QemuProcess
from vmm.qmp import Qmp
from vmm.ram_image import ImageWriter
from vmm.ram_pages import RamMap, find_ram
from vmm.requests import MOUNT_LOWER_FILE, MOUNT_UPPER_FILE, SnapshotReport
from vmm.snapshot_engine import SnapshotRequest
from vmm.spec import VmSpec
from vmm.standstill import Standstill
from vmm.write_tracker import WriteTracker

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
        live_mounts: LiveMounts | None = None,
    ) -> None:
        self._spec = spec
        self._qemu = qemu
        self._qmp = qmp
        self._mux = mux
        self._base_image_fd = base_image_fd
        self._qemu_version = qemu_version
        self._live_mounts = live_mounts
        self._tracker = WriteTracker(qemu.pid)
        self._chains = [DiskChain(ROOT_CHAIN, ROOT_STEM, spec.disk.overlay_template, qemu.layers)]
        if spec.mount_disk and qemu.mount:
            template = spec.mount_disk.overlay_template
            self._chains.append(DiskChain(MOUNT_CHAIN, MOUNT_STEM, template, qemu.mount.layers))
        self._mergers = [ChainMerger(chain, qmp, spec.state_dir) for chain in self._chains]

    async def drop_events(self) -> None:
        """Have QEMU keep none of its events for the line that stops the guest; runs with the VM.

        It tells them to both, so those of one say when there are some on the other.
        """
        with self._qmp.events() as told:
            async for _ in told:
                self._qemu.line.drop_events()

    def close(self) -> None:
        """Let go of the last image."""
        self._tracker.close()

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
        except (OSError, MemoryError, RuntimeError, ValueError, VmmError) as error:
            self._discard(request.directory, made)
            if isinstance(error, VmmError) and error.code == "QEMU_GONE":
                raise
            raise _failed("the snapshot failed", error, request.directory) from error
        except BaseException:
            self._discard(request.directory, made)
            raise
        return report

    async def _take(self, request: SnapshotRequest, clock: PhaseClock) -> SnapshotReport:
        directory = request.directory
        chains = self._chains[:1] if request.bare else self._chains
        for merger in self._mergers:
            await merger.settle()
        async with AsyncExitStack() as stack:
            for chain in chains:
                if chain.template is not None:
                    await self._open_next_layer(chain, stack)
            self._make_state_file(stack)
            ram = self._find_ram()
            path = str(directory / RAM_FILE)
            image = ImageWriter(path, ram.size, self._base_image_fd, self._tracker)

            async def finish() -> None:
                await self._finish(directory, chains, still.frozen, durable=request.durable)
                clock.mark("layers")

            stack.callback(image.close)
            await to_thread.run_sync(image.prepare, ram)
            await to_thread.run_sync(self._qemu.line.begin)
            was_running = (await self._qmp.execute("query-status"))["running"]
            still = Standstill(self._qemu.line, clock, was_running=was_running)
            clock.mark("prepare")
            async with AsyncExitStack() as held:
                live_state = None
                if not request.bare:
                    live_state = await self._hold_mounts(directory, held, clock)
                async with self._paused(still, clock, leave_running=request.leave_running):
                    state_path = self._own_path(STATE_FILE)

                    def take() -> None:
                        still.take(image, ram, chains, state_path)
                        if request.leave_running:
                            still.go_on()

                    await to_thread.run_sync(take)
                    if not request.leave_running:
                        await finish()  # in here, so that a full disk lets the guest run on
            if request.leave_running:
                image.keep()
                await finish()
                for merger in self._mergers:
                    await merger.begin()
        mount = None if request.bare else self._spec.mount_disk
        live_mounts = None if request.bare else self._live_mounts
        return SnapshotReport(
            directory=str(directory),
            id=self._spec.id,
            name=self._spec.name,
            machine=dataclasses.asdict(self._spec.machine),
            qemu_version=self._qemu_version,
            base=self._spec.disk.base,
            layers=self._chains[0].names(still.frozen[0]),
            state=STATE_FILE,
            ram_image=RAM_FILE,
            ram_copied_bytes=still.copied_bytes,
            paused_ms=round(still.total_ms, 2),
            quiesced=still.quiesced,
            phases=clock.phases,
            allow_hosts=self._spec.allow_hosts,
            mount_guest=mount.guest if mount else None,
            mount_layers=self._chains[1].names(still.frozen[1]) if mount else [],
            live_mounts=live_mounts.describe() if live_mounts else [],
            live_state=live_state,
            origin=self._spec.origin,
        )

    async def freeze_mount(self, directory: Path, *, durable: bool) -> list[str]:
        """The mount's disks alone, in an instant: see SnapshotEngine."""
        chain = self._chains[-1]
        if not self._spec.mount_disk or chain.template is None:
            raise VmmError("PARAMS_INVALID", "this VM has no mount")
        made = _make_target(directory)  # empty: what is in it if we fail is ours to remove
        try:
            await self._mergers[-1].settle()
            frozen = list(chain.layers)
            async with AsyncExitStack() as stack:
                await self._open_next_layer(chain, stack)
                await chain.push(self._qmp)
            await to_thread.run_sync(self._keep, directory, [chain], [frozen], durable)
        except (OSError, VmmError) as error:
            self._discard(directory, made)
            raise _failed("the mount cannot be kept", error, directory) from error
        except BaseException:
            self._discard(directory, made)
            raise
        return chain.names(frozen)

    async def _open_next_layer(self, chain: DiskChain, stack: AsyncExitStack) -> None:
        """Have a new empty overlay open; it goes with `stack` unless the disk writes to it."""
        path = chain.next_path(os.path.dirname(self._own_path(STATE_FILE)))

        async def remove_unused() -> None:
            if path not in chain.layers:
                with anyio.CancelScope(shield=True):
                    await chain.close_next(self._qmp)
                remove_files(path)

        stack.push_async_callback(remove_unused)
        assert chain.template is not None
        create_overlay(chain.template, path)
        await chain.open_next(self._qmp, path)

    async def _hold_mounts(
        self, directory: Path, held: AsyncExitStack, clock: PhaseClock
    ) -> str | None:
        """Let the live mounts finish what they are at, and write down what is open in them."""
        if not self._live_mounts:
            return None
        await held.enter_async_context(self._live_mounts.held())
        state = self._live_mounts.save()
        path = directory / LIVE_STATE_FILE
        await to_thread.run_sync(path.write_text, state)
        path.chmod(0o600)
        clock.mark("hold-mounts")
        return LIVE_STATE_FILE

    def _find_ram(self) -> RamMap:
        size = self._spec.machine.memory_mib << 20
        return find_ram(self._qemu.pid, size, self._spec.mapped_image)

    @asynccontextmanager
    async def _paused(
        self, still: Standstill, clock: PhaseClock, *, leave_running: bool
    ) -> AsyncGenerator[None]:
        """The guest may stand still in this block; after it, or if it fails, it runs on if it did.

        So does the channel, which is quiet from before the block, also if we are cancelled there.
        """
        failed = True
        try:
            still.quiesced = await self._mux.quiesce(QUIESCE_TIMEOUT_S)
            clock.mark("quiesce")
            yield
            failed = False
        finally:
            with anyio.CancelScope(shield=True):
                if failed or leave_running:
                    if still.stopped:
                        await self._qmp.execute("cont")
                    self._mux.resume()
                still.end()
                clock.mark("resume")

    def _make_state_file(self, stack: AsyncExitStack) -> None:
        """An empty file for the state, where QEMU may write; it goes with `stack`."""
        path = self._own_path(STATE_FILE)
        remove_files(path)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        stack.callback(remove_files, path)

    def _own_path(self, name: str) -> str:
        """A file that QEMU writes to, in its directory."""
        own = own_disks_path(self._spec.state_dir)
        os.makedirs(own, mode=0o700, exist_ok=True)
        return os.path.join(own, name)

    async def _finish(
        self, directory: Path, chains: list[DiskChain], frozen: list[list[str]], *, durable: bool
    ) -> None:
        """Keep the frozen disk layers beside the image."""
        # A copy: QEMU may still have its own file open, and a bundle does not change any more.
        await to_thread.run_sync(
            copy_sparse, self._own_path(STATE_FILE), str(directory / STATE_FILE)
        )
        await to_thread.run_sync(self._keep, directory, chains, frozen, durable)

    def _keep(
        self, directory: Path, chains: list[DiskChain], frozen: list[list[str]], durable: bool
    ) -> None:
        for chain, layers in zip(chains, frozen, strict=True):
            for path, name in zip(layers[1:], chain.names(layers), strict=False):
                link_layer(path, str(directory / name))
        mount = self._qemu_mount()
        if mount and self._chains[-1] in chains:
            link_layer(mount.lower, str(directory / MOUNT_LOWER_FILE))
            link_layer(mount.layers[0], str(directory / MOUNT_UPPER_FILE))
        if durable:
            _sync(directory)

    def _qemu_mount(self) -> MountFiles | None:
        return self._qemu.mount if self._spec.mount_disk else None

    def _discard(self, directory: Path, made: bool) -> None:
        fixed = (STATE_FILE, RAM_FILE, LIVE_STATE_FILE, MOUNT_LOWER_FILE, MOUNT_UPPER_FILE)
        layers = [name for chain in self._chains for name in chain.names(chain.layers)]
        for name in (*fixed, *layers):
            remove_files(str(directory / name))
        if made:
            with contextlib.suppress(OSError):
                directory.rmdir()


def _failed(what: str, error: Exception, directory: Path) -> VmmError:
    """SNAPSHOT_FAILED, with what to do about it where the host refused something.

    What is full is the disk of `directory`: a write, unlike an open, does not say where.
    """
    refused = as_os_error(error)
    if refused is not None and refused.errno is not None:
        if refused.errno in (errno.ENOSPC, errno.EDQUOT) and not refused.filename:
            refused.filename = str(directory)
        refusal = host_refusal(refused, what)
        return VmmError("SNAPSHOT_FAILED", str(refusal), retryable=refusal.retryable)
    return VmmError("SNAPSHOT_FAILED", f"{what}: {error}")


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
