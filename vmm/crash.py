"""What a monitor writes down when its VM ends unexpectedly; imported only then."""

from __future__ import annotations

import dataclasses
import platform
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

from vmm.crash_report import CrashReport, panic_in, report_id, timestamp, write_report
from vmm.errors import VmmError
from vmm.event_log import EventLog
from vmm.records import OperationRecord
from vmm.requests import EXIT_GUEST_FAILED, EXIT_QEMU_DIED
from vmm.spec import VmSpec

LAST_OPERATIONS = 5
CONSOLE_SEARCHED_BYTES = 65536
"""A panic is followed by registers and stacks; the report keeps the end of it."""
NOT_CRASHES = frozenset(
    {
        "TERMINATED",
        "WORKLOAD_FAILED",
        "PORT_IN_USE",
        "PORT_FORBIDDEN",
        "MOUNT_FAILED",
        "MOUNT_PATH_INVALID",
        "MOUNT_STATE_INVALID",
        "SPEC_INVALID",
    }
)
"""Ends that somebody asked for, or whose cause is what was asked for."""


def why_it_crashed(
    status: int, failure: VmmError | None, error: Exception | None, *, asked: bool
) -> VmmError | None:
    """Reason and sentence if the VM ended unexpectedly; None if somebody wanted it to end."""
    if error is not None:
        return VmmError("MONITOR_FAILED", f"the monitor failed: {_innermost(error)!r}")
    if asked:
        return None
    if failure is not None:
        return None if failure.code in NOT_CRASHES else failure
    return {
        EXIT_QEMU_DIED: VmmError("QEMU_DIED", "QEMU ended unexpectedly"),
        EXIT_GUEST_FAILED: VmmError("GUEST_FAILED", "the guest went down by itself"),
    }.get(status)


def keep_crash_report(
    spec: VmSpec,
    why: VmmError,
    *,
    name: str | None,
    state: str | None,
    uptime_ms: int,
    status: int,
    qemu_status: int | None,
    argv: list[str],
    operations: Iterable[OperationRecord],
    events: EventLog,
    console: str,
    stderr: bytes,
    error: Exception | None,
) -> str | None:
    """Write the report; its path, or None if that failed, which the log says."""
    import os

    now = time.time()
    report = CrashReport(
        id=report_id(spec.id, now),
        time=timestamp(now),
        reason=why.code,
        message=described(why, qemu_status, console),
        vm_id=spec.id,
        pid=os.getpid(),
        name=name,
        state=state,
        uptime_ms=uptime_ms,
        exit_status=status,
        qemu_status=qemu_status,
        machine=dataclasses.asdict(spec.machine),
        versions=_versions(),
        argv=argv,
        operations=[dataclasses.asdict(each) for each in list(operations)[-LAST_OPERATIONS:]],
        events=list(events.recent),
        console_tail=console,
        qemu_stderr=stderr.decode("utf-8", "replace"),
        traceback="".join(traceback.format_exception(error)) if error else "",
    )
    try:
        path = str(write_report(Path(spec.crash_dir or "."), report))
    except OSError as problem:
        events.write("crash", f"no crash report: {problem}", level="error", reason=why.code)
        return None
    events.write("crash", report.message, level="error", reason=why.code, report=path)
    return path


def described(why: VmmError, qemu_status: int | None, console: str) -> str:
    """The sentence, with QEMU's signal or the kernel's last words."""
    panic = panic_in(console)
    if panic is not None:
        return f"{why}: kernel panic: {panic}"
    if qemu_status:
        how = f"signal {-qemu_status}" if qemu_status < 0 else f"status {qemu_status}"
        return f"{why} ({how})"
    return str(why)


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]  # pyright: ignore[reportUnknownMemberType,reportUnknownVariableType]
    return error  # pyright: ignore[reportUnknownVariableType]


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "host": platform.release()}
    try:
        found["machinen"] = version("machinen")
    except PackageNotFoundError:
        found["machinen"] = "not installed"
    return found
