"""compare(): how two VMs differ that were one: files, processes, environment, memory."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import anyio

from machinen_runtime.channel_sessions import list_sessions
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.guest_survey import (
    PAGE_BYTES,
    Answer,
    FileFacts,
    ProcessFacts,
    changed_names,
    environment_of,
    facts_of,
    parsed_names,
    printable,
    processes_of,
    sums_of,
)
from machinen_runtime.lineage import parted_at_ms
from machinen_runtime.monitor_client import MonitorClient
from machinen_runtime.registry_entry import RegistryEntry
from vmm.requests import StatsEvent

MAX_NAMES = 20_000
"""So many names are looked at in both guests."""
MAX_READ_BYTES = 64 << 20
"""Larger files of the same size are not read to compare them."""
MEASURE_MS = 250
"""The least a monitor measures in."""
CLOCK_SLACK_MS = 2000
"""A guest's clock and ours agree no better. What is the same in both is not listed anyway."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileDifference:
    """A path at which two guests have something else."""

    path: str
    """As it may be drawn."""
    name: bytes = field(default=b"", repr=False)
    """As the guests have it: for `file_difference()`."""
    what: str
    """`only in a`, `only in b`, or what differs: `contents, mode`."""
    a: FileFacts | None = None
    b: FileFacts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessDifference:
    """A process that only one of two guests has, or that runs something else there."""

    a: ProcessFacts | None = None
    b: ProcessFacts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class VariableDifference:
    """A variable of the login shell's environment; None where it is not set."""

    name: str
    a: str | None = None
    b: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryFacts:
    """What one VM has of its host's memory."""

    rss_bytes: int
    private_bytes: int
    """Its own: what it has changed, and what nobody shares any more."""
    shared_bytes: int
    balloon_bytes: int

    @property
    def private_pages(self) -> int:
        """Pages of 4096 bytes."""
        return self.private_bytes // PAGE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class VmDifference:
    """How the VMs `a` and `b` differ. Guests' texts are printable."""

    a: RegistryEntry
    b: RegistryEntry
    parted_at_ms: float | None
    """Until when they were the same, in ms since 1970; None if they are not related."""
    files: list[FileDifference] = field(default_factory=list[FileDifference])
    files_problem: str = ""
    """Why files are not, or not all, compared."""
    processes: list[ProcessDifference] = field(default_factory=list[ProcessDifference])
    same_processes: int = 0
    """How many both have."""
    environment: list[VariableDifference] = field(default_factory=list[VariableDifference])
    same_variables: int = 0
    """How many are set to the same in both."""
    memory_a: MemoryFacts
    memory_b: MemoryFacts
    elapsed_ms: float


async def compare(a: RegistryEntry, b: RegistryEntry) -> VmDifference:
    """How two running VMs differ since they were one.

    Files are those whose inode changed in either since then, by the guests' clocks. VMs that are
    not related are compared since the younger of them was started. The guests need GNU find.

    Raises:
        BootError: VM_CONTROL_FAILED if one of them is paused or is the other, VM_DIED.
        ExecError: EXEC_AGENT_UNAVAILABLE, EXEC_AGENT_TIMEOUT (retryable).
    """
    started = time.monotonic()
    if a.pid == b.pid:
        raise BootError(ErrorCode.VM_CONTROL_FAILED, "that is one sandbox; name two")
    parted = parted_at_ms(a, b)
    since = parted if parted is not None else max(a.started_at, b.started_at)
    files = _Files(a.socket_path, b.socket_path, since - CLOCK_SLACK_MS)
    sides = [_Side(a), _Side(b)]
    await not_paused(a)
    await not_paused(b)
    async with one_error():
        async with anyio.create_task_group() as tasks:
            for side in sides:
                tasks.start_soon(side.look)
        await files.compare()  # afterwards: what lists files is a process, too
    processes, same_processes = compared_processes(*(side.processes for side in sides))
    variables, same_variables = compared_variables(*(side.environment for side in sides))
    return VmDifference(
        a=a, b=b, parted_at_ms=parted, files=files.found, files_problem=files.problem,
        processes=processes, same_processes=same_processes,
        environment=variables, same_variables=same_variables,
        memory_a=sides[0].memory, memory_b=sides[1].memory,
        elapsed_ms=(time.monotonic() - started) * 1000,
    )  # fmt: skip


async def not_paused(entry: RegistryEntry) -> None:
    """Refuse a VM that cannot answer.

    Raises:
        BootError: VM_CONTROL_FAILED.
    """
    status = await MonitorClient(Path(entry.socket_path).parent).status()
    if status.trouble:
        message = f"{entry.name or entry.pid} cannot answer: {status.trouble}"
        raise BootError(ErrorCode.VM_CONTROL_FAILED, message, retryable=True)
    if status.state == "paused" and not status.asleep:
        message = f"{entry.name or entry.pid} is paused and cannot answer; resume it first"
        raise BootError(ErrorCode.VM_CONTROL_FAILED, message)


@asynccontextmanager
async def one_error() -> AsyncGenerator[None]:
    """The first error of a task group, not a group of it."""
    try:
        yield
    except ExceptionGroup as group:
        raise _first(group) from None


def _first(group: ExceptionGroup[Any]) -> Exception:
    error = cast("Exception", group.exceptions[0])
    return (
        _first(cast("ExceptionGroup[Any]", error)) if isinstance(error, ExceptionGroup) else error
    )


