"""What clients may ask a monitor over control.sock, and what it says: JSON, one object a line.

Request: `{"id": 1, "method": "pause", "params": {}}`. Reply: `{"id": 1, "result": …}` or `{"id": 1,
"error": {"code", "message", "retryable"}}`. After `subscribe`, events: `{"event": "state" | "stats"
| "phases", "data": {…}}`.

| method | params | result |
|--|--|--|
| status | | VmStatus |
| pause, resume | | VmStatus |
| snapshot | directory (absent or empty), leave_running, durable | SnapshotReport |
| release | | {}; the guest goes on after a snapshot without leave_running |
| freeze_mount | directory (absent or empty), durable | {layers}: the mount's disks as they are |
| rename | name, hostname | VmStatus |
| metrics | | VmMetrics (vmm/records.py) |
| trace | | VmTrace |
| debug_start | | {socket, started, held}: where gdb connects, whether it holds the VM |
| debug_stop | | {stopped}; the VM runs on |
| stop | grace_ms | {} when QEMU has been told; the socket closes when the VM is gone |
| add_forward | host_addr, host_port (0: any free one), guest_port | the same, host_port filled in |
| remove_forward | host_addr, host_port | {}; its connections have ended |
| subscribe | stats_interval_ms (250 or more; 0: no stats) | VmStatus, then events |

After a snapshot without leave_running the guest stands still until `stop`, or until whoever asked
for it hangs up: only a client that has made a bundle of the files may end what they came from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

CONTROL_SOCKET = "control.sock"
VSOCK_SOCKET = "vsock.sock"
GDB_SOCKET = "gdb.sock"
CONSOLE_LOG = "console.log"
"""In the state directory; `console.log.1` is the part before it."""
EVENT_LOG = "events.jsonl"
"""In the state directory: the monitor's own log (vmm/event_log.py)."""
MAX_LINE_BYTES = 1 << 20
MOUNT_LOWER_FILE, MOUNT_UPPER_FILE = "mount-lower.sqfs", "mount-upper.img"
"""What a snapshot calls the two bases of a mount."""

EXIT_SPEC_INVALID = 121
EXIT_QEMU_START_FAILED = 122
EXIT_QEMU_DIED = 123
"""QEMU crashed or was killed by somebody else."""
EXIT_GUEST_FAILED = 124
"""The guest powered off without a word from its workload: a failed boot, a panic."""
EXIT_MONITOR_FAILED = 1
"""A fault of ours: Python's own exit status for an exception nobody caught."""
EXIT_TERMINATED = 143
"""The monitor got SIGTERM, or its parent died."""

State = Literal[
    "booting", "restoring", "running", "paused", "snapshotting", "stopping", "disk-full"
]
STATES: tuple[State, ...] = get_args(State)
"""In this order the stats file counts them; a new one goes to the end.

`disk-full`: the guest stands still until the host's disk has room (vmm/disk_room.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VmStatus:
    """One VM at one moment. `phases` are the milliseconds of the boot or restore.

    `origin` is what the spec said it booted from. `warm`: its kernel was not booted, but taken from
    a template; `restored`: it goes on with another VM's life.
    """

    id: str
    name: str | None
    state: State
    pid: int
    qemu_pid: int
    started_at_ms: int
    accel: str
    memory_mib: int
    cpus: int
    network: str
    agent_ready: bool
    restored: bool
    port_forward: list[dict[str, Any]]
    phases: dict[str, float]
    allow_hosts: list[str] = field(default_factory=list[str])
    origin: dict[str, str] = field(default_factory=dict[str, str])
    root_in_ram: bool = False
    """Whether it has no disk to write to: its changes lie in its memory."""
    warm: bool = False
    auto_pause_ms: int | None = None
    """After how long without anything happening it falls asleep; None: never."""
    asleep: bool = False
    """Paused until somebody wants something of the guest: a key, a command, a connection."""
    limits: dict[str, float] = field(default_factory=dict[str, float])
    """What it may take of the host, by the names of `vmm.limits.Limits`; empty: no limit."""
    debugger: str = ""
    """ "listening": gdb may connect; "holding": it has, and the VM stands still. Else empty."""
    trouble: str = ""
    """Why it stands still though nobody asked for that, and what to do; empty: it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotReport:
    """What a snapshot wrote below `directory`, and how long each phase took, in milliseconds.

    `layers` and `base` describe the disk, oldest layer first; `machine` is the MachineSpec to
    restore into. With a mount at `mount_guest`, `mount_layers` lie on its two bases, which are in
    `directory` too. `live_mounts` have guest, host and mode; `live_state` is the file with what
    they have open.
    """

    directory: str
    id: str
    name: str | None
    machine: dict[str, Any]
    qemu_version: str
    base: str
    layers: list[str]
    state: str
    ram_image: str
    ram_copied_bytes: int
    paused_ms: float
    quiesced: bool
    phases: dict[str, float]
    allow_hosts: list[str] = field(default_factory=list[str])
    """What a guest with `network` "allowlist" may reach."""
    mount_guest: str | None = None
    mount_layers: list[str] = field(default_factory=list[str])
    live_mounts: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    live_state: str | None = None
    origin: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class StateEvent:
    """The VM went into another state."""

    state: State
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatsEvent:
    """What the VM costs now. Bytes; CPU in percent of one core, QEMU and monitor together.

    `private_bytes` and `shared_bytes` are of guest RAM: its own pages, and the snapshot's pages it
    shares. `balloon_bytes` is what the guest gave back so far by free-page reporting, at least.
    `lazy_pages_pending` counts pages of the snapshot's image the guest has not touched yet.
    `last_output_ms` is when any stream last said something.
    """

    time_ms: int
    cpu_percent: float
    rss_bytes: int
    pss_bytes: int
    private_bytes: int
    shared_bytes: int
    balloon_bytes: int
    ceiling_mib: int
    lazy_pages_pending: int
    last_output_ms: int
    throttled: int = 0
    """Periods of 0.1 s in which it had used up its limit of processor time (vmm/limits.py)."""
    memory_at_limit: int = 0
    """How often it wanted more of the host's memory than its limit."""
    oom_kills: int = 0
    """How often the kernel ended a process for that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasesEvent:
    """An operation ended: its kind and the milliseconds of each phase, in order."""

    kind: Literal["boot", "restore", "snapshot"]
    phases: dict[str, float] = field(default_factory=dict[str, float])
    total_ms: float = 0.0


VmEvent = StateEvent | StatsEvent | PhasesEvent
EVENT_KINDS: dict[str, type[VmEvent]] = {
    "state": StateEvent,
    "stats": StatsEvent,
    "phases": PhasesEvent,
}


def event_kind(event: VmEvent) -> str:
    """The name an event has on the wire."""
    return next(kind for kind, cls in EVENT_KINDS.items() if type(event) is cls)
