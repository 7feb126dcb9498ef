"""Answers `metrics` and `trace` on control.sock: figures are read when somebody asks."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from vmm.disks import own_disks_path
from vmm.errors import VmmError
from vmm.mux import ChannelMux
from vmm.operations import Operations
from vmm.qemu import QemuProcess
from vmm.qmp import Qmp
from vmm.records import VmMetrics, VmTrace
from vmm.spec import VmSpec
from vmm.stats import cpu_seconds, memory_figures
from vmm.telemetry import Telemetry

QMP_TIMEOUT_S = 2.0


class Observer:
    """One VM's figures and past, for whoever asks its monitor."""

    def __init__(
        self,
        spec: VmSpec,
        qemu: QemuProcess,
        qmp: Qmp,
        mux: ChannelMux,
        operations: Operations,
        telemetry: Telemetry,
        *,
        returned_bytes: Callable[[], int],
    ) -> None:
        """`returned_bytes` tells how much memory the guest has given back so far."""
        self._spec = spec
        self._qemu = qemu
        self.qmp = qmp
        self._mux = mux
        self._operations = operations
        self._telemetry = telemetry
        self._returned_bytes = returned_bytes
        self._started_at_ms = time.time_ns() // 1_000_000
        self._disk_bytes = (0, 0)

    def handlers(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        """The verbs of control.sock by name."""
        return {"metrics": self._on_metrics, "trace": self._on_trace}

    async def _on_metrics(self, _params: dict[str, Any]) -> VmMetrics:
        machine, seen, mux = self._spec.machine, self._telemetry, self._mux
        ceiling = machine.memory_mib << 20
        memory = memory_figures(self._qemu.pid, ceiling, self._spec.mapped_image)
        disk_read, disk_written = await self._disk_traffic()
        return VmMetrics(
            id=self._spec.id,
            name=self._operations.name,
            state=self._operations.state,
            started_at_ms=self._started_at_ms,
            cpu_seconds=self._cpu_seconds(),
            rss_bytes=memory.rss,
            pss_bytes=memory.pss,
            private_bytes=memory.private,
            shared_bytes=memory.shared,
            returned_bytes=self._returned_bytes(),
            ceiling_bytes=ceiling,
            cpus=machine.cpus,
            disk_read_bytes=disk_read,
            disk_written_bytes=disk_written,
            disk_allocated_bytes=allocated_bytes(own_disks_path(self._spec.state_dir)),
            channel_sent_bytes=mux.bytes_sent,
            channel_received_bytes=mux.bytes_received,
            forward_sent_bytes=seen.forwards.sent,
            forward_received_bytes=seen.forwards.received,
            proxy_sent_bytes=seen.proxied.sent,
            proxy_received_bytes=seen.proxied.received,
            open_streams=seen.open_streams,
            commands=seen.endings,
            command_seconds=seen.command_seconds,
            first_reply_seconds=seen.first_reply_seconds,
            operations=seen.totals,
            paused_seconds=seen.paused_seconds,
        )

    async def _on_trace(self, _params: dict[str, Any]) -> VmTrace:
        return VmTrace(
            id=self._spec.id,
            name=self._operations.name,
            pid=os.getpid(),
            qemu_pid=self._qemu.pid,
            started_at_ms=self._started_at_ms,
            operations=list(self._telemetry.operations),
            commands=list(self._telemetry.commands),
            states=list(self._telemetry.states),
        )

    def _cpu_seconds(self) -> dict[str, float]:
        pids = {"qemu": self._qemu.pid, "monitor": os.getpid()}
        passt = self._qemu.passt
        if passt is not None and passt.pid is not None:
            pids["passt"] = passt.pid
        return {process: cpu_seconds(pid) for process, pid in pids.items()}

    async def _disk_traffic(self) -> tuple[int, int]:
        """Bytes the guest read from and wrote to its disks; the last known if QEMU is busy."""
        with suppress(VmmError):
            devices = await self.qmp.execute("query-blockstats", timeout_s=QMP_TIMEOUT_S)
            read, written = (
                sum(int(device["stats"][key]) for device in devices)
                for key in ("rd_bytes", "wr_bytes")
            )
            self._disk_bytes = (read, written)
        return self._disk_bytes


def allocated_bytes(directory: str) -> int:
    """What the files in `directory` take of the host's disk; 0 if it is gone."""
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        return sum(
            each.stat(follow_symlinks=False).st_blocks * 512
            for each in entries
            if each.name.endswith(".qcow2")
        )
    return 0