class _Side:
    """Processes, environment and memory of one VM."""

    def __init__(self, entry: RegistryEntry) -> None:
        self._entry = entry
        self.processes: list[ProcessFacts] = []
        self.environment: dict[str, str] = {}
        self.memory = MemoryFacts(rss_bytes=0, private_bytes=0, shared_bytes=0, balloon_bytes=0)

    async def look(self) -> None:
        """Ask guest and monitor."""
        path = self._entry.socket_path
        self.processes = await processes_of(path)
        shell = next((each.pid for each in await list_sessions(path) if each.name == "main"), None)
        if shell is not None:
            self.environment = await environment_of(path, shell)
        self.memory = await _memory_of(self._entry)


async def _memory_of(entry: RegistryEntry) -> MemoryFacts:
    monitor = MonitorClient(Path(entry.socket_path).parent)
    async with monitor.events(stats_interval_ms=MEASURE_MS) as events:
        async for event in events:
            if isinstance(event, StatsEvent):
                return MemoryFacts(
                    rss_bytes=event.rss_bytes, private_bytes=event.private_bytes,
                    shared_bytes=event.shared_bytes, balloon_bytes=event.balloon_bytes,
                )  # fmt: skip
    raise BootError(ErrorCode.VM_DIED, f"{entry.name or entry.pid} ended while it was compared")


class _Files:
    """The files of two guests that differ."""

    def __init__(self, a: str, b: str, since_ms: float) -> None:
        self._paths = (a, b)
        self._since_ms = since_ms
        self.found: list[FileDifference] = []
        self.problem = ""

    async def compare(self) -> None:
        """Which names may differ, what is there, and whether contents do."""
        names = await self._candidates()
        facts: list[dict[bytes, FileFacts]] = [{}, {}]
        sums: list[dict[bytes, str]] = [{}, {}]

        async def look(side: int) -> None:
            facts[side] = await facts_of(self._paths[side], names)

        async def read(side: int, wanted: list[bytes]) -> None:
            sums[side] = await sums_of(self._paths[side], wanted)

        async with anyio.create_task_group() as tasks:
            for side in (0, 1):
                tasks.start_soon(look, side)
        alike = [name for name in names if _needs_reading(*(f.get(name) for f in facts))]
        async with anyio.create_task_group() as tasks:
            for side in (0, 1):
                tasks.start_soon(read, side, alike)
        self.found = compared_files(names, facts[0], facts[1], sums[0], sums[1])

    async def _candidates(self) -> list[bytes]:
        answers: list[Answer] = []

        async def ask(path: str) -> None:
            answers.append(await changed_names(path, self._since_ms))

        async with anyio.create_task_group() as tasks:
            for path in self._paths:
                tasks.start_soon(ask, path)
        if any(answer.exit_code == 3 for answer in answers):
            self.problem = "files are not compared: that needs GNU find in both guests"
            return []
        names = sorted(set[bytes]().union(*(parsed_names(answer.data) for answer in answers)))
        if len(names) > MAX_NAMES or any(answer.is_cut for answer in answers):
            self.problem = (
                f"very much has changed: only {min(len(names), MAX_NAMES)} names compared"
            )
        return names[:MAX_NAMES]


def compared_files(
    names: Iterable[bytes],
    a: Mapping[bytes, FileFacts],
    b: Mapping[bytes, FileFacts],
    sums_a: Mapping[bytes, str],
    sums_b: Mapping[bytes, str],
) -> list[FileDifference]:
    """The names at which `a` and `b` have something else."""
    found: list[FileDifference] = []
    for name in names:
        one, other = a.get(name), b.get(name)
        if one is None or other is None:
            what = "" if one is other else "only in a" if other is None else "only in b"
        else:
            what = _difference(one, other, sums_a.get(name), sums_b.get(name))
        if what:
            found.append(FileDifference(path=printable(name), name=name, what=what, a=one, b=other))
    return found


def _needs_reading(one: FileFacts | None, other: FileFacts | None) -> bool:
    """Whether only reading tells if contents differ."""
    if one is None or other is None or (one.kind, other.kind) != ("f", "f"):
        return False
    return one.size_bytes == other.size_bytes and 0 < one.size_bytes <= MAX_READ_BYTES


def _difference(one: FileFacts, other: FileFacts, sum_one: str | None, sum_two: str | None) -> str:
    if one.kind != other.kind:
        return "kind"
    parts: list[str] = []
    if one.kind == "f":
        if one.size_bytes != other.size_bytes or sum_one != sum_two:
            parts.append("contents")
        elif one.size_bytes > MAX_READ_BYTES and one.modified_at != other.modified_at:
            parts.append("perhaps contents, too large to read")
    elif one.kind == "l" and one.target != other.target:
        parts.append("target")
    parts += ["mode"] if one.mode != other.mode else []
    parts += ["owner"] if one.owner != other.owner else []
    return ", ".join(parts)


def compared_processes(
    a: Iterable[ProcessFacts], b: Iterable[ProcessFacts]
) -> tuple[list[ProcessDifference], int]:
    """Processes that are not in both or run something else there; and how many both have."""
    ours = {(each.pid, each.started_ticks): each for each in a}
    theirs = {(each.pid, each.started_ticks): each for each in b}
    found: list[ProcessDifference] = []
    for key in sorted({*ours, *theirs}):
        one, other = ours.get(key), theirs.get(key)
        same = one is not None and other is not None and one.command == other.command
        if not (same and one is not None and other is not None and one.name == other.name):
            found.append(ProcessDifference(a=one, b=other))
    return found, len({*ours, *theirs}) - len(found)


def compared_variables(
    a: Mapping[str, str], b: Mapping[str, str]
) -> tuple[list[VariableDifference], int]:
    """Variables that are not set to the same in both; and how many are."""
    names = sorted({*a, *b})
    found = [VariableDifference(name=name, a=a.get(name), b=b.get(name))
             for name in names if a.get(name) != b.get(name)]  # fmt: skip
    return found, len(names) - len(found)
