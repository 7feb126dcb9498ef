"""Checked options → VmSpec → a live monitor and its registry entry.

A launch that fails or is cancelled at any moment leaves nothing behind: the monitor hangs on a
lifeline pipe and removes its own directories; what it could not remove is removed here.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import anyio

from machinen_runtime import paths
from machinen_runtime.ancestry import Ancestor
from machinen_runtime.bundle_mounts import LAZY_DIR
from machinen_runtime.debug import debug
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.gc import run_gc
from machinen_runtime.machines import confinement_wanted, give_back_wanted
from machinen_runtime.monitor_process import (
    KILL_AFTER_MS,
    ExitSource,
    MonitorLink,
    MonitorProcess,
    foreign_monitor,
    vmm_command,
)
from machinen_runtime.mounts import MountDisk, live_mount_specs
from machinen_runtime.option_types import LiveMount, PortForward
from machinen_runtime.overlay_template import ensure_overlay_template, overlay_size_bytes
from machinen_runtime.pids import signal_process, wait_process_gone
from machinen_runtime.registry import claim_name, register, release_name, transfer_name, unregister
from machinen_runtime.registry_entry import MAX_PID, MountDiskRecord, RegistryEntry
from vmm.cgroups import CgroupSpec, place_cgroups
from vmm.errors import VmmError
from vmm.limits import Limits
from vmm.requests import MOUNT_LOWER_FILE, MOUNT_UPPER_FILE, VSOCK_SOCKET
from vmm.spec import (
    DiskSpec,
    ForwardSpec,
    MachineSpec,
    RestoreSpec,
    VmSpec,
    WorkloadSpec,
)
from vmm.stats import STATS_FILE

DEFAULT_BOOT_TIMEOUT_MS = 120_000
TEMPLATE_TIMEOUT_MS = 30_000
"""A guest that is there already has this long to answer; then its kernel is booted instead."""
MAX_HOSTNAME_CHARS = 63
"""One label of a host name, RFC 1123."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchRequest:
    """One VM to start: what the machine is, what it starts from, who it shall be.

    `{pid}` in `name` becomes the monitor's pid. `disk_layers` are frozen overlays on `base_disk`,
    oldest first. `disk_size_bytes` is what the guest sees; None: as large as the newest layer, or
    as the base.
    """

    machine: MachineSpec
    qemu_binary: str
    passt_binary: str | None
    allow_hosts: Sequence[str] = ()
    name: str | None
    base_disk: Path
    disk_layers: Sequence[Path] = ()
    disk_size_bytes: int | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    restore: RestoreSpec | None = None
    workload: WorkloadSpec | None = None
    port_forward: Sequence[PortForward] = ()
    mount_disk: MountDisk | None = None
    live_mounts: Sequence[LiveMount] = ()
    live_state: Path | None = None
    """What a bundle kept of the files open in its live mounts."""
    lazy_pages_total: int | None = None
    owned_dirs: Sequence[Path] = ()
    """Directories that go with the VM. If launch() fails they are still there."""
    """Pages of memory that engine criu will read from a live mount."""
    detached: bool = False
    boot_timeout_ms: int = DEFAULT_BOOT_TIMEOUT_MS
    """How long the monitor waits for the guest's agent and workload."""
    with_stdio: bool = False
    """Connect the starter to session `main` and to the console."""
    dtb: Path | None = None
    extra_args: Sequence[str] = ()
    """More arguments for QEMU."""
    memory_is_preset: bool = False
    """The caller chose the memory behind our back, so the registry shows no ceiling."""
    vmm_command: Sequence[str] = ()
    vmm_env: Mapping[str, str] = field(default_factory=dict[str, str])
    image_path: str | None = None
    forked_from: str | None = None
    forked_from_name: str | None = None
    forked_from_pid: int | None = None
    ancestry: tuple[Ancestor, ...] = ()
    origin: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the guest booted from, kept for the bundles taken of it."""
    snapshottable: bool = True
    booted: Literal["cold", "warm"] | None = None
    """None: it goes on with another VM's life."""
    cold_reason: str | None = None
    """Why its kernel boots, though that could have been skipped."""
    note: str = ""
    """The first line of the console log."""
    is_fork: bool = False
    """The snapshot it starts from was taken for this alone."""
    limits: Limits = field(default_factory=Limits)
    """The most it may take of the host."""
    template_dir: Path | None = None
    """Where to keep a template of this VM, once its guest answers."""
    vm_id: str | None = None
    """That of the standby it becomes; None: a new one."""


