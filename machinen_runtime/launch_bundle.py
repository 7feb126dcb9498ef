"""Launch a VM from a snapshot bundle: what restore() and fork() share, whatever the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from anyio import to_thread

from machinen_runtime.ancestry import Ancestor, with_ancestor
from machinen_runtime.bundle import IMG_DIR, VM_DIR, SnapshotMeta
from machinen_runtime.bundle_check import open_bundle
from machinen_runtime.content_sum import boot_origin
from machinen_runtime.errors import BootError, ErrorCode, RegistryError
from machinen_runtime.host_refusals import host_refusals
from machinen_runtime.launch import Launched, LaunchRequest, launch
from machinen_runtime.log_events import OnLog, PhaseLogEvent
from machinen_runtime.machines import machine_for, resolve_passt, resolve_qemu_binary
from machinen_runtime.monitor_process import MonitorLink, MonitorProcess
from machinen_runtime.mounts import MountDisk, override_live_mounts, resolve_live_mounts
from machinen_runtime.network_option import NetworkOption, booted_network, restored_network
from machinen_runtime.option_types import LiveMount, PortForward, StrPath, placed
from machinen_runtime.options import ForkOptions, LaunchOptions, RestoreOptions, SnapshotEngine
from machinen_runtime.registry import find
from machinen_runtime.vmm_binary import resolve_vmm_command
from vmm.limits import Limits, limits_from_object
from vmm.spec import RestoreSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleLaunch:
    """Which bundle, and what may differ from what is in it."""

    bundle: Path
    options: LaunchOptions
    name: str | None = None
    detached: bool = False
    port_forward: Sequence[PortForward] = ()
    network: NetworkOption | None = None
    tcp_keep: bool = False
    extra_args: Sequence[str] = ()
    live_mounts: Sequence[LiveMount] = ()
    """Where live mounts of the bundle shall lead instead, by guest path."""
    vmm_command: Sequence[str] = ()
    vmm_env: dict[str, str] = field(default_factory=dict[str, str])
    on_log: OnLog | None = None
    lazy: bool | None = None
    image: Path | None = None
    trusted: bool = False
    """This process wrote the bundle a moment ago: nothing in it is hashed."""
    goes_with_vm: bool = False
    """The bundle is removed when the VM ends. If the launch fails it is still there."""

    @classmethod
    def from_options(cls, bundle: Path, options: RestoreOptions | ForkOptions) -> BundleLaunch:
        """The launch that `options` ask for.

        Raises:
            BootError: BOOT_OPTION_INVALID for what no engine can change.
        """
        wanted = cls(
            bundle=bundle.absolute(),
            options=options,
            name=options.name,
            detached=options.detached or not options.pdeathsig,
            port_forward=options.port_forward,
            network=options.network,
            tcp_keep=isinstance(options, ForkOptions) and options.tcp_keep,
            extra_args=options.args,
            live_mounts=resolve_live_mounts(options.live_mounts, options.cwd),
            vmm_command=resolve_vmm_command(options.binary, options.cwd),
            vmm_env=dict(options.vmm_env),
            on_log=options.on_log,
            lazy=options.lazy,
            image=_path(options.image, options.cwd),
        )
        wanted.refuse_what_cannot_change(None)
        return wanted

    def refuse_what_cannot_change(self, engine: SnapshotEngine | str | None) -> None:
        """BOOT_OPTION_INVALID if an option asks for what a snapshot of this engine has fixed.

        None: of any engine.
        """
        options = self.options
        fixed = {
            "env": bool(options.env),
            "guest_cwd": options.guest_cwd is not None,
            "mount": options.mount is not None,
            "root_disk": options.root_disk is not None,
            "dtb": options.dtb is not None,
        }
        if engine == "vmstate":
            fixed["memory"] = options.memory is not None
            fixed["kernel"] = options.kernel is not None
            fixed["image"] = self.image is not None
        asked = [name for name, is_asked in fixed.items() if is_asked]
        if asked:
            which = f" (engine {engine})" if engine else ""
            raise BootError(
                ErrorCode.BOOT_OPTION_INVALID,
                f"{', '.join(asked)} cannot change in what runs already{which}: "
                "leave it out, or boot a new VM",
            )


def start_spare(wanted: BundleLaunch) -> MonitorProcess:
    """A monitor that waits for a bundle which is still being written."""
    return MonitorProcess(
        command=wanted.vmm_command,
        env=wanted.vmm_env,
        detached=wanted.detached,
        with_stdio=not wanted.detached,
    )


@host_refusals(BootError, "the VM cannot be restored")
async def launch_bundle(wanted: BundleLaunch, monitor: MonitorLink | None = None) -> Launched:
    """Start a monitor on the bundle, or use a waiting one, and wait until the guest answers.

    Raises:
        BootError: BOOT_SNAPSHOT_NOT_FOUND, BOOT_SNAPSHOT_INVALID, BOOT_IMAGE_NOT_FOUND,
            BOOT_MOUNT_HOST_NOT_FOUND, BOOT_LIVE_MOUNT_OVERRIDE_UNKNOWN, BOOT_OPTION_INVALID,
            VM_DIED.
        RegistryError: REGISTRY_NAME_IN_USE.
    """
    opening = partial(open_bundle, wanted.bundle, trusted=wanted.trusted)
    meta, base = await to_thread.run_sync(opening)
    wanted.refuse_what_cannot_change(meta.engine)
    if meta.engine == "criu":
        launched = await _launch_tree(wanted, meta, base, monitor)
    else:
        launched = await launch(_machine_request(wanted, meta, base), monitor)
    if wanted.on_log is not None:
        total_ms = sum(launched.phases.values())
        event = PhaseLogEvent(kind="restore", phases=launched.phases, total_ms=total_ms)
        wanted.on_log(event)
    return launched


def _machine_request(wanted: BundleLaunch, meta: SnapshotMeta, base: Path | None) -> LaunchRequest:
    """Engine vmstate: the very machine goes on."""
    files = wanted.bundle / VM_DIR
    network, allow_hosts = restored_network(wanted.network, meta.machine.network, meta.allow_hosts)
    return LaunchRequest(
        machine=replace(meta.machine, network=network),
        allow_hosts=allow_hosts,
        qemu_binary=resolve_qemu_binary(),
        passt_binary=resolve_passt(),
        name=wanted.name or automatic_name(meta.source_name),
        base_disk=base or Path(meta.base_disk),
        disk_layers=[files / layer for layer in meta.layers],
        restore=RestoreSpec(
            state=str(files / meta.state),
            ram_image=str(files / meta.ram_image),
            tcp_keep=wanted.tcp_keep,
            lazy=wanted.lazy is not False,
        ),
        origin=meta.origin,
        is_fork=isinstance(wanted.options, ForkOptions),
        port_forward=wanted.port_forward,
        mount_disk=_mount_disk(wanted, meta),
        live_mounts=_live_mounts(wanted, meta),
        live_state=files / meta.live_state if meta.live_state else None,
        detached=wanted.detached,
        with_stdio=not wanted.detached,
        extra_args=wanted.extra_args,
        vmm_command=wanted.vmm_command,
        vmm_env=wanted.vmm_env,
        image_path=meta.source_image,
        forked_from=str(wanted.bundle),
        forked_from_name=meta.source_name,
        forked_from_pid=meta.source_pid,
        ancestry=_ancestry(wanted, meta),
        limits=(wanted.options.limits or Limits()).over(limits_from_object(meta.limits)),
    )


async def _launch_tree(
    wanted: BundleLaunch, meta: SnapshotMeta, base: Path | None, monitor: MonitorLink | None
) -> Launched:
    """Engine criu: a machine of its own, booted cold, in which the process tree goes on."""
    from machinen_runtime.restore_criu import (
        Images,
        boot_assets,
        launch_with_images,
        prepare_disk,
    )

    memory_mib = wanted.options.memory or meta.machine.memory_mib
    disk = await prepare_disk(wanted.bundle, meta, base, wanted.image)
    has_mount, root_in_ram = meta.mount_disk is not None, meta.machine.root_in_ram
    kernel, initrd = await boot_assets(
        _path(wanted.options.kernel, wanted.options.cwd), overlays=has_mount or root_in_ram
    )
    source = wanted.bundle / IMG_DIR
    images = Images.shown(source) if wanted.lazy else Images.of(source, memory_mib)
    image = str(wanted.image.absolute()) if wanted.image else meta.source_image
    network, allow_hosts = meta.machine.network, meta.allow_hosts
    if wanted.network is not None:
        network, allow_hosts = booted_network(wanted.network)
    machine = machine_for(memory_mib=memory_mib, cpus=meta.machine.cpus, network=network)
    request = LaunchRequest(
        machine=replace(machine, root_in_ram=root_in_ram, mount_disk=has_mount),
        mount_disk=_mount_disk(wanted, meta),
        allow_hosts=allow_hosts,
        qemu_binary=resolve_qemu_binary(),
        passt_binary=resolve_passt(),
        name=wanted.name or automatic_name(meta.source_name),
        base_disk=disk,
        disk_size_bytes=wanted.options.root_disk_size_bytes,
        kernel=kernel,
        initrd=initrd,
        origin=await to_thread.run_sync(boot_origin, kernel, initrd),
        workload=images.workload(),
        port_forward=wanted.port_forward,
        live_mounts=(*_live_mounts(wanted, meta), *images.live_mounts),
        lazy_pages_total=images.lazy_pages_total,
        owned_dirs=[wanted.bundle] if wanted.goes_with_vm else [],
        detached=wanted.detached,
        with_stdio=not wanted.detached,
        extra_args=wanted.extra_args,
        vmm_command=wanted.vmm_command,
        vmm_env=wanted.vmm_env,
        image_path=image,
        forked_from=str(wanted.bundle),
        forked_from_name=meta.source_name,
        forked_from_pid=meta.source_pid,
        ancestry=_ancestry(wanted, meta),
        limits=(wanted.options.limits or Limits()).over(limits_from_object(meta.limits)),
    )
    return await launch_with_images(request, images, monitor, restores=True)


def _ancestry(wanted: BundleLaunch, meta: SnapshotMeta) -> tuple[Ancestor, ...]:
    """The source's ancestors and the source; none that a bundle of an earlier version lacks."""
    if meta.source_pid is None or meta.source_started_at is None:
        return meta.ancestry
    parent = Ancestor(
        pid=meta.source_pid,
        started_at=meta.source_started_at,
        name=meta.source_name,
        left_at=meta.snapped_at,
        snapshot=str(wanted.bundle) if meta.sums else None,  # else it goes with the fork
    )
    return with_ancestor(meta.ancestry, parent)


def _mount_disk(wanted: BundleLaunch, meta: SnapshotMeta) -> MountDisk | None:
    if meta.mount_disk is None:
        return None
    return meta.mount_disk.to_disk(wanted.bundle, wanted.bundle / VM_DIR)


def _live_mounts(wanted: BundleLaunch, meta: SnapshotMeta) -> Sequence[LiveMount]:
    """The live mounts the bundle speaks of, led elsewhere where the caller says so."""
    recorded = meta.live_mounts
    return override_live_mounts(
        None if recorded is None else [each.to_option() for each in recorded], wanted.live_mounts
    )


def automatic_name(source_name: str | None) -> str | None:
    """`<source>/<pid>`; while a live VM holds the source's name there is no room below it: `~`."""
    if source_name is None:
        return None
    try:
        find(name=source_name)
    except RegistryError:
        return source_name + "/{pid}"
    return source_name + "~{pid}"


def _path(value: StrPath | None, cwd: StrPath | None) -> Path | None:
    return None if value is None else placed(value, cwd)
