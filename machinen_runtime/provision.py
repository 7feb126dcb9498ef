"""provision(): boot a base, let the caller change it, keep the result as a rootfs tarball.

The guest runs nothing but the agent and what the caller runs. Its tree comes back as a tar stream
that the agent writes itself, straight into the compressor: no second copy on either side.
"""

from __future__ import annotations

import errno
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
from anyio import to_thread
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from machinen_runtime.assets import resolve_base_dtb, resolve_base_kernel
from machinen_runtime.boot import prepare_boot
from machinen_runtime.channel_conversation import receive_beside
from machinen_runtime.channel_files import TarFrames, open_archive
from machinen_runtime.errors import BootError, ErrorCode, FilesError, ProvisionError
from machinen_runtime.handle import VmHandle
from machinen_runtime.host_refusals import host_refusals
from machinen_runtime.image_config import ImageConfig, read_image_config, warm_image_config_cache
from machinen_runtime.image_writer import NewImage
from machinen_runtime.launch import launch
from machinen_runtime.log_events import ChunkLogEvent, LogEvent, OnLog, PhaseTimer
from machinen_runtime.option_shapes import refuse_wrong_types
from machinen_runtime.option_types import OptionRecord, StrPath
from machinen_runtime.options import BootOptions
from machinen_runtime.provision_base import checked_config, checked_out, resolve_base
from machinen_runtime.rootfs_image import remember_tarball
from machinen_runtime.warm import launch_warm

DEFAULT_SCRATCH_BYTES = 1 << 30
DEFAULT_TIMEOUT_MS = 600_000
EXCLUDED = (
    *("etc/machine-id", "etc/machinen.env", "lost+found", "machinen-config.json"),
    *("tmp/", "var/tmp/"),
)
"""What is one machine's own, secrets, what mke2fs makes, the config we write ourselves, and what
nobody keeps.

/proc, /sys, /dev and /run are file systems of their own, of which only the mount point is kept."""
_CHUNK_BYTES = 1 << 20
_QUEUED_CHUNKS = 4
_TAIL_BYTES = 2000

OnProgress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionOptions(OptionRecord):
    """Options of `provision()`."""

    install: Callable[[VmHandle], Awaitable[object]]
    """Changes the running base; awaited once, with a handle that must not be kept."""
    out: StrPath
    """The tarball to write or replace; `.tar` and `.tar.zst` mean what they say, else gzip."""
    base: StrPath | None = None
    """A rootfs tarball or an OCI image to start from. None: the base `machinen install` made."""
    cmd: Sequence[str] | None = None
    """What a VM of this image runs if its `boot()` does not say. None: as in the base."""
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    """Baked in for the workload, over the base's own; not set for the install hook."""
    guest_cwd: str | None = None
    """The workload's directory, baked in. None: as in the base. Ours."""
    binary: StrPath | None = None
    """The monitor to run, as for `boot()`."""
    cwd: StrPath | None = None
    """What relative paths in these options start from. None: this process's directory."""
    scratch_disk_size_bytes: int = DEFAULT_SCRATCH_BYTES
    """The most bytes the tree may have as an uncompressed archive."""
    timeout_ms: float = DEFAULT_TIMEOUT_MS
    """How long all of it may take; then the VM is killed and nothing is written."""
    vmm_env: Mapping[str, str] = field(default_factory=dict[str, str])
    """Environment of the monitor on the host; `env` is the one that is baked in."""
    kernel: StrPath | None = None
    """The guest's kernel. None: `resolve_base_kernel()`."""
    dtb: StrPath | None = None
    """A device tree, on arm64 only. None: QEMU makes one."""
    on_log: OnLog | None = None
    """Called with console, exec output and, at the end, the phases."""
    memory: int | None = None
    """The RAM ceiling in MiB. None: as for `boot()`. Ours."""
    on_progress: OnProgress | None = None
    """Called with each stage (`boot`, `install`, `archive`) and, in the last, the bytes so far.

    Ours."""

    def __post_init__(self) -> None:
        refuse_wrong_types(type(self), dict(self), codes={})
        for name in ("scratch_disk_size_bytes", "timeout_ms"):
            if not getattr(self, name) > 0:
                message = f"{name} must be positive, not {getattr(self, name)!r}"
                raise BootError(ErrorCode.BOOT_OPTION_INVALID, message)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionResult:
    """A new image."""

    image_path: str
    """Absolute."""
    size_bytes: int
    """Of the tarball as it lies there."""
    elapsed_ms: float
    """From the call to its return."""
    tree_bytes: int = 0
    """Of the archive before it was compressed. Ours."""


