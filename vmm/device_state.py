"""Load a snapshot's device state into a QEMU that waits for it."""

from __future__ import annotations

from vmm.errors import VmmError
from vmm.qmp import Qmp
from vmm.ram_shim import check_image_is_safe
from vmm.spec import VmSpec


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
