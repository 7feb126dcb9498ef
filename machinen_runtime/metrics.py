"""read_metrics(): what each sandbox costs and has done; metrics_text(): as OpenMetrics text."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import anyio

from machinen_runtime.errors import MachinenError
from machinen_runtime.monitor_client import MonitorClient
from machinen_runtime.open_metrics import Family, Labels, format_families
from machinen_runtime.registry import live_entries
from machinen_runtime.registry_entry import RegistryEntry
from vmm.records import SECONDS_BOUNDS, VmMetrics
from vmm.requests import State

ANSWER_TIMEOUT_S = 3.0
"""A monitor that does not answer is reported as one, and stops nobody else's figures."""
AT_ONCE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxMetrics:
    """One live sandbox and its figures; None if its monitor did not answer in time."""

    pid: int
    name: str | None
    figures: VmMetrics | None


async def read_metrics() -> list[SandboxMetrics]:
    """Ask the monitors of all live sandboxes at once; oldest first."""
    entries = live_entries()
    found: dict[int, SandboxMetrics] = {}
    limiter = anyio.CapacityLimiter(AT_ONCE)

    async def ask(entry: RegistryEntry) -> None:
        async with limiter:
            figures = await _figures_of(entry)
        found[entry.pid] = SandboxMetrics(pid=entry.pid, name=entry.name, figures=figures)

    async with anyio.create_task_group() as tasks:
        for entry in entries:
            tasks.start_soon(ask, entry)
    return [found[entry.pid] for entry in entries]


async def metrics_text() -> str:
    """All figures as OpenMetrics 1.0 text."""
    begun = time.monotonic()
    sandboxes = await read_metrics()
    return format_metrics(sandboxes, read_s=time.monotonic() - begun)


async def _figures_of(entry: RegistryEntry) -> VmMetrics | None:
    try:
        with anyio.fail_after(ANSWER_TIMEOUT_S):
            return await MonitorClient(Path(entry.socket_path).parent).metrics()
    except (MachinenError, TimeoutError):  # gone meanwhile, stopped, or of an earlier version
        return None


def format_metrics(
    sandboxes: Sequence[SandboxMetrics], *, read_s: float, now_s: float | None = None
) -> str:
    """Figures as OpenMetrics text; `read_s` is how long it took to get them."""
    now_s = time.time() if now_s is None else now_s
    table = _Table()
    table.sandboxes.add({}, len(sandboxes))
    table.read.add({}, read_s)
    for each in sandboxes:
        labels = {"sandbox": each.name or str(each.pid), "pid": str(each.pid)}
        table.up.add(labels, float(each.figures is not None))
        if each.figures is not None:
            table.add(labels, each.figures, now_s)
    return format_families(table.families())