@host_refusals(ProvisionError, "the image cannot be made")
async def provision(**options: Any) -> ProvisionResult:
    """Boot the base, run `install` in it, write its tree to the tarball `out`.

    Keywords are the fields of `ProvisionOptions`. Whatever fails, or cancels it: the VM ends, and
    a file that was at `out` is as it was.

    Raises:
        ProvisionError: PROVISION_BASE_NOT_FOUND, PROVISION_KERNEL_NOT_FOUND,
            PROVISION_DTB_NOT_FOUND, PROVISION_ASSETS_DIR_INVALID; PROVISION_INSTALL_HOOK_FAILED
            (the hook raised, which is kept as the cause, or `timeout_ms` are over),
            PROVISION_DISK_TOO_SMALL (the tree exceeds `scratch_disk_size_bytes`, or the host's
            disk is full), ROOTFS_IMG_TOOL_MISSING.
        BootError: those of `boot()`; BOOT_OPTION_INVALID for an option that cannot be used.
    """
    started = time.monotonic()
    build = _Build(ProvisionOptions(**options))
    await to_thread.run_sync(build.prepare)
    try:
        with anyio.fail_after(build.options.timeout_ms / 1000):
            tree_bytes = await build.run()
    except TimeoutError as error:
        message = (
            f"provisioning did not end within {build.options.timeout_ms:g} ms, it was at "
            f"{build.stage!r}: pass a longer timeout_ms"
        )
        raise ProvisionError(ErrorCode.PROVISION_INSTALL_HOOK_FAILED, message) from error
    build.timer.flush(build.options.on_log)
    return ProvisionResult(
        image_path=str(build.out),
        size_bytes=build.out.stat().st_size,
        elapsed_ms=(time.monotonic() - started) * 1000,
        tree_bytes=tree_bytes,
    )


