"""Load a snapshot's device state into a QEMU that waits for it, and let that guest run on."""

from __future__ import annotations

from typing import Any

import anyio

from vmm.errors import VmmError
from vmm.machine import CHANNEL_CHARDEV
from vmm.qmp import Qmp
from vmm.ram_shim import check_image_is_safe
from vmm.spec import VmSpec

CONNECT_TIMEOUT_S = 2.0


async def load_device_state(qmp: Qmp, spec: VmSpec, qemu_pid: int, image_fd: int | None) -> None:
    """Load what `spec` restores; no memory is read. `image_fd` is the image that RAM is a map of.

    Raises:
        VmmError: RESTORE_FAILED if QEMU cannot, QEMU_START_FAILED if it could write to the image,
            QEMU_GONE.
    """
    if spec.restore is None:
        return
    check_image_is_safe(qemu_pid, image_fd)
    events_on = [{"capability": "events", "state": True}]
    await qmp.execute("migrate-set-capabilities", {"capabilities": events_on})
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
