"""Boot a VM that shall outlive this process: its console is kept, whether it came up or not.

Nobody is there to read the console later, and a boot that failed takes its own log along.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from anyio import to_thread

from machinen_runtime.boot_log import boot_snapshot_path, write_boot_snapshot
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.launch import (
    Launched,
    LaunchRequest,
    TemplateUnusableError,
    launch,
    start_monitor,
)
from machinen_runtime.monitor_process import MonitorLink
from machinen_runtime.registry import update
from machinen_runtime.registry_entry import RegistryEntry
from vmm.requests import CONSOLE_LOG

NOT_READY = (ErrorCode.VM_DIED, ErrorCode.BOOT_TIMEOUT)


async def launch_detached(
    request: LaunchRequest, monitor: MonitorLink | None = None, *, timeout_ms: float | None
) -> Launched:
    """As `launch`, within `timeout_ms` (None: as long as the monitor waits for the guest).

    Raises:
        BootError: BOOT_DETACHED_READINESS_FAILED naming the boot log, if the guest did not come up;
            those of `launch` for all else.
    """
    if timeout_ms is not None:
        limit_ms = math.ceil(timeout_ms)
        if request.restore is not None:  # a template's guest has less time: there is another way
            limit_ms = min(limit_ms, request.boot_timeout_ms)
        request = replace(request, boot_timeout_ms=limit_ms)
    monitor = monitor or start_monitor(request)
    try:
        launched = await launch(request, monitor)
    except TemplateUnusableError:
        raise  # it is booted in another way then, with a boot log of its own
    except BootError as error:
        if error.code not in NOT_READY:
            raise
        raise await to_thread.run_sync(_not_ready, monitor, str(error)) from error
    launched.entry = await to_thread.run_sync(_keep_boot_log, launched.entry)
    return launched


def _not_ready(monitor: MonitorLink, reason: str) -> BootError:
    path = boot_snapshot_path(monitor.some_pid)
    text = f"{monitor.console}\n{reason}\n"
    is_written = write_boot_snapshot(path, text)
    where = f"its console is in {path}" if is_written else f"its console could not be put in {path}"
    message = f"the detached VM did not come up ({where}): {reason}"
    return BootError(ErrorCode.BOOT_DETACHED_READINESS_FAILED, message)


def _keep_boot_log(entry: RegistryEntry) -> RegistryEntry:
    """Save what the console said up to now. What cannot be read or written fails no boot."""
    try:
        log = Path(entry.cleanup_paths[1], CONSOLE_LOG)
        console = log.read_text(encoding="utf-8", errors="replace")
    except OSError:  # the workload has ended already, and the monitor cleaned up
        return entry
    path = boot_snapshot_path(entry.pid)
    if not write_boot_snapshot(path, console):
        return entry
    try:
        update(entry, lambda current: replace(current, boot_log_path=str(path)))
    except OSError:  # nobody will know of the log, so it goes; the VM is up
        path.unlink(missing_ok=True)
        return entry
    return replace(entry, boot_log_path=str(path))