class _Build:
    """One call of provision(): what it was asked for, and where it is."""

    def __init__(self, options: ProvisionOptions) -> None:
        self.options = options
        self.timer = PhaseTimer("provision")
        self.stage = "prepare"
        self.out = Path()
        self.config: ImageConfig | None = None
        self._base: Path | None = None
        self._complaints = bytearray()

    def prepare(self) -> None:
        """Check everything that can be checked before a process is started."""
        options = self.options
        self.out = checked_out(options.out, options.cwd)
        self._base = resolve_base(options.base, options.cwd)
        resolve_base_kernel(_path(options.kernel), _path(options.cwd))
        if options.dtb is not None:
            resolve_base_dtb(_path(options.dtb), _path(options.cwd))
        inherited = read_image_config(self._base) if self._base else None
        self.config = checked_config(
            inherited, cmd=options.cmd, env=options.env, cwd=options.guest_cwd
        )

    async def run(self) -> int:
        """Boot, install, archive; the tree's size in bytes."""
        self._enter("boot")
        async with self._running_base() as vm:
            tree_bytes = await receive_beside(
                lambda: self._change_and_keep(vm), lambda: _read_console(vm)
            )
        await to_thread.run_sync(remember_tarball, self.out)
        await to_thread.run_sync(warm_image_config_cache, self.out, self.config)
        return tree_bytes

    async def _change_and_keep(self, vm: VmHandle) -> int:
        self._enter("install")
        with self.timer.phase("install"):
            await self._install(vm)
        self._enter("archive")
        with self.timer.phase("archive"):
            return await self._archive(vm)

    @asynccontextmanager
    async def _running_base(self) -> AsyncGenerator[VmHandle]:
        """The base with nothing in it but the agent; killed at the end of the block."""
        options = BootOptions(
            image=self._base,
            memory=self.options.memory,
            binary=self.options.binary,
            cwd=self.options.cwd,
            kernel=self.options.kernel,
            dtb=self.options.dtb,
            vmm_env=self.options.vmm_env,
            snapshot=False,
            timeout_ms=None,
        )
        with self.timer.phase("boot"):
            request = await to_thread.run_sync(prepare_boot, options, self.timer)
            request = replace(request, workload=None, name="provision-{pid}")
            launched = await launch_warm(request, launch)
        async with VmHandle(launched, timeout_ms=None, on_log=self._log) as vm:
            yield vm

    async def _install(self, vm: VmHandle) -> None:
        try:
            await self.options.install(vm)
        except Exception as error:
            raise self._hook_failed(error) from error

    def _hook_failed(self, error: Exception) -> ProvisionError:
        said = self._complaints.decode("utf-8", "replace").strip()
        message = f"the install hook failed: {str(error).strip() or type(error).__name__}"
        if said and said not in message:
            message += f"\n{said}"
        return ProvisionError(ErrorCode.PROVISION_INSTALL_HOOK_FAILED, message)

    async def _archive(self, vm: VmHandle) -> int:
        try:
            async with open_archive(vm.vsock_path, "/", excludes=EXCLUDED) as frames:
                return await self._write_image(frames)
        except FilesError as error:
            message = f"the guest's tree could not be read: {error}"
            raise ProvisionError(ErrorCode.PROVISION_INSTALL_HOOK_FAILED, message) from error
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
            code = (
                ErrorCode.PROVISION_DISK_TOO_SMALL
                if full
                else ErrorCode.PROVISION_INSTALL_HOOK_FAILED
            )
            message = f"cannot write {self.out}: {error.strerror or error}"
            raise ProvisionError(code, message) from error

    async def _write_image(self, frames: TarFrames) -> int:
        """Receive in this task while a worker compresses what came before."""
        image = await to_thread.run_sync(NewImage, self.out, self.config)
        try:
            send, receive = anyio.create_memory_object_stream[bytes](_QUEUED_CHUNKS)
            totals: list[int] = []
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_compress, receive, image)
                async with send:
                    totals.append(await self._receive(frames, send))
            await to_thread.run_sync(image.commit)
            return totals[0]
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from group  # the other task was only cancelled by it
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(image.discard)

    async def _receive(self, frames: TarFrames, send: MemoryObjectSendStream[bytes]) -> int:
        total = 0
        chunk = bytearray()
        while data := await frames.receive(_CHUNK_BYTES):
            total += len(data)
            if total > self.options.scratch_disk_size_bytes:
                raise self._too_large()
            chunk += data
            if len(chunk) >= _CHUNK_BYTES:
                await send.send(bytes(chunk))
                chunk.clear()
                self._enter("archive", total)
        await send.send(bytes(chunk))
        return total

    def _too_large(self) -> ProvisionError:
        message = (
            f"the tree has more than the {self.options.scratch_disk_size_bytes} bytes of "
            "scratch_disk_size_bytes: pass more, or remove what the image does not need"
        )
        return ProvisionError(ErrorCode.PROVISION_DISK_TOO_SMALL, message)

    def _enter(self, stage: str, done_bytes: int = 0) -> None:
        self.stage = stage
        if self.options.on_progress is not None:
            self.options.on_progress(stage, done_bytes)

    def _log(self, event: LogEvent) -> None:
        """Keep the last that commands complained, and pass everything on."""
        if isinstance(event, ChunkLogEvent) and event.source == "exec-stderr":
            self._complaints += event.chunk
            del self._complaints[:-_TAIL_BYTES]
        if self.options.on_log is not None:
            self.options.on_log(event)


async def _read_console(vm: VmHandle) -> None:
    """Pass it to `on_log`; nobody else reads it, and a full pipe would hold the VM up."""
    async for _ in vm.stderr:
        pass


async def _compress(chunks: MemoryObjectReceiveStream[bytes], image: NewImage) -> None:
    async with chunks:
        async for chunk in chunks:
            await to_thread.run_sync(image.write, chunk)


def _path(value: StrPath | None) -> Path | None:
    return None if value is None else Path(value)