class TemplateUnusableError(BootError):
    """The guest of a template did not come up: whoever chose the template knows another way."""


@dataclass(slots=True)
class Launched:
    """A monitor that said it is ready. Close `lifeline_fd` to end it, or write LET_GO first."""

    entry: RegistryEntry
    phases: dict[str, float]
    process: ExitSource | None
    """Who tells how the monitor ends, if it is not detached."""
    lifeline_fd: int | None = None
    console_fd: int | None = None
    """What the guest's console says, if `with_stdio`."""
    input_fd: int | None = None
    output_fd: int | None = None
    """Input and output of session `main`, if `with_stdio`."""
    template: dict[str, Any] | None = None
    """What the monitor said about the template it was asked for (vmm/template.py)."""


async def launch(request: LaunchRequest, monitor: MonitorLink | None = None) -> Launched:
    """Start a monitor (or use a waiting one) and wait until its guest answers.

    Raises:
        BootError: with the monitor's reason and the console's last lines; TemplateUnusableError if
            the fault may be that of a template.
        RegistryError: REGISTRY_NAME_IN_USE.
    """
    async with monitor or start_monitor(request) as monitor:
        try:
            return await _launch(request, monitor)
        except BootError as error:
            if _may_be_the_templates_fault(request, monitor, error):
                raise TemplateUnusableError(error.code, str(error)) from error
            raise


def _may_be_the_templates_fault(
    request: LaunchRequest, monitor: MonitorLink, error: BootError
) -> bool:
    """Whether another way to the same VM is worth a try; a caller's own limit is its own."""
    if request.restore is None or not request.restore.template:
        return False
    if error.code is ErrorCode.HOST_REFUSED:
        return False
    own_limit = request.boot_timeout_ms < TEMPLATE_TIMEOUT_MS
    if own_limit and error.code is ErrorCode.BOOT_TIMEOUT:
        return False
    return monitor.failed_before_the_agent_answered


async def _launch(request: LaunchRequest, monitor: MonitorLink) -> Launched:
    with ExitStack() as undo:
        reserved = _reserve_name(request.name, undo)
        spec = build_spec(request)
        for directory in (spec.run_dir, spec.state_dir):  # the monitor makes and removes them
            paths.ensure_private_dir(Path(directory).parent)
            undo.callback(paths.remove_tree, Path(directory))
        async with _monitor_ended_on_failure(monitor):
            await monitor.send_spec(spec)
            entry = await _register(request, spec, monitor, undo, reserved=reserved)
            ready = await monitor.next_event("ready")
        undo.pop_all()  # it lives: from here on its own monitor cleans up after it
    return _launched(request, monitor, entry, ready["phases"])


def start_monitor(request: LaunchRequest) -> MonitorProcess:
    """A monitor for `request`, not yet told which VM to run."""
    return MonitorProcess(
        command=request.vmm_command,
        env=request.vmm_env,
        detached=request.detached,
        with_stdio=request.with_stdio,
    )


async def _register(
    request: LaunchRequest,
    spec: VmSpec,
    monitor: MonitorLink,
    undo: ExitStack,
    *,
    reserved: bool,
) -> RegistryEntry:
    """Wait until the monitor says who it is, give it its name, write its entry."""
    match await monitor.next_event("started"):
        case {"pid": int(pid), "name": None | str() as name} if pid > 0:
            pass
        case _:
            raise foreign_monitor()
    if name:
        undo.callback(release_name, name, pid)
    if reserved and name:
        transfer_name(name, os.getpid(), pid)
    elif name:
        claim_name(name, pid)
    debug("launch", f"monitor {pid} runs VM {spec.id} ({name or 'no name'}) in {spec.state_dir}")
    entry = register(_entry(request, spec, pid, name))
    undo.callback(unregister, pid)
    return entry


