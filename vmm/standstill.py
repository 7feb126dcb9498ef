"""The moment in which the guest stands still: its state is taken by one thread, step after step."""

from __future__ import annotations

import time
from collections.abc import Sequence

from vmm.disk_chain import DiskChain
from vmm.phases import PhaseClock
from vmm.qmp_line import QmpLine
from vmm.ram_image import ImageWriter
from vmm.ram_pages import RamMap


class Standstill:
    """What is taken while the guest stands still, and how long it did."""

    def __init__(self, line: QmpLine, clock: PhaseClock, *, was_running: bool) -> None:
        self._line = line
        self._clock = clock
        self._was_running = was_running
        self._begun = 0.0
        self.stopped = False
        """Whether the guest ran before and does not now: it is to go on, if all fails."""
        self.quiesced = False
        """Whether the guest's agent said that the channel is quiet."""
        self.copied_bytes = 0
        """Of RAM, in all."""
        self.frozen: list[list[str]] = []
        """The layers that are each disk as it is."""
        self.total_ms = 0.0

    def take(
        self, image: ImageWriter, ram: RamMap, chains: Sequence[DiskChain], state_path: str
    ) -> None:
        """Stop the guest; copy what is missing of its RAM while QEMU writes the state of its
        devices to `state_path`; freeze its disks. It stands still on return, also if that raises.

        Raises:
            OSError: the image cannot be written.
            VmmError: QMP_REFUSED, QEMU_GONE.
        """
        self._begun = time.monotonic()
        self.stopped = self._was_running
        self._line.execute("stop")
        self._clock.mark("stop")
        save = "xen-save-devices-state"
        self._line.send(save, {"filename": state_path, "live": False})
        try:
            self.copied_bytes = image.take(ram)
            self._clock.mark("pages")
        finally:
            self._line.wait(save)
        self._clock.mark("device-state")
        for chain in chains:
            self.frozen.append(chain.freeze_stopped(self._line))
        self._clock.mark("disk")

    def go_on(self) -> None:
        """Let the guest run, if it did before.

        Raises:
            VmmError: QMP_REFUSED, QEMU_GONE.
        """
        if self.stopped:
            self._line.execute("cont")
            self.stopped = False
        self.end()

    def end(self) -> None:
        """It stands still no longer, or for good."""
        if self._begun:
            self.total_ms = (time.monotonic() - self._begun) * 1000
            self._begun = 0.0
