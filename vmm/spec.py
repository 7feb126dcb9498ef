"""What the runtime asks a monitor for at start: one JSON text, on its standard input.

The spec says everything about one VM: a monitor looks nothing up. Paths are absolute. It holds the
workload's environment, which may be secret, so it is in no file and no argument.
"""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass, field
from typing import Any, Literal

from vmm.cgroups import CgroupSpec
from vmm.errors import VmmError
from vmm.limits import Limits

Network = Literal["full", "none", "allowlist"]
"""A card on passt; nothing; nothing but the monitor's web proxy."""
KEPT_VARIABLES = frozenset({"PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH"})
"""What QEMU finds of the user's environment (vmm/confine.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskSpec:
    """The root disk: layers from the oldest to the newest, and the overlay made for this VM.

    `base` is the raw ext4 nobody writes; `layers` are frozen qcow2 overlays on it, oldest first.
    `overlay_template` is an empty qcow2 of the right virtual size, copied to make each new overlay;
    None: there is none, the guest reads `base` and keeps its changes in RAM.
    """

    base: str
    layers: list[str]
    overlay_template: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreSpec:
    """Where a VM comes back from: device state and guest RAM of a bundle's `vm/` directory.

    `lazy`: RAM is a private map of the image, read when it is touched. Else it is memory of its
    own, filled before the guest runs on, and can be given back to the host.
    """

    state: str
    ram_image: str
    tcp_keep: bool = False
    """Leave the guest's connections to other hosts as they were, instead of resetting them."""
    lazy: bool = True
    template: bool = False
    """The guest is nobody yet: it has no name, no mounts and no workload, and gets them now."""
    machine_sum: str = ""
    """What `vmm.machine.machine_sum` has to say of this VM; empty: whatever it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadSpec:
    """What runs in session `main`. An empty `cmd` is root's login shell.

    `user` is a name or a number, which `:` and a group may follow; None: root.
    """

    cmd: list[str] = field(default_factory=list[str])
    env: dict[str, str] = field(default_factory=dict[str, str])
    cwd: str | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardSpec:
    """One TCP port of the host that leads into the guest."""

    host_port: int
    guest_port: int
    host_addr: str = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class MountDiskSpec:
    """A host directory copied into the guest: squashfs below, this VM's writes above.

    `lower` is the squashfs and `base` an empty raw ext4, both never written; `layers` are frozen
    qcow2 overlays on `base`, oldest first, made from `overlay_template` as those of the root.
    """

    guest: str
    lower: str
    base: str
    layers: list[str]
    overlay_template: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveMountSpec:
    """A host directory shown in the guest as it is.

    `state_file` is what a snapshot kept of its open files; a restored guest goes on with them.
    """

    host: str
    guest: str
    mode: Literal["ro", "rw"] = "rw"
    state_file: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineSpec:
    """The hardware.

    A snapshot only loads into a machine with equal values, so bundles carry them.
    """

    arch: str
    accel: Literal["kvm", "tcg"]
    machine_type: str
    cpu_model: str
    memory_mib: int
    cpus: int = 1
    network: Network = "full"
    mount_disk: bool = False
    """Whether it has the two disks of a `mount`."""
    root_in_ram: bool = False
    """Whether its root disk can only be read, so that what the guest writes lies in its RAM."""
    modern_virtio: bool = True
    """Whether its devices are of virtio 1: those of bundles that do not say, of no new machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StandbySpec:
    """A VM that is nobody yet: it starts from its template, stops, and waits for a taker.

    `template` is the directory it starts from, and what `file_identity` said of it: when that goes,
    so does the standby. While it reads from there it holds `template_lock` shared. It inherits
    `slot_fd`, the locked file `slot_path`, and holds it while it is a standby.
    """

    template: str
    template_identity: list[int]
    template_lock: str
    slot_path: str
    slot_fd: int
    idle_s: float
    """It ends when nobody took it for so long."""
    least_available_bytes: int
    """It ends when the host has less memory available than this."""
    patience_s: float = 0.0
    """How long it waits, before it starts, for the host's processors to have nothing to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VmSpec:
    """One VM, whole.

    `run_dir` holds the sockets, `state_dir` overlays, console log and stats; the monitor makes
    both and removes both when the VM is gone. `{pid}` in `name` and `hostname` stands for the
    monitor's pid. `status_fd` is a pipe for JSON lines on how the start goes (vmm/status.py).
    `lifeline_fd` is a pipe whose end of file means that whoever started the monitor is gone; a byte
    `D` before it says that the VM shall live on by itself. `main_input_fd` and `main_output_fd` are
    pipes to and from session `main`. `detached`: be nobody's child from the start. `dtb` is a
    device tree for arm64; `extra_args` come last on QEMU's command line. `note` is the first line
    of the console log.
    `origin` is opaque to the monitor: it comes back in its reports. `template_dir` is where a VM
    that boots its kernel keeps a template of itself (vmm/template.py). `crash_dir` is where a
    report goes if the VM ends unexpectedly (vmm/crash_report.py). `is_fork`: the snapshot was
    taken for it alone, which changes nothing but how telemetry calls its start.
    """

    id: str
    name: str | None
    hostname: str
    run_dir: str
    state_dir: str
    qemu_binary: str
    kernel: str
    initrd: str
    machine: MachineSpec
    disk: DiskSpec
    workload: WorkloadSpec | None = None
    restore: RestoreSpec | None = None
    port_forward: list[ForwardSpec] = field(default_factory=list[ForwardSpec])
    mount_disk: MountDiskSpec | None = None
    live_mounts: list[LiveMountSpec] = field(default_factory=list[LiveMountSpec])
    lazy_pages_total: int = 0
    owned_dirs: list[str] = field(default_factory=list[str])
    """Directories that exist and go when the VM is gone."""
    """Pages of 4096 bytes in the `pages-<n>.img` of a live mount that CRIU restores from."""
    passt_binary: str | None = None
    allow_hosts: list[str] = field(default_factory=list[str])
    """Patterns of vmm/allowlist.py, for `network` "allowlist"."""
    dtb: str | None = None
    extra_args: list[str] = field(default_factory=list[str])
    status_fd: int | None = None
    lifeline_fd: int | None = None
    console_to_stderr: bool = False
    main_input_fd: int | None = None
    main_output_fd: int | None = None
    boot_timeout_ms: int = 120_000
    origin: dict[str, str] = field(default_factory=dict[str, str])
    template_dir: str | None = None
    note: str = ""
    is_fork: bool = False
    confine: bool = True
    """Whether monitor and QEMU give up what they do not need (vmm/confine.py)."""
    give_back: bool = True
    """Whether what a guest frees goes back to the host, where its RAM is a map of an image."""
    limits: Limits = field(default_factory=Limits)
    cgroups: list[CgroupSpec] = field(default_factory=list[CgroupSpec])
    """What enforces `limits` on processor and memory; made and removed by the monitor."""
    crash_dir: str | None = None
    standby: StandbySpec | None = None
    """Set: who it is to be comes later, over a socket (vmm/standby.py)."""

    @property
    def is_copy(self) -> bool:
        """Whether the guest goes on with a life it had, unlike one that was just booted."""
        return self.restore is not None and not self.restore.template

    @property
    def mapped_image(self) -> str | None:
        """The snapshot's image that guest RAM is a map of; None if RAM is memory of its own."""
        return self.restore.ram_image if self.restore and self.restore.lazy else None

    def to_json(self) -> str:
        """The text of a spec file."""
        return json.dumps(dataclasses.asdict(self))


