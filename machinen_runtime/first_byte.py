"""How long a VM takes to its first sign of life."""

from __future__ import annotations

import time

import anyio
from anyio.abc import ByteReceiveStream

from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.handle import VmHandle


async def measure_first_byte(vm: VmHandle) -> float:
    """Milliseconds from this call to the first byte of the console or of session `main`.

    What comes is kept for `output()` and `error_output()`, and told to `on_log`; a reader of
    `vm.stdout` does not see that first chunk. Ask as soon as `boot()` has returned.

    Raises:
        BootError: VM_DIED if the VM ends without a word; an attached or detached handle, whose
            streams are empty, is told the same.
    """
    started = time.monotonic()
    arrived: list[float] = []

    async def watch(stream: ByteReceiveStream) -> None:
        try:
            await stream.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            return
        arrived.append((time.monotonic() - started) * 1000)
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch, vm.stdout)
        tasks.start_soon(watch, vm.stderr)
    if not arrived:
        raise BootError(
            ErrorCode.VM_DIED, "the VM's output ended without a byte; it has ended, or is not ours"
        )
    return arrived[0]
