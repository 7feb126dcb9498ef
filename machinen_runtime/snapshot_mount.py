"""Engine criu: keep the disks of a VM's mount at the very moment its process tree stands still.

machinen-dump (guest/tool_dump.c) says through one FIFO that CRIU has what it needs and the mount is
synced, and lets the tree go on after a line through another. In between the monitor freezes the
mount's layers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

from machinen_runtime.channel_exec import VsockExec, VsockExecOptions
from machinen_runtime.errors import MachinenError

DUMP_MOUNT = "MACHINEN_DUMP_MOUNT"
"""What tells the helper that there is a mount, and where. guest/tools.h has it and the FIFOs."""
_HELD = "/run/machinen/dump.held"
_GO = "/run/machinen/dump.go"
SYNC_TIMEOUT_MS = 60_000


async def freeze_during(
    dump: Callable[[], Awaitable[None]],
    freeze: Callable[[], Awaitable[list[str]]],
    vsock_path: Path,
) -> list[str]:
    """Run `dump`, and `freeze` while it holds the tree; the layers `freeze` tells of.

    A dump helper of the caller's own that does not know of this is followed by a sync and `freeze`.

    Raises:
        MachinenError: what either of them raised.
    """
    keeper = _Keeper(freeze, vsock_path)
    failure: MachinenError | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(keeper.keep_when_held)
        try:
            await dump()
        except MachinenError as error:
            failure = error
        tasks.cancel_scope.cancel()
    if problem := keeper.failure or failure:
        raise problem
    if keeper.layers is None:
        await _run(vsock_path, "sync", SYNC_TIMEOUT_MS)
        return await freeze()
    return keeper.layers


class _Keeper:
    def __init__(self, freeze: Callable[[], Awaitable[list[str]]], vsock_path: Path) -> None:
        self._freeze = freeze
        self._vsock_path = vsock_path
        self.layers: list[str] | None = None
        self.failure: MachinenError | None = None

    async def keep_when_held(self) -> None:
        """Wait until the guest holds the tree; say `go`, or `no` if the dump shall fail."""
        try:
            if await _run(self._vsock_path, f"cat {_HELD}", None) != "held\n":
                return
            answer = "no"
            try:
                self.layers = await self._freeze()
                answer = "go"
            finally:
                with anyio.CancelScope(shield=True):  # the tree waits
                    await _run(self._vsock_path, f"echo {answer} >{_GO}", SYNC_TIMEOUT_MS)
        except MachinenError as error:
            self.failure = error


async def _run(vsock_path: Path, command: str, timeout_ms: int | None) -> str:
    options = VsockExecOptions(exec_timeout_ms=timeout_ms)
    return (await VsockExec.run(vsock_path, command, options)).stdout
