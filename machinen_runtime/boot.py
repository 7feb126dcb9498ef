"""boot(): a new VM from the base root or an image, wrapped in a handle."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from anyio import to_thread

from machinen_runtime.assets import (
    resolve_base_kernel,
    resolve_modules_dir,
    resolve_mount_modules_dir,
)
from machinen_runtime.boot_checks import checked_boot_options, memory_of
from machinen_runtime.content_sum import boot_origin
from machinen_runtime.detached_boot import launch_detached
from machinen_runtime.errors import BootError
from machinen_runtime.handle import VmHandle
from machinen_runtime.host_refusals import host_refusals
from machinen_runtime.image_config import ImageConfig, read_image_config
from machinen_runtime.initramfs import ensure_initramfs
from machinen_runtime.launch import Launched, LaunchRequest, launch
from machinen_runtime.log_events import PhaseTimer
from machinen_runtime.machines import machine_for, resolve_passt, resolve_qemu_binary
from machinen_runtime.memory_queue import memory_turn
from machinen_runtime.mounts import prepare_mount_disk, resolve_live_mounts
from machinen_runtime.network_option import booted_network
from machinen_runtime.option_types import StrPath, placed
from machinen_runtime.options import BootOptions, auto_size_memory_mib
from machinen_runtime.root_disk import RootDisk, prepare_root_disk, resolve_image
from machinen_runtime.vmm_binary import resolve_vmm_command
from machinen_runtime.warm import launch_cold, launch_warm
from vmm.limits import Limits
from vmm.spec import WorkloadSpec


@host_refusals(BootError, "the VM cannot be started")
async def boot(**options: Any) -> VmHandle:
    """Boot a VM and return when its agent answers and its workload runs.

    Keywords are the fields of `BootOptions`. Without `image` the base root is booted; without `cmd`
    the image's own command runs, or root's login shell, in session `main`. The VM ends with this
    process unless `detached`.

    Raises:
        BootError: for a bad option, before anything is started: BOOT_PORT_FORWARD_INVALID,
            BOOT_PORT_FORWARD_CONFLICT, BOOT_PORT_FORWARD_IN_USE, BOOT_VMM_MISSING,
            BOOT_VMM_PACKAGE_BROKEN, BOOT_MEMORY_INVALID, BOOT_SNAPSHOT_NOT_FOUND,
            BOOT_CMD_WITHOUT_IMAGE, BOOT_KERNEL_NOT_FOUND, BOOT_DTB_NOT_FOUND, BOOT_CWD_INVALID,
            BOOT_IMAGE_NOT_FOUND, BOOT_CMD_MISSING, BOOT_MOUNT_INVALID, BOOT_MOUNT_HOST_NOT_FOUND,
            BOOT_OPTION_INVALID, BOOT_SNAPSHOT_INVALID; then BOOT_PACK_FAILED; and why the guest
            did not come up: BOOT_TIMEOUT, BOOT_CMD_FAILED, VM_DIED;
            with `wait_for_memory_ms` FORK_MEMORY_BACKPRESSURE (retryable);
            for a detached VM BOOT_DETACHED_READINESS_FAILED, which names its boot log.
        ProvisionError: an asset is missing: PROVISION_BASE_NOT_FOUND, PROVISION_KERNEL_NOT_FOUND.
        RegistryError: REGISTRY_NAME_IN_USE, REGISTRY_NAME_INVALID.
    """
    chosen = await to_thread.run_sync(checked_boot_options, options)
    timer = PhaseTimer("boot")
    images = await to_thread.run_sync(_resolve_images, chosen)
    request = await to_thread.run_sync(prepare_boot, chosen, timer)
    async with memory_turn(chosen):
        launched = await _launch(chosen, request, images)
    for name, elapsed_ms in launched.phases.items():
        timer.mark(f"monitor.{name}", elapsed_ms)
    timer.flush(chosen.on_log)
    return VmHandle(launched, timeout_ms=chosen.timeout_ms, on_log=chosen.on_log)


def _resolve_images(options: BootOptions) -> Path | None:
    """The images to go on with, checked; None: there are none."""
    if not options.snapshot:
        return None
    from machinen_runtime.bundle_check import resolve_images

    return resolve_images(placed(options.snapshot, options.cwd))


async def _launch(options: BootOptions, request: LaunchRequest, source: Path | None) -> Launched:
    """Launch the VM; one that goes on with CRIU images is handed them first."""
    if source is not None:
        from machinen_runtime.restore_criu import Images, launch_with_images

        images = Images.of(source, request.machine.memory_mib)
        before = images.workload() if options.cmd is None else images.workload_before(options.cmd)
        reason = "it goes on with CRIU images"
        request = replace(
            request,
            workload=before,
            forked_from=str(placed(options.snapshot or "", options.cwd)),
            booted="cold",
            cold_reason=reason,
            note=f"cold boot: {reason}",
        )
        return await launch_with_images(request, images, None, restores=options.cmd is None)
    start = partial(launch_detached, timeout_ms=options.timeout_ms) if request.detached else launch
    if options.warm:
        return await launch_warm(request, start)
    return await launch_cold(request, start, "it was asked for")


def prepare_boot(options: BootOptions, timer: PhaseTimer) -> LaunchRequest:
    """Find or make everything a monitor needs; may take long the first time an image is seen.

    Blocks: for a worker thread. Raises what `boot()` raises before it starts anything.
    """
    network, allow_hosts = booted_network(options.network)
    with timer.phase("asset-resolve"):
        preset_mib = memory_of(options)
        qemu = resolve_qemu_binary()
        kernel = resolve_base_kernel(_path(options.kernel, options.cwd))
        machine = machine_for(
            memory_mib=preset_mib or options.memory or auto_size_memory_mib(),
            cpus=options.cpus,
            network=network,
        )
        live_mounts = resolve_live_mounts(options.live_mounts, options.cwd)
    with timer.phase("disk-prep"):
        disk, workload = _disk_and_workload(options, timer)
        mount_disk = prepare_mount_disk(
            options.mount,
            options.mount_disk_upper_size_bytes,
            options.cwd,
            on_phase=lambda name, elapsed_ms: timer.mark(f"disk-prep.{name}", elapsed_ms),
        )
    with timer.phase("initramfs-pack"):
        modules = resolve_modules_dir()
        root_in_ram = options.root_disk is False
        mount_modules = resolve_mount_modules_dir() if mount_disk or root_in_ram else None
        initramfs = ensure_initramfs(modules.parent, modules, mount_modules)
    return LaunchRequest(
        machine=replace(machine, mount_disk=mount_disk is not None, root_in_ram=root_in_ram),
        qemu_binary=qemu,
        passt_binary=resolve_passt(),
        allow_hosts=allow_hosts,
        name=options.name,
        base_disk=disk.base,
        disk_size_bytes=disk.size_bytes,
        kernel=kernel,
        initrd=initramfs,
        dtb=_path(options.dtb, options.cwd),
        extra_args=options.args,
        memory_is_preset=preset_mib is not None,
        workload=workload,
        port_forward=options.port_forward,
        mount_disk=mount_disk,
        live_mounts=live_mounts,
        detached=options.detached or not options.pdeathsig,
        with_stdio=not options.detached,
        vmm_command=resolve_vmm_command(options.binary, options.cwd),
        vmm_env=options.vmm_env,
        image_path=str(_path(options.image, options.cwd)) if options.image else None,
        forked_from=options.forked_from,
        origin=boot_origin(kernel, initramfs),
        snapshottable=options.snapshot is not False,
        limits=(options.limits or Limits()).over(None),
    )


def _disk_and_workload(options: BootOptions, timer: PhaseTimer) -> tuple[RootDisk, WorkloadSpec]:
    """The root disk, and what runs on it: what the caller says goes before what the image says."""
    image = resolve_image(options.image, options.cwd)
    disk = prepare_root_disk(
        image,
        root_disk=options.root_disk,
        size_bytes=options.root_disk_size_bytes,
        cwd=options.cwd,
        on_phase=lambda name, elapsed_ms: timer.mark(f"disk-prep.{name}", elapsed_ms),
    )
    config = (read_image_config(image) if image else None) or ImageConfig()
    env = {**config.env, **options.env}
    if options.name is not None:
        env.setdefault("MACHINEN_VM_NAME", options.name)
    cmd = list(options.cmd or config.cmd or [])
    return disk, WorkloadSpec(
        cmd=cmd, env=env, cwd=options.guest_cwd or config.cwd, user=config.user
    )


def _path(value: StrPath | None, cwd: StrPath | None = None) -> Path | None:
    return None if value is None else placed(value, cwd)
