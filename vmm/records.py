"""What a monitor tells of its VM's past: figures since the start, operations, commands.

Part of the contract: the replies to `metrics` and `trace` on control.sock (vmm/requests.py). Times
of day are microseconds since 1970 by the host's clock, durations milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

OperationKind = Literal["boot", "fork", "restore", "snapshot"]
Ending = Literal["ok", "failed", "lost"]
"""A command's: exit code 0; any other, or refused by the guest; hung up before it had ended."""

SECONDS_BOUNDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 60.0, 600.0),
)
"""Upper bounds of a histogram's buckets; a last one takes the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationRecord:
    """One boot, fork, restore or snapshot, with the milliseconds of each phase in order.

    A fork is what the new VM did; its source has a snapshot of the same moment. `error` is the code
    of one that failed.
    """

    kind: OperationKind
    begun_us: int
    total_ms: float
    phases: dict[str, float]
    paused_ms: float = 0.0
    """How long a snapshot's guest stood still."""
    size_bytes: int = 0
    """Memory a snapshot copied."""
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandRecord:
    """One command in the guest, from the request to its end.

    `program` is the first word of the command if it looks like a program's name, never an argument:
    those may be secret. `first_reply_ms` is None if no byte came back.
    """

    program: str
    begun_us: int
    total_ms: float
    first_reply_ms: float | None
    sent_bytes: int
    received_bytes: int
    ending: Ending
    exit_code: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """How many values lie in each bucket of SECONDS_BOUNDS (one more for the rest), and the sum."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS_BOUNDS) + 1))
    sum_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationTotals:
    """How often an operation was done and failed, and how the last that did not fail went."""

    done: int = 0
    failed: int = 0
    last_ms: float = 0.0
    last_phases: dict[str, float] = field(default_factory=dict[str, float])
    last_paused_ms: float = 0.0
    size_bytes: int = 0
    """Memory copied by all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VmMetrics:
    """What a VM costs and has done since its monitor started. Bytes, seconds, counts.

    `cpu_seconds` is by process: qemu, monitor, passt if there is one. `disk_*` are the guest's
    requests to its disks; `disk_allocated_bytes` is what its overlays take on the host. `channel_*`
    is all that crossed the border between host and guest except the network card, `forward_*` and
    `proxy_*` the parts of it for port forwards and the web proxy; sent means to the guest.
    """

    id: str
    name: str | None
    state: str
    started_at_ms: int
    cpu_seconds: dict[str, float]
    rss_bytes: int
    pss_bytes: int
    private_bytes: int
    shared_bytes: int
    returned_bytes: int
    ceiling_bytes: int
    cpus: int
    disk_read_bytes: int
    disk_written_bytes: int
    disk_allocated_bytes: int
    channel_sent_bytes: int
    channel_received_bytes: int
    forward_sent_bytes: int
    forward_received_bytes: int
    proxy_sent_bytes: int
    proxy_received_bytes: int
    open_streams: int
    commands: dict[str, int]
    """By `Ending`."""
    command_seconds: Histogram
    first_reply_seconds: Histogram
    operations: dict[str, OperationTotals]
    paused_seconds: float
    """By `pause` or a debugger; the pauses of snapshots are theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VmTrace:
    """The last operations and commands a monitor remembers, oldest first."""

    id: str
    name: str | None
    pid: int
    qemu_pid: int
    started_at_ms: int
    operations: list[OperationRecord]
    commands: list[CommandRecord]
    states: list[tuple[int, str]]
    """When (µs since 1970) the VM went into which state."""
