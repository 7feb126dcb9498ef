"""Restore a bundle of engine `criu`: boot its image cold, put the images in, let CRIU go on.

The new VM's workload is machinen-restore (guest/tool_restore.c). It waits for a line on one FIFO,
which we write when the images are there, and says on another how it went. A lazy restore puts
nothing in: the images are a live mount, and CRIU's page server reads from them what is touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio import to_thread
from anyio.streams.file import FileReadStream

from machinen_runtime.assets import (
    resolve_base_kernel,
    resolve_modules_dir,
    resolve_mount_modules_dir,
)
from machinen_runtime.base_disks import missing_base_disk
from machinen_runtime.bundle import SnapshotMeta
from machinen_runtime.bundle_mounts import LAZY_DIR
from machinen_runtime.channel_exec import VsockExec, VsockExecOptions
from machinen_runtime.channel_files import VsockFiles
from machinen_runtime.errors import BootError, ErrorCode, ExecError, FilesError, ProvisionError
from machinen_runtime.initramfs import ensure_initramfs
from machinen_runtime.launch import Launched, LaunchRequest, ended_on_failure
from machinen_runtime.monitor_process import MonitorLink
from machinen_runtime.option_types import LiveMount
from machinen_runtime.root_disk import prepare_root_disk, resolve_image
from vmm.spec import WorkloadSpec

RESTORE_TOOL = "/run/machinen/bin/machinen-restore"
MEMORY_DIR = "/run/machinen/restore"
DISK_DIR = "/var/tmp/machinen-restore"
PAGE_BYTES = 4096
IN_MEMORY_PART = 4
"""Images of at most this part of the guest's memory go to its tmpfs, larger ones to its disk."""
STATUS_TIMEOUT_MS = 120_000
_NO_IMAGE = (ErrorCode.BOOT_IMAGE_NOT_FOUND, ErrorCode.PROVISION_BASE_NOT_FOUND)
_GO = "/run/machinen/restore.go"
_STATUS = "/run/machinen/restore.status"


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """CRIU's images on the host: a directory or a tar of one; and where they go in the guest."""

    source: Path
    guest_dir: str
    lazy: bool = False
    """They stay on the host and are read through a live mount."""

    @classmethod
    def of(cls, source: Path, memory_mib: int) -> Images:
        """Images at `source`, placed where a guest with that much memory has room for them."""
        paths = list(source.iterdir()) if source.is_dir() else [source]
        size_bytes = sum(path.stat().st_size for path in paths)
        fits = size_bytes * IN_MEMORY_PART <= memory_mib << 20
        return cls(source=source, guest_dir=MEMORY_DIR if fits else DISK_DIR)

    @classmethod
    def shown(cls, source: Path) -> Images:
        """Images that stay in the directory `source`, for a lazy restore."""
        return cls(source=source, guest_dir=LAZY_DIR, lazy=True)

    @property
    def live_mounts(self) -> tuple[LiveMount, ...]:
        """The mount that shows them; none if they are put in."""
        if not self.lazy:
            return ()
        return (LiveMount(host=self.source, guest=LAZY_DIR, mode="ro"),)

    @property
    def lazy_pages_total(self) -> int | None:
        """Pages of memory a lazy restore leaves in `source` at first; None if it is not lazy."""
        if not self.lazy:
            return None
        return sum(path.stat().st_size for path in self.source.glob("pages-*.img")) // PAGE_BYTES

    def workload(self) -> WorkloadSpec:
        """The workload that waits for the images and goes on with them."""
        lazy = ["--lazy"] if self.lazy else []
        return WorkloadSpec(cmd=[RESTORE_TOOL, "--wait", *lazy, self.guest_dir])

    def workload_before(self, cmd: Sequence[str]) -> WorkloadSpec:
        """The caller's own command, started when the images are there."""
        return WorkloadSpec(cmd=["/bin/sh", "-c", f'read _ <{_GO}; exec "$@"', "sh", *cmd])


