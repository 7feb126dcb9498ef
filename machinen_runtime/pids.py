"""Is the process behind a pid still the one we started? Signal it, wait for it.

A pid alone says nothing: the kernel reuses it. Whoever trusts one compares the process' identity
(the boot of the host and the start tick, exact), or what older entries recorded: the name of the
executable and the start time. Sources: proc(5), pidfd_open(2).
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Literal, Protocol, Self, TypeAlias

PidStatus: TypeAlias = Literal["alive", "dead", "recycled"]
"""alive: our process. dead: none, or a zombie. recycled: a stranger wears its number."""

START_TIME_SKEW_MS = 5000


class ExpectedProcess(Protocol):
    """What was recorded about a process when it was ours. A `RegistryEntry` is one."""

    @property
    def vmm_exe(self) -> str | None:
        """Path of its executable; the last part is compared."""
        ...

    @property
    def started_at(self) -> float | None:
        """When it started, in ms since 1970; compared within five seconds."""
        ...

    @property
    def process_identity(self) -> str | None:
        """Its `process_identity()`; if recorded, it alone decides."""
        ...


@dataclass(frozen=True, slots=True)
class KnownProcess:
    """A process that was there when we looked."""

    process_identity: str | None
    vmm_exe: str | None = None
    started_at: float | None = None

    @classmethod
    def of(cls, pid: int) -> Self:
        """The one that `pid` is now. Of one that has gone already nobody is the same."""
        return cls(process_identity(pid) or "gone")


def validate_pid(pid: int, expected: ExpectedProcess | None = None) -> PidStatus:
    """Whether `pid` is alive and still the `expected` process. What cannot be read counts as ours.

    A process that we may not signal is "dead": it cannot be one of ours.
    """
    if isinstance(pid, bool) or pid <= 0:
        return "dead"
    try:
        os.kill(pid, 0)
    except (OSError, OverflowError):
        return "dead"
    stat = _stat_fields(pid)
    if stat is None:
        return "alive"
    if stat[0] in ("Z", "X"):
        return "dead"
    if expected is None:
        return "alive"
    if expected.process_identity is not None:
        return "alive" if _identity(stat) == expected.process_identity else "recycled"
    return "alive" if _looks_like(pid, expected) else "recycled"


def process_identity(pid: int) -> str | None:
    """`<boot id>/<start tick>`: unique to one process of one boot of this host. None: no such."""
    stat = _stat_fields(pid)
    return None if stat is None else _identity(stat)


def process_start_time(pid: int) -> float | None:
    """When `pid` started, in ms since 1970 (to about 10 ms, moves when the clock is stepped)."""
    stat = _stat_fields(pid)
    boot = _boot_time_ms()
    if stat is None or boot is None:
        return None
    return boot + int(stat[19]) * 1000 / os.sysconf("SC_CLK_TCK")


def process_exe(pid: int) -> str | None:
    """Path of the program `pid` runs; None if it is gone or belongs to somebody else."""
    try:
        # The kernel adds " (deleted)" once a package upgrade has replaced the file.
        return os.readlink(f"/proc/{pid}/exe").removesuffix(" (deleted)")
    except OSError:
        return None


def child_pids(pid: int) -> list[int]:
    """The direct children of `pid`, of all its threads."""
    children: list[int] = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return children
    for task in tasks:
        with suppress(OSError), open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
            children += [int(child) for child in file.read().split()]
    return children


def signal_process(
    pid: int, expected: ExpectedProcess | None, signal_number: signal.Signals
) -> PidStatus:
    """Send a signal if `pid` is still the `expected` process; "alive" means it was sent.

    The pidfd is opened before the check, so a pid recycled in between is never hit.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except (OSError, ValueError, OverflowError):
        return "dead"
    try:
        status = validate_pid(pid, expected)
        if status == "alive":
            try:
                signal.pidfd_send_signal(pidfd, signal_number)
            except ProcessLookupError:
                return "dead"
        return status
    finally:
        os.close(pidfd)


async def wait_process_gone(
    pid: int, expected: ExpectedProcess | None = None, *, timeout_ms: float | None = None
) -> bool:
    """Wait until `pid` is no longer the `expected` process; False if the time ran out first.

    Works for processes that are not our children; a zombie counts as gone.
    """
    import anyio  # here, because `machinen ls` needs this file but no event loop

    try:
        pidfd = os.pidfd_open(pid)
    except (OSError, ValueError, OverflowError):
        return True
    try:
        if validate_pid(pid, expected) != "alive":
            return True
        limit = None if timeout_ms is None else timeout_ms / 1000
        with anyio.move_on_after(limit):
            await anyio.wait_readable(pidfd)
            return True
        return False
    finally:
        os.close(pidfd)


async def end_process(pid: int, expected: ExpectedProcess | None, *, kill_after_ms: float) -> None:
    """Wait until the `expected` process has gone; after so long it is killed."""
    if not await wait_process_gone(pid, expected, timeout_ms=kill_after_ms):
        signal_process(pid, expected, signal.SIGKILL)
        await wait_process_gone(pid, expected, timeout_ms=kill_after_ms)


def _looks_like(pid: int, expected: ExpectedProcess) -> bool:
    exe = process_exe(pid)
    if expected.vmm_exe is not None and exe is not None:
        names = {os.path.basename(expected.vmm_exe)}
        # A venv's `python` is a link, and the kernel names what it leads to.
        names.add(os.path.basename(os.path.realpath(expected.vmm_exe)))
        if os.path.basename(exe) not in names:
            return False
    started = process_start_time(pid)
    if expected.started_at is None or started is None:
        return True
    return abs(started - expected.started_at) <= START_TIME_SKEW_MS


def _stat_fields(pid: int) -> list[str] | None:
    """Fields 3 (state) and on of /proc/<pid>/stat; the command before them may hold anything."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    fields = text[text.rfind(b")") + 1 :].decode("ascii", "replace").split()
    return fields if len(fields) > 19 else None


def _identity(stat: list[str]) -> str:
    return f"{_boot_id()}/{stat[19]}"


@cache
def _boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def _boot_time_ms() -> float | None:
    with open("/proc/stat", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("btime "):
                return int(line.split()[1]) * 1000.0
    return None