def _launched(
    request: LaunchRequest, monitor: MonitorLink, entry: RegistryEntry, phases: dict[str, float]
) -> Launched:
    """Hand the pipes over; a detached VM is let go at once."""
    debug("launch", f"monitor {entry.pid} is ready")
    if request.detached:
        monitor.let_go()
        return Launched(entry, phases, None, template=monitor.template)
    pipes = monitor.hand_over()
    return Launched(
        entry,
        phases,
        monitor.exit_source,
        lifeline_fd=pipes["lifeline"],
        console_fd=pipes.get("console"),
        input_fd=pipes.get("input"),
        output_fd=pipes.get("output"),
        template=monitor.template,
    )


async def end_launched(launched: Launched) -> None:
    """End a VM that was launched but shall not be kept, and wait until it is gone."""
    for descriptor in (
        launched.lifeline_fd,
        launched.console_fd,
        launched.input_fd,
        launched.output_fd,
    ):
        if descriptor is not None:
            os.close(descriptor)
    pid = launched.entry.pid
    signal_process(pid, launched.entry, signal.SIGTERM)
    if not await wait_process_gone(pid, launched.entry, timeout_ms=KILL_AFTER_MS):
        signal_process(pid, launched.entry, signal.SIGKILL)
        await wait_process_gone(pid, launched.entry, timeout_ms=KILL_AFTER_MS)
    if launched.process is not None:
        launched.process.wait()
    run_gc(pid=pid)


@asynccontextmanager
async def ended_on_failure(launched: Launched) -> AsyncGenerator[None]:
    """Whatever goes wrong in the block, cancellation included, ends the VM first."""
    try:
        yield
    except BaseException:
        with anyio.CancelScope(shield=True):
            await end_launched(launched)
        raise


@asynccontextmanager
async def _monitor_ended_on_failure(monitor: MonitorLink) -> AsyncGenerator[None]:
    """Whatever goes wrong in the block, cancellation included, ends the monitor first."""
    try:
        yield
    except BaseException:
        with anyio.CancelScope(shield=True):
            await monitor.end()
        raise


def _reserve_name(name: str | None, undo: ExitStack) -> bool:
    """Claim a name that is known already before anything is started."""
    if name is None or "{pid}" in name:
        return False
    claim_name(name, os.getpid())
    undo.callback(release_name, name, os.getpid())
    return True


def build_spec(request: LaunchRequest) -> VmSpec:
    """What the monitor is told. Makes the empty overlay if there is none of its size yet.

    Raises:
        BootError: BOOT_OPTION_INVALID: its sockets' paths would be too long.
    """
    vm_id = request.vm_id or secrets.token_hex(4)
    run_dir = paths.runtime_root() / vm_id
    check_socket_path(run_dir / VSOCK_SOCKET)
    forwards = [
        ForwardSpec(
            host_port=forward.host_port,
            guest_port=forward.guest_port,
            host_addr=forward.host_addr,
        )
        for forward in request.port_forward
    ]
    return VmSpec(
        id=vm_id,
        name=request.name,
        hostname=hostname_for(request.name),
        run_dir=str(run_dir),
        state_dir=str(paths.state_root() / vm_id),
        qemu_binary=request.qemu_binary,
        kernel=str(request.kernel or ""),
        initrd=str(request.initrd or ""),
        machine=request.machine,
        disk=DiskSpec(
            base=str(request.base_disk),
            layers=[str(layer) for layer in request.disk_layers],
            overlay_template=_overlay_template(request),
        ),
        workload=request.workload,
        restore=request.restore,
        port_forward=forwards,
        mount_disk=request.mount_disk.to_spec() if request.mount_disk else None,
        live_mounts=live_mount_specs(request.live_mounts, request.live_state),
        lazy_pages_total=request.lazy_pages_total or 0,
        owned_dirs=[str(path) for path in request.owned_dirs],
        passt_binary=request.passt_binary,
        boot_timeout_ms=request.boot_timeout_ms,
        allow_hosts=list(request.allow_hosts),
        dtb=str(request.dtb) if request.dtb else None,
        extra_args=list(request.extra_args),
        origin=dict(request.origin),
        template_dir=str(request.template_dir) if request.template_dir else None,
        note=request.note,
        is_fork=request.is_fork,
        confine=confinement_wanted(),
        give_back=give_back_wanted(),
        limits=request.limits,
        cgroups=_cgroups(request.limits, vm_id),
        crash_dir=str(paths.crashes_root()),
    )


