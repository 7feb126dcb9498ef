"""Warm boots: start from a template where one fits, else boot the kernel and keep a template.

A template is one guest just after its agent came up; which one fits, template_key.py says. A boot
never fails because of a template and never waits for one: whatever is wrong with it, the kernel is
booted, and the console log's first line says why.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import anyio
from anyio import to_thread

from machinen_runtime import templates
from machinen_runtime.bundle import VM_DIR
from machinen_runtime.debug import debug
from machinen_runtime.errors import ErrorCode, MachinenError
from machinen_runtime.launch import Launched, LaunchRequest, TemplateUnusableError
from machinen_runtime.monitor_process import MonitorLink
from machinen_runtime.paths import remove_tree
from machinen_runtime.standby import ensure_standby, take_standby
from machinen_runtime.template_cache import evict
from machinen_runtime.template_key import template_key, why_never_warm
from machinen_runtime.template_start import from_template

LOCKED = "its template is being made, or cannot be locked"
DAMAGED = (
    ErrorCode.BOOT_IMAGE_NOT_FOUND,
    ErrorCode.BOOT_SNAPSHOT_INVALID,
    ErrorCode.BOOT_SNAPSHOT_NOT_FOUND,
)


class Start(Protocol):
    """Launches a VM, on a monitor that waits if there is one."""

    def __call__(
        self, request: LaunchRequest, monitor: MonitorLink | None = None, /
    ) -> Awaitable[Launched]:
        """As `launch`."""
        ...


async def launch_warm(request: LaunchRequest, start: Start) -> Launched:
    """Launch by `start`, from a standby or a template if one fits; else keep one of this VM for the
    next. The next has a standby, too.

    Raises what `start` raises, except TemplateUnusableError.
    """
    reason = why_never_warm(request)
    if reason is not None:
        return await launch_cold(request, start, reason)
    try:
        key = await to_thread.run_sync(template_key, request)
    except OSError as error:
        return await launch_cold(request, start, f"{error.filename or 'a file'} cannot be read")
    launched = await _start_from_template(request, start, key)
    if not isinstance(launched, Launched):
        launched = await _launch_and_keep(request, start, key, launched)
    with anyio.CancelScope(shield=True):  # from here on somebody has to end the VM
        await to_thread.run_sync(ensure_standby, request, key)
    return launched


async def _start_from_template(request: LaunchRequest, start: Start, key: str) -> Launched | str:
    """The VM, or why it could not be started from the template of `key`."""
    with templates.template_lock(key, exclusive=False) as locked:
        if not locked:
            return LOCKED
        try:
            template = await to_thread.run_sync(templates.open_template, key)
            if template is None:
                return "there was no template of this machine"
            launched = await _start_warm(from_template(request, template), start, key)
        except TemplateUnusableError as error:
            reason = f"its template did not come up: {_first_line(error)}"
        except MachinenError as error:
            if error.code not in DAMAGED:
                raise
            reason = f"its template was damaged: {_first_line(error)}"
        else:
            templates.note_success(key)
            return launched
    await to_thread.run_sync(templates.note_failure, key)
    return reason


async def _start_warm(request: LaunchRequest, start: Start, key: str) -> Launched:
    """Start from a standby that waits, else as `request` says."""
    if (monitor := await take_standby(request, key)) is not None:
        note = f"warm boot from a standby of template {key}"
        try:
            return await start(replace(request, vm_id=monitor.vm_id, note=note), monitor)
        except TemplateUnusableError as error:
            debug("boot", f"standby {monitor.vm_id} did not come up: {error}")
    return await start(request)


async def _launch_and_keep(request: LaunchRequest, start: Start, key: str, reason: str) -> Launched:
    """Boot the kernel, and keep a template unless somebody else does, or it was in vain before."""
    debug("boot", f"template {key}: {reason}")
    with templates.template_lock(key, exclusive=True) as locked:
        if not locked:
            return await launch_cold(request, start, LOCKED)
        if templates.failures(key) >= templates.MAX_FAILURES:
            reason += "; so often that none is made for a day, or until `machinen cache prune`"
            return await launch_cold(request, start, reason)
        try:
            staging = await to_thread.run_sync(templates.new_staging, key)
        except OSError as error:
            return await launch_cold(request, start, f"no template can be made: {error.strerror}")
        try:
            request = replace(request, template_dir=staging / VM_DIR)
            launched = await launch_cold(request, start, reason)
            with anyio.CancelScope(shield=True):  # from here on somebody has to end the VM
                await to_thread.run_sync(_keep, staging, key, launched, request.image_path)
            return launched
        finally:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(remove_tree, staging)


def _keep(staging: Path, key: str, launched: Launched, image: str | None) -> None:
    """Make a template of what the monitor wrote. If that fails there is none, and the next boot
    tries again.
    """
    try:
        match launched.template:
            case {"report": report, "machine_sum": str(machine_sum)}:
                templates.publish(staging, key, report, machine_sum, image)
            case {"error": error}:
                debug("boot", f"template {key}: {error}")
                return
            case _:
                return  # a monitor that knows of no templates
    except (OSError, TypeError, KeyError, ValueError) as error:
        debug("boot", f"template {key} could not be kept: {error}")
        return
    evict(spare=key)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


async def launch_cold(request: LaunchRequest, start: Start, reason: str) -> Launched:
    """Boot the kernel, and say why."""
    note = f"cold boot: {reason}"
    return await start(replace(request, booted="cold", cold_reason=reason, note=note))