class _Table:
    """The families, and which figure goes where."""

    def __init__(self) -> None:
        self.sandboxes = Family("machinen_sandboxes", "gauge", "Sandboxes that run.")
        self.read = _gauge("read_seconds", "How long it took to ask all monitors.", "seconds")
        self.up = _gauge("sandbox_up", "Whether the sandbox's monitor answered.")
        self.info = Family("machinen_sandbox", "info", "Who a sandbox is.")
        self.state = Family("machinen_sandbox_state", "stateset", "What a sandbox is doing.")
        self.started = _gauge("sandbox_start_time_seconds", "When it started.", "seconds")
        self.age = _gauge("sandbox_age_seconds", "How long it has been there.", "seconds")
        self.cpu = _counter("sandbox_cpu_seconds", "Processor time by process.", "seconds")
        self.memory = _gauge("sandbox_memory_bytes", "Memory of QEMU by kind.", "bytes")
        self.ceiling = _gauge("sandbox_memory_limit_bytes", "The most the guest may use.", "bytes")
        self.returned = _counter(
            "sandbox_memory_returned_bytes", "Memory the guest gave back, at least.", "bytes"
        )
        self.vcpus = _gauge("sandbox_vcpus", "Virtual processors.")
        self.disk = _counter("sandbox_disk_bytes", "What the guest read and wrote.", "bytes")
        self.allocated = _gauge(
            "sandbox_disk_allocated_bytes", "What its overlays take of the host's disk.", "bytes"
        )
        self.channel = _counter("sandbox_channel_bytes", "Bytes over the channel.", "bytes")
        self.network = _counter(
            "sandbox_network_bytes", "Of those, bytes of port forwards and web proxy.", "bytes"
        )
        self.streams = _gauge("sandbox_open_streams", "Streams open on the channel.")
        self.commands = _counter("sandbox_commands", "Commands that ended, by how.")
        self.command_time = Family(
            "machinen_sandbox_command_duration_seconds",
            "histogram",
            "From a command's request to its end.",
            "seconds",
        )
        self.reply_time = Family(
            "machinen_sandbox_command_first_reply_seconds",
            "histogram",
            "From a command's request to the first byte that came back.",
            "seconds",
        )
        self.operations = _counter("sandbox_operations", "Boots, forks, restores, snapshots.")
        self.duration = _gauge(
            "sandbox_operation_last_seconds", "How long the last of a kind took.", "seconds"
        )
        self.phase = _gauge(
            "sandbox_operation_last_phase_seconds", "Each phase of the last of a kind.", "seconds"
        )
        self.stood_still = _gauge(
            "sandbox_snapshot_last_pause_seconds", "How long the guest stood still.", "seconds"
        )
        self.copied = _counter(
            "sandbox_snapshot_copied_bytes", "Memory that snapshots copied.", "bytes"
        )
        self.paused = _counter("sandbox_paused_seconds", "Time paused, in all.", "seconds")

    def families(self) -> list[Family]:
        """All of them, in the order they were made."""
        return [each for each in vars(self).values() if isinstance(each, Family)]

    def add(self, labels: Labels, vm: VmMetrics, now_s: float) -> None:
        """One sandbox's figures."""
        self.info.add({**labels, "id": vm.id}, 1)
        self.state.add_states(labels, get_args(State), vm.state)
        self.started.add(labels, vm.started_at_ms / 1000)
        self.age.add(labels, max(0.0, now_s - vm.started_at_ms / 1000))
        self.ceiling.add(labels, vm.ceiling_bytes)
        self.returned.add(labels, vm.returned_bytes)
        self.vcpus.add(labels, vm.cpus)
        self.allocated.add(labels, vm.disk_allocated_bytes)
        self.streams.add(labels, vm.open_streams)
        self.paused.add(labels, vm.paused_seconds)
        for process, seconds in vm.cpu_seconds.items():
            self.cpu.add({**labels, "process": process}, seconds)
        for family, key, values in _divided(vm):
            for value, number in values.items():
                getattr(self, family).add({**labels, **_pair(key, value)}, number)
        for family, histogram in (
            (self.command_time, vm.command_seconds),
            (self.reply_time, vm.first_reply_seconds),
        ):
            family.add_histogram(labels, SECONDS_BOUNDS, histogram.counts, histogram.sum_s)
        self._add_operations(labels, vm)

    def _add_operations(self, labels: Labels, vm: VmMetrics) -> None:
        for kind, totals in vm.operations.items():
            named = {**labels, "operation": kind}
            self.operations.add({**named, "outcome": "ok"}, totals.done)
            self.operations.add({**named, "outcome": "failed"}, totals.failed)
            if not totals.done:
                continue
            self.duration.add(named, totals.last_ms / 1000)
            for phase, elapsed_ms in totals.last_phases.items():
                self.phase.add({**named, "phase": phase}, elapsed_ms / 1000)
            if kind == "snapshot":
                self.stood_still.add(labels, totals.last_paused_ms / 1000)
                self.copied.add(labels, totals.size_bytes)


def _divided(vm: VmMetrics) -> Generator[tuple[str, str, dict[str, int]]]:
    """Figures that share a family: its attribute, the labels' names, label values → figure."""
    memory = {"resident": vm.rss_bytes, "proportional": vm.pss_bytes}
    yield "memory", "kind", {**memory, "private": vm.private_bytes, "shared": vm.shared_bytes}
    yield "disk", "direction", {"read": vm.disk_read_bytes, "written": vm.disk_written_bytes}
    channel = {"sent": vm.channel_sent_bytes, "received": vm.channel_received_bytes}
    yield "channel", "direction", channel
    forwards = {
        "forward sent": vm.forward_sent_bytes,
        "forward received": vm.forward_received_bytes,
    }
    proxied = {"proxy sent": vm.proxy_sent_bytes, "proxy received": vm.proxy_received_bytes}
    yield "network", "path direction", forwards | proxied
    yield "commands", "ending", vm.commands


def _pair(keys: str, values: str) -> Labels:
    return dict(zip(keys.split(), values.split(), strict=True))


def _gauge(name: str, text: str, unit: str = "") -> Family:
    return Family(f"machinen_{name}", "gauge", text, unit)


def _counter(name: str, text: str, unit: str = "") -> Family:
    return Family(f"machinen_{name}", "counter", text, unit)