def file_identity(path: str) -> list[int] | None:
    """Which file or directory is at `path`, and of which moment; None: none is."""
    try:
        info = os.stat(path)
    except OSError:
        return None
    return [info.st_dev, info.st_ino, info.st_ctime_ns]


def parse_spec(text: bytes) -> VmSpec:
    """The spec in a JSON text.

    Raises:
        VmmError: SPEC_INVALID, with what is wrong.
    """
    try:
        return spec_from_json(json.loads(text))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise VmmError("SPEC_INVALID", f"cannot use the VM spec: {error}") from error


def spec_from_json(value: dict[str, Any]) -> VmSpec:
    """A VmSpec from its JSON object; KeyError, TypeError or ValueError if it does not fit."""
    known = {item.name for item in dataclasses.fields(VmSpec)}
    if unknown := set(value) - known:
        raise ValueError(f"unknown keys {sorted(unknown)}")
    fields = dict(value)
    fields["machine"] = MachineSpec(**value["machine"])
    fields["disk"] = DiskSpec(**value["disk"])
    fields["port_forward"] = [ForwardSpec(**item) for item in value.get("port_forward", [])]
    fields["live_mounts"] = [LiveMountSpec(**item) for item in value.get("live_mounts", [])]
    fields["limits"] = Limits(**value.get("limits", {}))
    fields["cgroups"] = [CgroupSpec(**item) for item in value.get("cgroups", [])]
    if value.get("mount_disk") is not None:
        fields["mount_disk"] = MountDiskSpec(**value["mount_disk"])
    if value.get("workload") is not None:
        fields["workload"] = WorkloadSpec(**value["workload"])
    if value.get("restore") is not None:
        fields["restore"] = RestoreSpec(**value["restore"])
    if value.get("standby") is not None:
        fields["standby"] = StandbySpec(**value["standby"])
    return VmSpec(**fields)
