"""Reports of VMs that ended unexpectedly: one JSON file each, in a directory that never grows big.

Part of the contract: a monitor writes the report of its own VM, the runtime that of a monitor which
was killed. A file is `<UTC time>-<VM id>.json`, so names sort by age. It holds what a guest wrote
to its console, as text in JSON strings: readers have to treat it as such.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_REPORTS = 50
MAX_REPORT_BYTES = 256 << 10
MAX_AGE_S = 30 * 86_400.0
"""`machinen gc` removes older ones."""
MAX_TEXT_CHARS = 2000
CONSOLE_CHARS, STDERR_CHARS, TRACEBACK_CHARS, ARGV_CHARS = 8000, 4000, 8000, 16_000
RECENT_EVENTS = 30

REPORT_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-[A-Za-z0-9_.-]{1,64}\.json")
_PANIC = re.compile(r"Kernel panic - not syncing: ([^\r\n]{1,200})")


@dataclass(frozen=True, slots=True, kw_only=True)
class CrashReport:
    """Why one VM ended, and what was known of it then.

    `reason` is a monitor's code: QEMU_DIED, GUEST_FAILED, AGENT_UNAVAILABLE, MONITOR_FAILED,
    MONITOR_KILLED, …; `message` the same as a sentence. `qemu_status` is QEMU's exit status, its
    signal negative; `exit_status` the monitor's. `operations` are the last boots, snapshots and so
    on with their phases, `events` the end of the monitor's log. Times are UTC.
    """

    id: str
    time: str
    reason: str
    message: str
    vm_id: str
    pid: int
    name: str | None = None
    state: str | None = None
    uptime_ms: int | None = None
    exit_status: int | None = None
    qemu_status: int | None = None
    machine: dict[str, Any] = field(default_factory=dict[str, Any])
    versions: dict[str, str] = field(default_factory=dict[str, str])
    argv: list[str] = field(default_factory=list[str])
    operations: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    console_tail: str = ""
    qemu_stderr: str = ""
    traceback: str = ""


def timestamp(seconds: float) -> str:
    """A time since 1970 in RFC 3339, UTC, to the millisecond."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds * 1000) % 1000:03d}Z"


def report_id(vm_id: str, seconds: float) -> str:
    """What a report is called."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds)) + f"-{vm_id}"


def panic_in(console: str) -> str | None:
    """What a kernel said when it gave up, if the console shows that; printable, bounded."""
    found = _PANIC.findall(console)
    if not found:
        return None
    return "".join(char if char.isprintable() else "?" for char in found[-1]).strip()


def write_report(directory: Path, report: CrashReport) -> Path:
    """Keep a report, and no more of them than there is room for.

    Raises:
        OSError: it cannot be written.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / f"{report.id}.json"
    temporary = directory / f".{report.id}.{os.getpid()}"
    try:
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        with open(descriptor, "wb") as file:
            file.write(encoded(report))
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    for old in superfluous(directory, max_age_s=None):
        old.unlink(missing_ok=True)
    return path


def encoded(report: CrashReport) -> bytes:
    """JSON of at most MAX_REPORT_BYTES: what is long loses its beginning, then its details go."""
    cut = dataclasses.replace(
        report,
        message=report.message[:MAX_TEXT_CHARS],
        console_tail=report.console_tail[-CONSOLE_CHARS:],
        qemu_stderr=report.qemu_stderr[-STDERR_CHARS:],
        traceback=report.traceback[-TRACEBACK_CHARS:],
        argv=_cut_argv(report.argv),
    )
    dispensable: list[dict[str, Any]] = [{"events": []}, {"operations": []}, {"argv": []}]
    while len(text := _text(cut)) > MAX_REPORT_BYTES and dispensable:
        cut = dataclasses.replace(cut, **dispensable.pop(0))
    return text


def _text(report: CrashReport) -> bytes:
    fields = {"schema_version": 1, **dataclasses.asdict(report)}
    return json.dumps(fields, indent=1).encode("ascii") + b"\n"


def _cut_argv(argv: list[str]) -> list[str]:
    kept: list[str] = []
    room = ARGV_CHARS
    for argument in argv:
        if len(argument) > room:
            return [*kept, "…"]
        kept.append(argument)
        room -= len(argument)
    return kept


def reports_in(directory: Path) -> list[Path]:
    """The files of all reports, oldest first; none if there is no such directory.

    Those from the future were written before the clock was set back: they come first.
    """
    now = report_id("", time.time() + 1)
    try:
        names = sorted(os.listdir(directory), key=lambda name: (name <= now, name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [directory / name for name in names if REPORT_NAME.fullmatch(name)]


def superfluous(directory: Path, *, max_age_s: float | None = MAX_AGE_S) -> list[Path]:
    """Reports that are too many, and those older than `max_age_s` seconds."""
    paths = reports_in(directory)
    old = paths[: max(0, len(paths) - MAX_REPORTS)]
    if max_age_s is not None:
        limit = report_id("", time.time() - max_age_s)
        old += [path for path in paths[len(old) :] if path.name < limit]
    return old
