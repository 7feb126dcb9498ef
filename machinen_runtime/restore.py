"""restore(): read a bundle, launch from it, wrap in a handle."""

from __future__ import annotations

from typing import Any

from machinen_runtime.handle import VmHandle
from machinen_runtime.launch_bundle import BundleLaunch, launch_bundle
from machinen_runtime.memory_queue import memory_turn
from machinen_runtime.option_types import placed
from machinen_runtime.options import RestoreOptions

__all__ = ["restore"]


async def restore(**options: Any) -> VmHandle:
    """Start a VM from a snapshot bundle; it goes on where the source stood still.

    Keywords are the fields of `RestoreOptions`; `snap_dir` is required. The bundle says which
    engine made it, and every file of it is checked against its checksum first. What a running
    machine cannot change (memory, env, mounts, …) comes from the bundle, and asking for it is
    refused; a bundle of engine "criu" boots a new machine: memory, kernel and image may differ.

    Raises:
        BootError: BOOT_LIVE_MOUNT_OVERRIDE_UNKNOWN, BOOT_SNAPSHOT_NOT_FOUND,
            BOOT_SNAPSHOT_INVALID, BOOT_IMAGE_NOT_FOUND,
            BOOT_OPTION_INVALID; with `wait_for_memory_ms` FORK_MEMORY_BACKPRESSURE (retryable).
            RegistryError: REGISTRY_NAME_IN_USE.
    """
    chosen = RestoreOptions(**options)
    bundle = placed(chosen.snap_dir, chosen.cwd)
    wanted = BundleLaunch.from_options(bundle, chosen)
    async with memory_turn(chosen):
        launched = await launch_bundle(wanted)
    return VmHandle(launched, timeout_ms=chosen.timeout_ms, on_log=chosen.on_log)
