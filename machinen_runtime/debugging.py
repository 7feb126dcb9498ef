"""start_debugger(), stop_debugger(): QEMU's gdbstub for a VM, on a socket of its owner."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from machinen_runtime.monitor_client import MonitorClient
from machinen_runtime.registry_entry import RegistryEntry


@dataclass(frozen=True, slots=True, kw_only=True)
class DebugSocket:
    """Where gdb connects. `held`: one has, and the VM stands still until it says otherwise."""

    path: str
    held: bool

    @property
    def command(self) -> str:
        """What to type."""
        return f"gdb -ex {shlex.quote(f'target remote {self.path}')}"


async def start_debugger(entry: RegistryEntry) -> DebugSocket:
    """Have the VM's QEMU listen for gdb; nothing changes if it does.

    Raises:
        BootError: VM_DIED, VM_CONTROL_FAILED.
    """
    reply = await MonitorClient(Path(entry.socket_path).parent).debug_start()
    return DebugSocket(path=str(reply.get("socket")), held=bool(reply.get("held")))


async def stop_debugger(entry: RegistryEntry) -> bool:
    """End that: gdb loses its connection, its breakpoints go, the VM runs on. False: it was off.

    Raises:
        BootError: VM_DIED, VM_CONTROL_FAILED.
    """
    return await MonitorClient(Path(entry.socket_path).parent).debug_stop()
