"""Frozen layers of a disk become one again, in the background, or every fork of a VM would be
slower than the one before.

QEMU copies what lies in the newest frozen layers into the overlay that the guest writes to
(`block-stream`, qemu-qmp-ref(7)) while the guest runs. The files stay as they are: they may be
other VMs' too. What is copied is at most about as much as was written since the last merge: a layer
goes along if it is no larger than all newer ones together, so a disk has a few layers, each larger
than those above it.

A merge that runs when the next snapshot comes is given up. What it has copied is right wherever it
lies.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import anyio

from vmm.disk_chain import DiskChain
from vmm.disks import remove_files
from vmm.errors import VmmError
from vmm.qmp import Qmp

WORTH_LAYERS = 8
"""Fewer are not worth the copy: each costs a fork half a millisecond and a descriptor."""
SMALL_BYTES = 16 << 20
"""Layers up to this size go along whatever lies above them."""
BYTES_PER_S = 256 << 20
"""The guest's disk and its channel are served by the same thread of QEMU."""
CANCEL_TIMEOUT_S = 20


def layers_to_keep(sizes: Sequence[int]) -> int | None:
    """How many of the oldest frozen overlays stay, by what each takes on disk, in bytes.

    None: a merge is not worth it.
    """
    keep, merged = len(sizes), 0
    while keep and sizes[keep - 1] <= merged + SMALL_BYTES:
        keep -= 1
        merged += sizes[keep]
    return keep if len(sizes) - keep >= WORTH_LAYERS else None


class ChainMerger:
    """Merges of one disk, one at a time; files below `state_dir` go with their layers."""

    def __init__(self, chain: DiskChain, qmp: Qmp, state_dir: str) -> None:
        self._chain = chain
        self._qmp = qmp
        self._state_dir = state_dir
        self._job = f"merge-{chain.nodes}"
        self._keep: int | None = None
        """Of the merge that was begun."""

    async def begin(self) -> None:
        """Start a merge if one is worth it; the guest runs on. Without it all is as well."""
        if self._keep is not None or self._chain.template is None:
            return
        with contextlib.suppress(VmmError, OSError), anyio.CancelScope(shield=True):
            sizes = [_disk_bytes(path) for path in self._chain.layers[1:-1]]
            keep = layers_to_keep(sizes)
            if keep is not None and 2 * sum(sizes[keep:]) < _free_bytes(self._state_dir):
                await self._stream(keep)
                self._keep = keep

    async def settle(self) -> None:
        """End what was begun: to be called before the newest layer is frozen.

        Raises:
            VmmError: QEMU_GONE; TimeoutError if QEMU does not give the merge up.
        """
        if self._keep is None:
            return
        with anyio.CancelScope(shield=True):
            done = await self._end_job()
            keep, self._keep = self._keep, None
            if done:
                dropped = await self._chain.drop(self._qmp, keep + 1, len(self._chain.layers) - 1)
                ours = [path for path in dropped if path.startswith(self._state_dir + os.sep)]
                remove_files(*ours)

    async def _stream(self, keep: int) -> None:
        arguments = {
            "job-id": self._job,
            "device": self._chain.node(-1),
            "base-node": self._chain.node(keep),
            "backing-file": "",  # no path inside a file matters
            "speed": BYTES_PER_S,
            "auto-dismiss": False,
        }
        await self._qmp.execute("block-stream", arguments)

    async def _end_job(self) -> bool:
        """See the job concluded, give it up if it is not; whether it had done all."""
        with self._qmp.events("JOB_STATUS_CHANGE") as events:
            job = await self._look()
            if job["status"] != "concluded":
                with contextlib.suppress(VmmError):  # it ends by itself just now
                    await self._qmp.execute("job-cancel", {"id": self._job})
                with anyio.fail_after(CANCEL_TIMEOUT_S):
                    async for message in events:
                        if message["data"] == {"id": self._job, "status": "concluded"}:
                            break
                job = await self._look()
        await self._qmp.execute("job-dismiss", {"id": self._job})
        return "error" not in job

    async def _look(self) -> dict[str, Any]:
        """QEMU's word on the job, which stays until it is dismissed."""
        jobs: list[dict[str, Any]] = await self._qmp.execute("query-jobs")
        return next(job for job in jobs if job["id"] == self._job)


def _disk_bytes(path: str) -> int:
    return os.stat(path).st_blocks * 512


def _free_bytes(directory: str) -> int:
    """A copy that fills the host's disk would stop the guest, which needs none of it."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize
