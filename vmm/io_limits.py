"""Limits on what a VM's disks read and write: QEMU's own throttling, so no privilege is needed.

All disks of a VM are one throttle group and share its rate. The limits belong to the device and
not to the files below it: they stay when a snapshot puts a new layer on top. Live mounts are not
disks: what they read and write is not counted here.
"""

from __future__ import annotations

from vmm.machine import DISK_ID, LOWER_DISK_ID, UPPER_DISK_ID
from vmm.qmp import Qmp
from vmm.spec import VmSpec

GROUP = "disks"
BACKEND = "/machine/peripheral/{}/virtio-backend"
"""The part of a virtio-blk-pci device that the disk is connected to."""


async def limit_disks(qmp: Qmp, spec: VmSpec) -> None:
    """Hold the disks to `spec.limits`, before the guest uses them much; qemu-qmp-ref(7).

    Raises:
        VmmError: QMP_REFUSED, QEMU_GONE.
    """
    limits = spec.limits
    rates = {
        "bps": limits.io_bytes_per_s or 0,
        "bps_rd": limits.io_read_bytes_per_s or 0,
        "bps_wr": limits.io_write_bytes_per_s or 0,
    }
    if not any(rates.values()):
        return
    mounts = [LOWER_DISK_ID, UPPER_DISK_ID] if spec.machine.mount_disk else []
    for device in [DISK_ID, *mounts]:
        which = {"id": BACKEND.format(device), "group": GROUP}
        operations = {"iops": 0, "iops_rd": 0, "iops_wr": 0}
        await qmp.execute("block_set_io_throttle", {**which, **rates, **operations})
