"""What every snapshot engine promises.

A snapshot either completes, or the source runs on as before and nothing of the attempt is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from vmm.requests import SnapshotReport


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotRequest:
    """`directory` must be absent or empty.

    `durable`: synced to the disk before it counts as written. `bare`: the guest has mounted nothing
    yet, so nothing is kept of what it is going to mount.
    """

    directory: Path
    leave_running: bool
    durable: bool
    bare: bool = False


class SnapshotEngine(Protocol):
    """Takes snapshots of one VM."""

    async def snapshot(self, request: SnapshotRequest) -> SnapshotReport:
        """Freeze the VM, write its state, let it go on.

        Raises:
            VmmError: SNAPSHOT_TARGET_INVALID, SNAPSHOT_FAILED.
        """
        ...

    async def freeze_mount(self, directory: Path, *, durable: bool) -> list[str]:
        """Keep the disks of the VM's mount in `directory` as they are now; its layers' names.

        The guest runs, and has synced what shall be in there. `directory` is absent or empty.

        Raises:
            VmmError: SNAPSHOT_TARGET_INVALID; SNAPSHOT_FAILED, and nothing is left in it;
                PARAMS_INVALID if there is no mount.
        """
        ...
