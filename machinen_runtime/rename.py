"""Give a running VM another name: in the registry, in its monitor and in its guest."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import anyio

from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.launch import hostname_for
from machinen_runtime.monitor_client import MonitorClient
from machinen_runtime.registry import claim_name, find, release_name, rename_entry
from machinen_runtime.registry_entry import RegistryEntry

LOCK_FILE = "rename.lock"


async def rename_vm(entry: RegistryEntry, name: str) -> RegistryEntry:
    """Rename the VM and return its entry as it is then.

    The name is claimed for this process first, so that of several who want it one wins before
    anything has changed; if this process dies on the way, the claim is void. Once the guest has
    been told, the rest is not interrupted.

    Raises:
        RegistryError: REGISTRY_NAME_INVALID, REGISTRY_NAME_IN_USE, REGISTRY_VM_NOT_FOUND.
        BootError: VM_CONTROL_FAILED (retryable) if it is paused or somebody else is renaming it,
            VM_DIED.
    """
    run_dir = Path(entry.socket_path).parent
    lock = _lock(run_dir)
    try:
        current = find(pid=entry.pid)
        return current if name == current.name else await _rename(current, name, run_dir)
    finally:
        os.close(lock)


async def _rename(entry: RegistryEntry, name: str, run_dir: Path) -> RegistryEntry:
    hostname = hostname_for(name).replace("{pid}", str(entry.pid))
    claim_name(name, os.getpid())
    try:
        with anyio.CancelScope(shield=True):
            await MonitorClient(run_dir).rename(name, hostname)
            entry = rename_entry(entry.pid, name, os.getpid())
    except BaseException:
        release_name(name, os.getpid())
        raise
    return entry


def _lock(run_dir: Path) -> int:
    """Hold the lock on this VM's name until the descriptor is closed, or this process dies."""
    try:
        descriptor = os.open(run_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        message = "the VM is gone; `machinen ls` shows those that run"
        raise BootError(ErrorCode.VM_DIED, message) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        message = "somebody else is renaming this VM just now; try again"
        raise BootError(ErrorCode.VM_CONTROL_FAILED, message, retryable=True) from error
    return descriptor
