"""promote(): one fork takes its family's name; its relatives end, each kept as a snapshot first.

Everything is checked before anything happens. A relative ends by its snapshot, in one step: nothing
it does is lost between the two. If a step fails, those before it are snapshots, those after it run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from anyio import to_thread

from machinen_runtime.bundle_notes import MAX_LABEL_CHARS, change_notes
from machinen_runtime.errors import BootError, ErrorCode, MachinenError, RegistryError
from machinen_runtime.gc import run_gc
from machinen_runtime.lineage import relatives
from machinen_runtime.monitor_client import MonitorClient
from machinen_runtime.options import SnapshotOptions
from machinen_runtime.paths import ensure_private_dir, snapshots_root
from machinen_runtime.registry import find, live_entries
from machinen_runtime.registry_entry import RegistryEntry
from machinen_runtime.registry_names import validate_name
from machinen_runtime.rename import rename_vm
from machinen_runtime.shelf import new_snapshot_path
from machinen_runtime.snapshot import require_disk, take_snapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotePlan:
    """What a promotion will do, in this order: keep and end `others`, rename `entry`."""

    entry: RegistryEntry
    name: str
    """What it will be called."""
    others: tuple[RegistryEntry, ...]

    def steps(self) -> list[str]:
        """The same in words, a line each."""
        lines = [f"{_called(each)} is kept as a snapshot and ends" for each in self.others]
        if self.entry.name != self.name:
            lines.append(f"{_called(self.entry)} is called {self.name} from then on")
        return lines


@dataclass(frozen=True, slots=True, kw_only=True)
class PromoteResult:
    """What a promotion did."""

    entry: RegistryEntry
    """The promoted VM, under its new name."""
    kept: tuple[tuple[str, str], ...]
    """Name and snapshot directory of each relative that ended."""


def plan_promotion(
    entry: RegistryEntry,
    name: str | None = None,
    living: Sequence[RegistryEntry] | None = None,
) -> PromotePlan:
    """What it takes to promote `entry` over its relatives among `living` (by default all that run).

    Its new name is `name`, or the family's first one.

    Raises:
        BootError: BOOT_OPTION_INVALID if it is no fork and nobody is a fork of it.
        RegistryError: REGISTRY_NAME_INVALID, REGISTRY_NAME_IN_USE by somebody else.
        SnapshotError: SNAPSHOT_NO_DISK if a relative cannot be kept.
    """
    living = live_entries() if living is None else living
    others = relatives(entry, living)
    if not others and not entry.ancestry:
        message = f"{_called(entry)} has no relatives to be promoted over; rename it instead"
        raise BootError(ErrorCode.BOOT_OPTION_INVALID, message)
    wanted = validate_name(name or _family_name(entry, others))
    holder = next((each for each in living if each.name == wanted), None)
    if holder is not None and holder.pid != entry.pid and holder not in others:
        message = f"the name {wanted} is in use by pid {holder.pid}; choose another"
        raise RegistryError(ErrorCode.REGISTRY_NAME_IN_USE, message)
    for each in others:
        require_disk(each)
    return PromotePlan(entry=entry, name=wanted, others=tuple(others))


async def promote(plan: PromotePlan, on_step: Callable[[str], None] | None = None) -> PromoteResult:
    """Carry out `plan`; `on_step` is told before each of its steps.

    Raises:
        MachinenError: why a relative could not be kept, of the class and code of that; the message
            says who has ended already and where their snapshots are. The rest runs on.
        BootError: VM_CONTROL_FAILED if one of them is paused; nothing has happened then.
    """
    tell: Callable[[str], None] = on_step or (lambda step: None)
    for each in (plan.entry, *plan.others):
        await _require_running(each)
    ensure_private_dir(snapshots_root())
    kept: list[tuple[str, str]] = []
    steps = iter(plan.steps())
    for each in plan.others:
        tell(next(steps))
        try:
            kept.append((_called(each), str(await _keep(each, plan))))
        except MachinenError as error:
            ended = "".join(f"; {name} has ended and is in {path}" for name, path in kept)
            message = f"{_called(each)} could not be kept and runs on: {error}{ended}"
            raise type(error)(error.code, message, retryable=error.retryable) from error
    for step in steps:
        tell(step)
    current = find(pid=plan.entry.pid)
    if current.name != plan.name:
        current = await rename_vm(current, plan.name)
    return PromoteResult(entry=current, kept=tuple(kept))


async def _require_running(entry: RegistryEntry) -> None:
    status = await MonitorClient(Path(entry.socket_path).parent).status()
    if status.state == "paused" or status.trouble:
        message = f"{_called(entry)} is paused; resume it first"
        if status.trouble:
            message = f"{_called(entry)} cannot answer: {status.trouble}"
        raise BootError(ErrorCode.VM_CONTROL_FAILED, message)


async def _keep(entry: RegistryEntry, plan: PromotePlan) -> Path:
    """End a VM as a snapshot with a label."""
    path = new_snapshot_path(_called(entry))
    await take_snapshot(entry, SnapshotOptions(out_dir=path, leave_running=False))
    run_gc(pid=entry.pid)
    label = f"when {_called(plan.entry)} was promoted"[:MAX_LABEL_CHARS]
    await to_thread.run_sync(partial(change_notes, path, label=label))
    return path


def _family_name(entry: RegistryEntry, others: list[RegistryEntry]) -> str:
    """What the VM is or was called that the family began with."""
    first = next((each for each in (entry, *others) if not each.ancestry), None)
    name = first.name if first is not None else entry.ancestry[0].name
    return name or _called(entry)


def _called(entry: RegistryEntry) -> str:
    return entry.name or str(entry.pid)
