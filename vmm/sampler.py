"""Stats for subscribers: nothing is read while nobody watches."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress

import anyio
from anyio.streams.memory import MemoryObjectSendStream

from vmm.mux import ChannelMux
from vmm.pending_pages import PendingPages
from vmm.qemu import QemuProcess
from vmm.ram_pages import PAGE_BYTES
from vmm.requests import StatsEvent, VmEvent
from vmm.spec import VmSpec
from vmm.stats import cpu_seconds, memory_figures


class Sampler:
    """Reads what a VM costs, at each subscriber's own pace."""

    def __init__(
        self,
        spec: VmSpec,
        qemu: QemuProcess,
        mux: ChannelMux,
        base_image_fd: int | None,
        *,
        returned_bytes: Callable[[], int],
        served_bytes: Callable[[], int],
    ) -> None:
        """`returned_bytes` tells how much the guest has given back so far, `served_bytes` how much
        it has read from CRIU's images in a live mount."""
        self._lazy_pages_total = spec.lazy_pages_total
        self._served_bytes = served_bytes
        self._returned_bytes = returned_bytes
        self._qemu = qemu
        self._mux = mux
        self._ceiling_mib = spec.machine.memory_mib
        self._image = spec.mapped_image
        self._pending = PendingPages(qemu.pid, spec, base_image_fd)

    async def feed(self, interval_ms: int, sink: MemoryObjectSendStream[VmEvent]) -> None:
        """Send a StatsEvent every `interval_ms` until cancelled.

        A full sink misses one, and so does everybody while this process may open no file.
        """
        last: tuple[float, float] | None = None
        while True:
            with suppress(anyio.WouldBlock, OSError):
                cpu, now = self._cpu_seconds(), time.monotonic()
                used, passed = (cpu - last[0], now - last[1]) if last else (0.0, 0.0)
                percent = 100 * used / passed if passed > 0 else 0.0
                last = cpu, now
                sink.send_nowait(self._stats(round(percent, 1)))
            await anyio.sleep(interval_ms / 1000)

    def _cpu_seconds(self) -> float:
        return cpu_seconds(self._qemu.pid) + cpu_seconds(os.getpid())

    def _pages_to_serve(self) -> int:
        """Engine criu: pages of the bundle that the guest has not read; some it may never."""
        return max(0, self._lazy_pages_total - self._served_bytes() // PAGE_BYTES)

    def _stats(self, cpu_percent: float) -> StatsEvent:
        memory = memory_figures(self._qemu.pid, self._ceiling_mib << 20, self._image)
        limited = self._qemu.cgroups.figures()
        return StatsEvent(
            time_ms=time.time_ns() // 1_000_000,
            cpu_percent=cpu_percent,
            rss_bytes=memory.rss,
            pss_bytes=memory.pss,
            private_bytes=memory.private,
            shared_bytes=memory.shared,
            balloon_bytes=self._returned_bytes(),
            ceiling_mib=self._ceiling_mib,
            lazy_pages_pending=self._pending.count() + self._pages_to_serve(),
            last_output_ms=self._mux.last_output_ms,
            throttled=limited.throttled,
            memory_at_limit=limited.memory_at_limit,
            oom_kills=limited.oom_kills,
        )
