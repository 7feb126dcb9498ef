"""Snapshot a running VM and launch siblings from it. The source stands still once, however many."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, cast

import anyio
from anyio import to_thread

from machinen_runtime import paths
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.host_refusals import host_refusals
from machinen_runtime.launch import Launched, end_launched
from machinen_runtime.launch_bundle import BundleLaunch, launch_bundle, start_spare
from machinen_runtime.memory_queue import memory_turn
from machinen_runtime.monitor_process import MonitorLink
from machinen_runtime.nest import Nest
from machinen_runtime.option_types import placed
from machinen_runtime.options import ForkOptions, SnapshotOptions
from machinen_runtime.registry_entry import RegistryEntry
from machinen_runtime.snapshot import (
    SnapshotResult,
    ephemeral_bundle_path,
    require_disk,
    take_snapshot,
)

MAX_COUNT = 1000
LAUNCHES_AT_ONCE = 4
SPARE_MONITORS = 2
"""Monitors started while the snapshot is taken; more would only compete with it."""
NextMonitor: TypeAlias = Callable[[], MonitorLink | None]


@host_refusals(BootError, "the VM cannot be forked")
async def fork_entry(
    entry: RegistryEntry, count: int, options: ForkOptions
) -> tuple[SnapshotResult, list[Launched]]:
    """`count` siblings of the VM `entry`, all from one snapshot. If one fails, none is left.

    With a name and several siblings they are called `<name>-1`, `<name>-2`, …

    Raises:
        BootError: FORK_MEMORY_BACKPRESSURE (retryable), BOOT_OPTION_INVALID, and those of restore.
        SnapshotError: SNAPSHOT_NO_DISK, SNAPSHOT_DUMP_FAILED, SNAPSHOT_TIMEOUT.
    """
    if not 1 <= count <= MAX_COUNT:
        message = f"a fork makes 1 to {MAX_COUNT} siblings, not {count}"
        raise BootError(ErrorCode.BOOT_OPTION_INVALID, message)
    if count > 1 and options.port_forward:
        message = "several forks cannot listen on the same host port: fork one at a time"
        raise BootError(ErrorCode.BOOT_PORT_FORWARD_CONFLICT, message)
    require_disk(entry)
    async with memory_turn(options), _bundle_directory(options) as bundle:
        wanted = replace(
            BundleLaunch.from_options(bundle, options),
            trusted=True,
            goes_with_vm=options.engine == "criu" and bool(options.lazy) and not options.out_dir,
        )
        wanted.refuse_what_cannot_change(options.engine)
        async with _monitors_ahead(wanted, count) as next_monitor:
            snapshot = await take_snapshot(
                entry,
                SnapshotOptions(
                    out_dir=bundle,
                    engine=options.engine,
                    leave_running=True,
                    tcp_close=not options.tcp_keep,
                    on_log=options.on_log,
                ),
                keep=options.out_dir is not None,
            )
            return snapshot, await _launch_all(wanted, count, next_monitor)


@asynccontextmanager
async def _monitors_ahead(wanted: BundleLaunch, count: int) -> AsyncGenerator[NextMonitor]:
    """Monitors that import, or a nest that does, while the snapshot is taken; in the block it is
    asked for one after the other. None: start one.
    """
    if count > 1 and not wanted.vmm_command:
        with Nest(env=wanted.vmm_env) as nest:
            yield lambda: nest.hatch(detached=wanted.detached, with_stdio=not wanted.detached)
        return
    async with AsyncExitStack() as stack:
        spares = [
            await stack.enter_async_context(start_spare(wanted))
            for _ in range(min(count, SPARE_MONITORS))
        ]
        yield lambda: spares.pop() if spares else None


@asynccontextmanager
async def _bundle_directory(options: ForkOptions) -> AsyncGenerator[Path]:
    """Where the bundle goes. One that nobody asked to keep is removed as soon as the siblings run.

    They hold the RAM image open and the disk layers by links of their own.
    """
    if options.out_dir is not None:
        yield placed(options.out_dir, options.cwd)
        return
    bundle = ephemeral_bundle_path()
    try:
        yield bundle
    finally:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(paths.remove_tree, bundle)


async def _launch_with_own(wanted: BundleLaunch, monitor: MonitorLink | None) -> Launched:
    """Launch from links to a bundle that goes at once: CRIU reads it by name while the VM runs."""
    bundle = ephemeral_bundle_path()

    def link() -> None:
        shutil.copytree(wanted.bundle, bundle, copy_function=os.link)

    try:
        await to_thread.run_sync(link)
        return await launch_bundle(replace(wanted, bundle=bundle), monitor)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(paths.remove_tree, bundle)
        raise


def launches_at_once() -> int:
    """How many siblings start side by side: more than there are processors would only push each
    other out of caches."""
    return min(LAUNCHES_AT_ONCE, len(os.sched_getaffinity(0)))


async def _launch_all(
    wanted: BundleLaunch, count: int, next_monitor: NextMonitor
) -> list[Launched]:
    names = [wanted.name] * count
    if count > 1 and wanted.name is not None:
        names = [f"{wanted.name}-{number}" for number in range(1, count + 1)]
    launched: dict[int, Launched] = {}
    limiter = anyio.CapacityLimiter(launches_at_once())

    launch_from = _launch_with_own if wanted.goes_with_vm else launch_bundle

    async def launch_one(index: int) -> None:
        async with limiter:
            sibling = replace(wanted, name=names[index])
            async with next_monitor() or nullcontext() as monitor:
                launched[index] = await launch_from(sibling, monitor)

    try:
        async with anyio.create_task_group() as tasks:
            for index in range(count):
                tasks.start_soon(launch_one, index)
    except BaseException as error:
        with anyio.CancelScope(shield=True):
            for sibling in launched.values():
                await end_launched(sibling)
        if isinstance(error, BaseExceptionGroup):
            raise _first_error(cast("BaseExceptionGroup[BaseException]", error)) or error from None
        raise
    return [launched[index] for index in range(count)]


def _first_error(group: BaseExceptionGroup[BaseException]) -> BaseException | None:
    """The first ordinary error in a group, at whatever depth.

    None if it only holds cancellations.
    """
    for each in group.exceptions:
        if isinstance(each, BaseExceptionGroup):
            nested = _first_error(cast("BaseExceptionGroup[BaseException]", each))
            if nested is not None:
                return nested
        elif isinstance(each, Exception):
            return each
    return None
