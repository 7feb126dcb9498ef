"""A guest that stands still because the host's disk is full, and goes on when there is room.

QEMU stops a guest whose write finds no room, and keeps the write (`werror=enospc`, its default, see
qemu(1)): the guest hears of no error and loses nothing. `cont` tries the write again. No event says
that there is room, so it is looked for once a second, and only while somebody waits for it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from vmm.qmp import Qmp

if TYPE_CHECKING:
    from vmm.operations import Operations

ROOM_BYTES = 16 << 20
"""With so much the guest goes on by itself; with less it would soon stand still again."""
LEAST_BYTES = 1 << 20
"""With less than this it does not go on for anybody: a few clusters of a disk and their tables."""
LOOK_EVERY_S = 1.0
STOPPED_BY_DISK = "io-error"
"""QEMU's run state then."""


class DiskRoom:
    """Has the state of one VM follow its disk; `run` is the monitor's task for it."""

    def __init__(self, qmp: Qmp, operations: Operations) -> None:
        self._qmp = qmp
        self._operations = operations
        self._wanted = anyio.Event()

    async def run(self) -> None:
        """Follow QEMU until cancelled.

        Raises:
            VmmError: HOST_REFUSED (retryable) if the disk is full before the guest is up.
        """
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._go_on_with_room)
            with self._qmp.events("STOP") as stops:
                async for _ in stops:
                    if await self._operations.follow_disk():
                        self._wanted.set()

    async def _go_on_with_room(self) -> None:
        while True:
            await self._wanted.wait()
            while self._operations.waits_for_room:
                await anyio.sleep(LOOK_EVERY_S)
                if self._operations.free_bytes >= ROOM_BYTES:
                    await self._operations.go_on_with_room()
            self._wanted = anyio.Event()


def free_bytes(directory: str) -> int:
    """What a user without privileges may still write there; 0 if the directory is gone."""
    with suppress(OSError):
        found = os.statvfs(directory)
        return found.f_bavail * found.f_frsize
    return 0


def no_room(directory: str) -> str:
    """What to say of a guest that waits for room in `directory`."""
    mib = ROOM_BYTES >> 20
    return (
        f"the host's disk is full: the guest stands still until there is room for {directory}; "
        f"free {mib} MiB or more there, and it goes on by itself, with nothing lost"
    )
