"""Load a snapshot's device state into a QEMU that waits for it."""

from __future__ import annotations

from vmm.errors import VmmError
from vmm.qmp import Qmp


async def load_device_state(qmp: Qmp, path: str) -> None:
    """Load the file at `path`; no memory is read.

    Raises:
        VmmError: RESTORE_FAILED if QEMU cannot, QEMU_GONE.
    """
    events_on = [{"capability": "events", "state": True}]
    await qmp.execute("migrate-set-capabilities", {"capabilities": events_on})
    with qmp.events("MIGRATION") as events:
        await qmp.execute("migrate-incoming", {"uri": f"file:{path}"})
        async for event in events:
            if event["data"]["status"] == "completed":
                return
            if event["data"]["status"] == "failed":
                raise VmmError("RESTORE_FAILED", "QEMU cannot load this device state")
