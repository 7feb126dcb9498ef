"""attach(): a live VM by name or pid, wrapped in a handle."""

from __future__ import annotations

from machinen_runtime.handle import VmHandle
from machinen_runtime.launch import Launched
from machinen_runtime.log_events import OnLog
from machinen_runtime.registry import find


async def attach(
    *, pid: int | None = None, name: str | None = None, on_log: OnLog | None = None
) -> VmHandle:
    """A handle to a VM that any process booted. Its stdin, stdout and stderr are empty streams.

    Raises:
        RegistryError: REGISTRY_VM_NOT_FOUND, also if not exactly one of `pid` and `name` is given.
    """
    entry = find(pid=pid, name=name)
    return VmHandle(Launched(entry, {}, None), timeout_ms=None, on_log=on_log)
