"""What the declaration exports as `_internal`: for tests of callers, not for programs."""

from __future__ import annotations

from types import SimpleNamespace

import anyio
from anyio.abc import ByteReceiveStream

from machinen_runtime.options import validate_memory_mib
from machinen_runtime.stdio import TAIL_BYTES

CONSOLE_TAIL_BYTES = TAIL_BYTES
"""How many bytes of a stream `output()` and `error_output()` keep: 1 MiB."""


async def collect(stream: ByteReceiveStream, cap_bytes: int = CONSOLE_TAIL_BYTES) -> str:
    """Read a stream to its end and return its last `cap_bytes` bytes as text (UTF-8, repaired)."""
    tail = bytearray()
    try:
        async for chunk in stream:
            tail += chunk
            if len(tail) > 2 * cap_bytes:
                del tail[: len(tail) - cap_bytes]
    except anyio.BrokenResourceError:
        pass  # the other end broke off: what came before is the output
    return bytes(tail[max(0, len(tail) - cap_bytes) :]).decode("utf-8", "replace")


_internal = SimpleNamespace(
    collect=collect,
    CONSOLE_TAIL_BYTES=CONSOLE_TAIL_BYTES,
    validate_memory_mib=validate_memory_mib,
)
