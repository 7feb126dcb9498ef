"""run_in_each(): one command in several VMs at once, and which of them said the same."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import anyio

from machinen_runtime.channel_exec import VsockExec, VsockExecOptions
from machinen_runtime.errors import ErrorCode, MachinenError
from machinen_runtime.registry_entry import RegistryEntry

MAX_OUTPUT_BYTES = 1 << 20
"""Of each stream of each VM; what comes after is dropped."""
AT_ONCE = 16
CONNECT_TIMEOUT_MS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """What came of a command in one VM. Its output is the guest's: not made printable."""

    entry: RegistryEntry
    exit_code: int | None
    """None: it could not be run, see `error`."""
    stdout: bytes = b""
    stderr: bytes = b""
    is_cut: bool = False
    """It said more than `MAX_OUTPUT_BYTES`."""
    elapsed_ms: float = 0.0
    error: MachinenError | None = None

    @property
    def said(self) -> tuple[int | None, ErrorCode | None, bytes, bytes]:
        """What makes two outcomes the same."""
        return self.exit_code, self.error.code if self.error else None, self.stdout, self.stderr


@dataclass(frozen=True, slots=True)
class OutcomeGroup:
    """VMs in which a command had the same outcome."""

    outcomes: tuple[RunOutcome, ...]

    @property
    def first(self) -> RunOutcome:
        """Any of them."""
        return self.outcomes[0]

    @property
    def names(self) -> list[str]:
        """Of the VMs."""
        return [each.entry.name or str(each.entry.pid) for each in self.outcomes]


async def run_in_each(
    entries: Sequence[RegistryEntry],
    cmd: str | Sequence[str],
    *,
    timeout_ms: float | None = 300_000,
    on_done: Callable[[RunOutcome], None] | None = None,
) -> list[RunOutcome]:
    """Run `cmd` (text for a shell, or argv) in every VM, and return in their order what came of it.

    A VM in which it cannot be run is an outcome with an error, not an exception. `on_done` is
    called with each as it comes.
    """
    outcomes: dict[int, RunOutcome] = {}
    limiter = anyio.CapacityLimiter(AT_ONCE)

    async def run(at: int) -> None:
        async with limiter:
            outcomes[at] = await _run_in(entries[at], cmd, timeout_ms)
        if on_done is not None:
            on_done(outcomes[at])

    async with anyio.create_task_group() as tasks:
        for at in range(len(entries)):
            tasks.start_soon(run, at)
    return [outcomes[at] for at in range(len(entries))]


def grouped(outcomes: Sequence[RunOutcome]) -> list[OutcomeGroup]:
    """Those that are the same together, the largest group first."""
    groups: dict[object, list[RunOutcome]] = {}
    for each in outcomes:
        groups.setdefault(each.said, []).append(each)
    return sorted((OutcomeGroup(tuple(each)) for each in groups.values()),
                  key=lambda group: -len(group.outcomes))  # fmt: skip


async def _run_in(
    entry: RegistryEntry, cmd: str | Sequence[str], timeout_ms: float | None
) -> RunOutcome:
    started = time.monotonic()
    stdout, stderr = _Capped(), _Capped()
    options = VsockExecOptions(
        on_stdout=stdout.add,
        on_stderr=stderr.add,
        connect_timeout_ms=CONNECT_TIMEOUT_MS,
        exec_timeout_ms=timeout_ms,
    )
    exit_code: int | None = None
    problem: MachinenError | None = None
    try:
        exit_code = (await VsockExec.run(entry.socket_path, cmd, options)).exit_code
    except MachinenError as error:
        problem = error
    return RunOutcome(
        entry=entry, exit_code=exit_code, stdout=bytes(stdout.data), stderr=bytes(stderr.data),
        is_cut=stdout.is_cut or stderr.is_cut, error=problem,
        elapsed_ms=(time.monotonic() - started) * 1000,
    )  # fmt: skip


class _Capped:
    """The beginning of a stream."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.is_cut = False

    def add(self, chunk: bytes) -> None:
        """Keep what there is room for."""
        room = MAX_OUTPUT_BYTES - len(self.data)
        self.data += chunk[:room]
        self.is_cut = self.is_cut or len(chunk) > room
