"""Load a snapshot into a QEMU that waits for it, memory where it is not mapped, then devices; and
let that guest run on.
"""

from __future__ import annotations

from typing import Any

import anyio
from anyio import to_thread

from vmm.errors import VmmError
from vmm.machine import CHANNEL_CHARDEV
from vmm.phases import PhaseClock
from vmm.qemu import QemuProcess
from vmm.qmp import Qmp
from vmm.ram_fill import fill_ram
from vmm.ram_shim import check_image_is_safe
from vmm.spec import VmSpec

CONNECT_TIMEOUT_S = 2.0


async def bring_back(
    spec: VmSpec, qemu: QemuProcess, qmp: Qmp, image_fd: int | None, clock: PhaseClock
) -> None:
    """Load what `spec` restores, if anything; the guest stands still afterwards.

    `image_fd` is the image that RAM is a map of.

    Raises:
        VmmError: RESTORE_FAILED, QEMU_START_FAILED, QEMU_GONE.
    """
    restore = spec.restore
    if restore is None:
        return
    if not restore.lazy:  # before the devices: some look at RAM while they load
        await _fill(spec, qemu, restore.ram_image)
        clock.mark("pages")
    await load_device_state(qmp, spec, qemu.pid, image_fd)
    clock.mark("device-state")


async def _fill(spec: VmSpec, qemu: QemuProcess, image: str) -> None:
    """Copy the snapshot's pages into RAM of QEMU's own."""
    try:
        await to_thread.run_sync(fill_ram, qemu.pid, spec.machine.memory_mib << 20, image)
    except (OSError, ValueError) as error:
        raise VmmError("RESTORE_FAILED", f"guest RAM cannot be filled: {error}") from error


async def load_device_state(qmp: Qmp, spec: VmSpec, qemu_pid: int, image_fd: int | None) -> None:
    """Load what `spec` restores; no memory is read. `image_fd` is the image that RAM is a map of.

    Raises:
        VmmError: RESTORE_FAILED if QEMU cannot, QEMU_START_FAILED if it could write to the image,
            QEMU_GONE.
    """
    if spec.restore is None:
        return
    check_image_is_safe(qemu_pid, image_fd)
    with qmp.events("MIGRATION") as events:
        await qmp.execute("migrate-incoming", {"uri": f"file:{spec.restore.state}"})
        async for event in events:
            if event["data"]["status"] == "completed":
                return
            if event["data"]["status"] == "failed":
                raise VmmError("RESTORE_FAILED", "QEMU cannot load this device state")


async def run_on(qmp: Qmp) -> None:
    """Let the guest run on, once the host is connected to the channel as it was at the snapshot.

    Else QEMU would tell the guest that the host went and came, which its agent might hear after the
    first greeting, and drop the new connection for the old one.
    """
    with anyio.move_on_after(CONNECT_TIMEOUT_S):
        while _is_disconnected(await qmp.execute("query-chardev")):
            pass  # QEMU accepts between two commands
    await qmp.execute("cont")


def _is_disconnected(chardevs: list[dict[str, Any]]) -> bool:
    return any(
        each["label"] == CHANNEL_CHARDEV and each["filename"].startswith("disconnected:")
        for each in chardevs
    )
