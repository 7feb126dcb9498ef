"""Launch a VM from a snapshot bundle: what restore() and fork() share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from machinen_runtime.bundle import VM_DIR, read_bundle
from machinen_runtime.errors import BootError, ErrorCode, RegistryError
from machinen_runtime.launch import Launched, LaunchRequest, launch
from machinen_runtime.log_events import OnLog, PhaseLogEvent
from machinen_runtime.machines import resolve_passt, resolve_qemu_binary
from machinen_runtime.monitor_process import MonitorProcess
from machinen_runtime.mounts import override_live_mounts, resolve_live_mounts
from machinen_runtime.network_option import NetworkOption, restored_network
from machinen_runtime.option_types import LiveMount, PortForward
from machinen_runtime.options import ForkOptions, LaunchOptions
from machinen_runtime.registry import find
from machinen_runtime.vmm_binary import resolve_vmm_command
from vmm.spec import RestoreSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class BundleLaunch:
    """Which bundle, and what may differ from the machine in it."""

    bundle: Path
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

    @classmethod
    def from_options(cls, bundle: Path, options: LaunchOptions) -> BundleLaunch:
        """The launch that `options` ask for.

        Raises:
            BootError: BOOT_OPTION_INVALID for what a running machine cannot change.
        """
        _refuse_what_cannot_change(options)
        return cls(
            bundle=bundle.absolute(),
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
        )


def start_spare(wanted: BundleLaunch) -> MonitorProcess:
    """A monitor that waits for a bundle which is still being written."""
    return MonitorProcess(
        command=wanted.vmm_command,
        env=wanted.vmm_env,
        detached=wanted.detached,
        with_stdio=not wanted.detached,
    )


async def launch_bundle(wanted: BundleLaunch, monitor: MonitorProcess | None = None) -> Launched:
    """Start a monitor on the bundle, or use a waiting one, and wait until the guest answers.

    Raises:
        BootError: BOOT_SNAPSHOT_NOT_FOUND, BOOT_SNAPSHOT_INVALID, BOOT_IMAGE_NOT_FOUND,
            BOOT_MOUNT_HOST_NOT_FOUND, BOOT_LIVE_MOUNT_OVERRIDE_UNKNOWN, VM_DIED.
        RegistryError: REGISTRY_NAME_IN_USE.
    """
    meta = read_bundle(wanted.bundle)
    network, allow_hosts = restored_network(wanted.network, meta.machine.network, meta.allow_hosts)
    files = wanted.bundle / VM_DIR
    recorded = meta.live_mounts
    live_mounts = override_live_mounts(
        None if recorded is None else [each.to_option() for each in recorded], wanted.live_mounts
    )
    launched = await launch(
        LaunchRequest(
            machine=replace(meta.machine, network=network),
            allow_hosts=allow_hosts,
            qemu_binary=resolve_qemu_binary(),
            passt_binary=resolve_passt(),
            name=wanted.name or automatic_name(meta.source_name),
            base_disk=Path(meta.base_disk),
            disk_layers=[files / layer for layer in meta.layers],
            restore=RestoreSpec(
                state=str(files / meta.state),
                ram_image=str(files / meta.ram_image),
                tcp_keep=wanted.tcp_keep,
            ),
            port_forward=wanted.port_forward,
            mount_disk=meta.mount_disk.to_disk(wanted.bundle, files) if meta.mount_disk else None,
            live_mounts=live_mounts,
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
        ),
        monitor,
    )
    if wanted.on_log is not None:
        total_ms = sum(launched.phases.values())
        event = PhaseLogEvent(kind="restore", phases=launched.phases, total_ms=total_ms)
        wanted.on_log(event)
    return launched


def automatic_name(source_name: str | None) -> str | None:
    """`<source>/<pid>`; while a live VM holds the source's name there is no room below it: `~`."""
    if source_name is None:
        return None
    try:
        find(name=source_name)
    except RegistryError:
        return source_name + "/{pid}"
    return source_name + "~{pid}"


def _refuse_what_cannot_change(options: LaunchOptions) -> None:
    fixed = {
        "env": bool(options.env),
        "guest_cwd": options.guest_cwd is not None,
        "memory": options.memory is not None,
        "mount": options.mount is not None,
        "root_disk": options.root_disk is not None,
        "kernel": options.kernel is not None,
        "dtb": options.dtb is not None,
    }
    asked = [name for name, is_asked in fixed.items() if is_asked]
    if asked:
        raise BootError(
            ErrorCode.BOOT_OPTION_INVALID,
            f"{', '.join(asked)} cannot change in a machine that runs already: "
            "leave it out, or boot a new VM",
        )
