"""Reports of sandboxes that ended unexpectedly: list, read, remove, and the one of a VM."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from machinen_runtime.errors import ErrorCode, RegistryError
from machinen_runtime.paths import crashes_root
from machinen_runtime.registry_entry import RegistryEntry
from vmm.crash_report import (
    CONSOLE_CHARS,
    MAX_REPORT_BYTES,
    RECENT_EVENTS,
    CrashReport,
    report_id,
    reports_in,
    superfluous,
    timestamp,
    write_report,
)
from vmm.requests import CONSOLE_LOG, CONTROL_SOCKET, EVENT_LOG

END_TIMEOUT_S = 2.0
"""From QEMU's end to that of its monitor, which writes the report in between."""


def list_crashes() -> list[CrashReport]:
    """All reports that can be read, newest first."""
    read = [_read(path) for path in reversed(reports_in(crashes_root()))]
    return [report for report in read if report is not None]


def read_crash(wanted: str) -> CrashReport:
    """The report of this id, or the newest of the sandbox of this name or pid.

    Raises:
        RegistryError: CRASH_NOT_FOUND.
    """
    for report in list_crashes():
        if wanted in (report.id, report.name, str(report.pid)):
            return report
    message = f"there is no crash report {wanted}; `machinen crashes ls` lists them"
    raise RegistryError(ErrorCode.CRASH_NOT_FOUND, message)


def remove_crash(wanted: str) -> str:
    """Remove one report; its id. Raises as `read_crash`."""
    report = read_crash(wanted)
    crash_path(report.id).unlink(missing_ok=True)
    return report.id


def prune_crashes(*, dry_run: bool = False) -> list[Path]:
    """Remove reports that are older than 30 days or too many; which those are."""
    paths = superfluous(crashes_root())
    if not dry_run:
        for path in paths:
            path.unlink(missing_ok=True)
    return paths


def crash_path(report: str) -> Path:
    """The file of a report."""
    return crashes_root() / f"{report}.json"


def crash_of(run_dir: str | os.PathLike[str]) -> str | None:
    """The id of the report about the VM whose sockets lie, or lay, in `run_dir`."""
    ending = f"-{Path(run_dir).name}"
    ids = [path.stem for path in reports_in(crashes_root())]
    return next((each for each in reversed(ids) if each.endswith(ending)), None)


def crash_hint(run_dir: str | os.PathLike[str]) -> str:
    """What to append to the error of whoever waited for that VM; empty if it did not crash."""
    found = crash_of(run_dir)
    return f"; it crashed, see `machinen crashes show {found}`" if found else ""


def lost_link_hint(vsock_path: str | os.PathLike[str]) -> str:
    """As `crash_hint`, for whoever lost a stream: waits for the monitor's end if that is near."""
    run_dir = Path(vsock_path).parent
    with (
        suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as control,
    ):
        control.connect(str(run_dir / CONTROL_SOCKET))
        select.select([control], [], [], END_TIMEOUT_S)
    return crash_hint(run_dir)


def report_killed(entry: RegistryEntry) -> None:
    """Write the report of a VM whose monitor was killed, from the logs it could not remove."""
    if len(entry.cleanup_paths) < 2 or crash_of(entry.cleanup_paths[0]):
        return
    state_dir, now = Path(entry.cleanup_paths[1]), time.time()
    if not (state_dir / CONSOLE_LOG).is_file():
        return
    report = CrashReport(
        id=report_id(Path(entry.cleanup_paths[0]).name, now),
        time=timestamp(now),
        reason="MONITOR_KILLED",
        message="the monitor ended without a word: it was killed, or this host went down",
        vm_id=Path(entry.cleanup_paths[0]).name,
        pid=entry.pid,
        name=entry.name,
        events=_last_events(state_dir / EVENT_LOG),
        console_tail=_tail(state_dir / CONSOLE_LOG),
    )
    with suppress(OSError):  # without room for a report there is none
        write_report(crashes_root(), report)


def _tail(path: Path, size_bytes: int = CONSOLE_CHARS) -> str:
    with suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - size_bytes))
        return file.read(size_bytes).decode("utf-8", "replace")
    return ""


def _last_events(path: Path) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    for line in _tail(path, MAX_REPORT_BYTES // 2).splitlines()[-RECENT_EVENTS:]:
        with suppress(ValueError, RecursionError):
            event = json.loads(line)
            if isinstance(event, dict):
                events.append(cast("dict[str, Any]", event))
    return events


def _read(path: Path) -> CrashReport | None:
    """The report in a file; None if it is none."""
    try:
        with path.open("rb") as file:
            raw = json.loads(file.read(MAX_REPORT_BYTES + 1))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(raw, dict):
        return None
    fields = cast("dict[str, Any]", raw)
    known = {each.name: each for each in dataclasses.fields(CrashReport)}
    values = {
        name: fields[name]
        for name, each in known.items()
        if name in fields and _fits(fields[name], str(each.type))
    }
    try:
        report = CrashReport(**values)
    except TypeError:  # one of those it cannot be without
        return None
    return report if report.id == path.stem else None


def _fits(value: object, annotation: str) -> bool:
    """Whether a value of JSON has the type a field is annotated with."""
    types: dict[str, tuple[type, ...]] = {
        "str": (str,),
        "int": (int,),
        "str | None": (str, type(None)),
        "int | None": (int, type(None)),
        "dict[str, Any]": (dict,),
        "dict[str, str]": (dict,),
        "list[str]": (list,),
        "list[dict[str, Any]]": (list,),
    }
    if not isinstance(value, types[annotation]) or isinstance(value, bool):
        return False
    if annotation.startswith("list"):
        inner = str if annotation == "list[str]" else dict
        return all(isinstance(each, inner) for each in cast("list[object]", value))
    if annotation == "dict[str, str]":
        return all(isinstance(each, str) for each in cast("dict[str, object]", value).values())
    return True