def _cgroups(limits: Limits, vm_id: str) -> list[CgroupSpec]:
    """The control groups that `limits` need, or BOOT_LIMIT_UNAVAILABLE."""
    if not limits.need_cgroup:
        return []
    try:
        return place_cgroups(limits, vm_id)
    except VmmError as error:
        raise BootError(ErrorCode.BOOT_LIMIT_UNAVAILABLE, str(error)) from error


def _overlay_template(request: LaunchRequest) -> str | None:
    if request.machine.root_in_ram:
        return None
    size = request.disk_size_bytes
    sizes = [overlay_size_bytes(layer) for layer in request.disk_layers]
    if size is None and sizes:
        size = sizes[-1]
    return str(ensure_overlay_template(request.base_disk, size))


def _entry(request: LaunchRequest, spec: VmSpec, pid: int, name: str | None) -> RegistryEntry:
    return RegistryEntry(
        pid=pid,
        name=name,
        socket_path=str(Path(spec.run_dir, VSOCK_SOCKET)),
        started_at=time.time_ns() // 1_000_000,
        image_path=request.image_path,
        disk_path=spec.disk.base if request.snapshottable else None,
        forked_from=request.forked_from,
        forked_from_name=request.forked_from_name,
        forked_from_pid=request.forked_from_pid,
        ancestry=request.ancestry,
        cleanup_paths=(spec.run_dir, spec.state_dir, *spec.owned_dirs),
        vmm_exe=vmm_command(request.vmm_command)[0],
        port_forward=tuple(request.port_forward),
        memory_ceiling_mib=None if request.memory_is_preset else request.machine.memory_mib,
        stats_path=str(Path(spec.state_dir, STATS_FILE)),
        mount_disk=_mount_record(spec),
        live_mounts=tuple(request.live_mounts),
        lazy_pages_total=request.lazy_pages_total,
        lazy_pages_mount_root=_lazy_root(request),
        booted=request.booted,
        cold_reason=request.cold_reason,
        limits=spec.limits if spec.limits.to_object() else None,
        cgroups=tuple(group.path for group in spec.cgroups),
    )


def _lazy_root(request: LaunchRequest) -> str | None:
    """The host directory that engine criu reads memory from, if it does."""
    if request.lazy_pages_total is None:
        return None
    return next((str(each.host) for each in request.live_mounts if each.guest == LAZY_DIR), None)


def _mount_record(spec: VmSpec) -> MountDiskRecord | None:
    """The mount's squashfs and the base below this VM's writes, where its monitor links them."""
    if spec.mount_disk is None:
        return None
    return MountDiskRecord(
        guest=spec.mount_disk.guest,
        lower_path=str(Path(spec.state_dir, MOUNT_LOWER_FILE)),
        upper_path=str(Path(spec.state_dir, MOUNT_UPPER_FILE)),
    )


def hostname_for(name: str | None) -> str:
    """The guest's hostname: the VM's name with what a hostname may not have turned into dashes."""
    if name is None:
        return "vm-{pid}"
    parts = [re.sub(r"[^A-Za-z0-9]+", "-", part) for part in name.split("{pid}")]
    cleaned = "{pid}".join(parts).strip("-")
    if len(cleaned.replace("{pid}", str(MAX_PID))) > MAX_HOSTNAME_CHARS:
        cleaned = parts[0].strip("-")[:MAX_HOSTNAME_CHARS].rstrip("-")
    return cleaned or "vm-{pid}"


def check_socket_path(path: Path) -> None:
    """BOOT_OPTION_INVALID if the kernel would refuse a socket there."""
    if len(os.fsencode(path)) > paths.MAX_SOCKET_PATH_BYTES:
        raise BootError(
            ErrorCode.BOOT_OPTION_INVALID,
            f"the socket path {path} is longer than {paths.MAX_SOCKET_PATH_BYTES} bytes; "
            "set MACHINEN_RUNTIME_DIR to a shorter directory",
        )