async def prepare_disk(
    bundle: Path, meta: SnapshotMeta, base: Path | None, image: Path | None
) -> Path:
    """The base disk to boot: `image` if given, else the bundle's own, else from its image's path.

    CRIU compares the files a tree has mapped itself, so a disk that is not byte-exact may do.

    Raises:
        BootError: BOOT_IMAGE_NOT_FOUND, which names the disk that would fit byte for byte.
        ProvisionError: those of ensure_rootfs_image().
    """

    def prepare() -> Path:
        if image is None and base is not None:
            return base
        source = meta.source_image
        wanted = image if image is not None else Path(source) if source else None
        try:
            return prepare_root_disk(resolve_image(wanted)).base
        except (BootError, ProvisionError) as error:
            if image is not None or error.code not in _NO_IMAGE:
                raise
            recorded, content = Path(meta.base_disk), meta.base_disk_sum
            exact = missing_base_disk(bundle, recorded, meta.base_disk_bytes, content, source)
            advice = "or pass image=… (--image) with the tarball the sandbox was booted from"
            raise BootError(exact.code, f"{exact}, {advice}") from error

    return await to_thread.run_sync(prepare)


async def boot_assets(kernel: Path | None, *, overlays: bool) -> tuple[Path, Path]:
    """The kernel and initramfs for a cold boot; `overlays`: it lays file systems over others."""

    def find() -> tuple[Path, Path]:
        modules = resolve_modules_dir()
        overlay = resolve_mount_modules_dir() if overlays else None
        return resolve_base_kernel(kernel), ensure_initramfs(modules.parent, modules, overlay)

    return await to_thread.run_sync(find)


async def launch_with_images(
    request: LaunchRequest, images: Images, monitor: MonitorLink | None, *, restores: bool
) -> Launched:
    """Launch the VM and hand it the images; if they cannot be restored, it ends again.

    Raises:
        BootError: BOOT_SNAPSHOT_INVALID with what CRIU said, and those of launch().
    """
    from machinen_runtime.launch import launch

    launched = await launch(request, monitor)
    async with ended_on_failure(launched):
        vsock_path = Path(launched.entry.socket_path)
        started = anyio.current_time()
        if not images.lazy:
            await _put_in(vsock_path, images)
        launched.phases["images"] = (anyio.current_time() - started) * 1000
        started = anyio.current_time()
        await _let_go_on(vsock_path, restores=restores)
        launched.phases["criu"] = (anyio.current_time() - started) * 1000
    return launched


async def _put_in(vsock_path: Path, images: Images) -> None:
    try:
        if images.source.is_dir():
            await VsockFiles.push(vsock_path, images.source, images.guest_dir)
            return
        command = f"mkdir -p {images.guest_dir} && tar -xf - -C {images.guest_dir}"
        async with await FileReadStream.from_path(images.source) as archive:
            options = VsockExecOptions(stdin=archive, exec_timeout_ms=None)
            result = await VsockExec.run(vsock_path, command, options)
    except (FilesError, ExecError) as error:
        raise _invalid(f"the images cannot be put into the guest: {error}") from error
    if result.exit_code != 0:
        raise _invalid(f"{images.source} is no tar of CRIU images: {result.stderr.strip()}")


async def _let_go_on(vsock_path: Path, *, restores: bool) -> None:
    wait = f" && cat {_STATUS}" if restores else ""
    options = VsockExecOptions(exec_timeout_ms=STATUS_TIMEOUT_MS)
    try:
        result = await VsockExec.run(vsock_path, f"echo go >{_GO}{wait}", options)
    except ExecError as error:
        raise _invalid(f"the guest did not say that it goes on: {error}") from error
    if restores and result.stdout != "ok\n":
        said = result.stdout.removeprefix("failed\n") or result.stderr
        printable = "".join(char for char in said if char.isprintable() or char == "\n")
        raise _invalid(printable.strip() or "the guest gave up without a word")


def _invalid(message: str) -> BootError:
    return BootError(ErrorCode.BOOT_SNAPSHOT_INVALID, message)
