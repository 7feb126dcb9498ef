"""`machinen stats` and `machinen inspect`."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import AsyncGenerator, Generator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from machinen_runtime.cli_support import (
    Verb,
    find_target,
    format_bytes,
    format_duration,
    json_option,
    once,
    print_json,
    run_async,
    vm_argument,
)
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.registry import RegistryEntry
from vmm.limits import describe_limits, describe_reached

if TYPE_CHECKING:
    from vmm.requests import StatsEvent, VmStatus

MEASURE_MS = 250
"""CPU is a difference over time: the first figure comes after this."""
CURSOR_UP = "\x1b[{}A\x1b[J"


class Interval(click.FloatRange):
    """Seconds: a range that does not let `nan` pass, which is neither too small nor too large."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number of seconds; click's usage error for what is none."""
        seconds: float = super().convert(value, param, ctx)
        if math.isnan(seconds):
            self.fail(f"{value!r} is not a number.", param, ctx)
        return seconds


@click.command("stats", cls=Verb, short_help="Show what a sandbox costs.")
@vm_argument()
@click.option("-w", "--watch", is_flag=True, help="Go on, until the sandbox ends or Ctrl-C.")
@once(
    "-i",
    "--interval",
    type=Interval(min=MEASURE_MS / 1000, max=86_400),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two figures with --watch.",
)
@json_option
def stats_command(vm: str, watch: bool, interval: float, as_json: bool) -> None:
    """Show state, memory and CPU of a sandbox, measured now.

    With --watch, a terminal is repainted; into a pipe goes one line, or one JSON object, for each
    measurement.

    \b
    Examples:
      machinen stats web
      machinen stats web --watch --json | jq .cpu_percent
    """
    entry = find_target(vm)
    interval_ms = round(interval * 1000) if watch else MEASURE_MS

    async def show() -> None:
        shown_lines = 0
        async for status, stats in _measurements(entry, interval_ms):
            if as_json:
                print_json(_stats_object(entry, status, stats))
            elif watch and not sys.stdout.isatty():
                click.echo(_one_line(stats))
            else:
                if shown_lines:
                    click.echo(CURSOR_UP.format(shown_lines), nl=False)
                rows = list(_described(entry, status, stats))
                for title, text in rows:
                    click.echo(f"{title + ':':<12}{text}")
                shown_lines = len(rows)
            if not watch:
                return
            sys.stdout.flush()

    run_async(show)


@click.command("inspect", cls=Verb, short_help="Show all that is known of a sandbox.")
@vm_argument()
@click.option("--json", "as_json", is_flag=True, hidden=True, help="It is JSON anyway.")
def inspect_command(vm: str, as_json: bool) -> None:
    """Print all that is known of a sandbox as one JSON object: its entry in the registry, what its
    monitor says, its sessions.

    \b
    Example:
      machinen inspect web | jq -r .entry.socketPath
    """
    del as_json
    entry = find_target(vm)

    async def inspect() -> dict[str, Any]:
        from machinen_runtime.attach import attach
        from machinen_runtime.channel_sessions import list_sessions

        handle = await attach(pid=entry.pid)
        status = await handle.status()
        runs = status.state == "running"  # a paused guest answers nobody
        sessions = await list_sessions(entry.socket_path) if runs else None
        return {
            "pid": entry.pid,
            "name": entry.name,
            "entry": json.loads(entry.to_json()),
            "status": asdict(status),
            "memory": asdict(await handle.memory_stats()),
            "sessions": None if sessions is None else [asdict(one) for one in sessions],
        }

    print_json(run_async(inspect))


async def _measurements(
    entry: RegistryEntry, interval_ms: int
) -> AsyncGenerator[tuple[VmStatus, StatsEvent]]:
    """Status and figures, every `interval_ms`, until the VM ends; at least one or VM_DIED."""
    from machinen_runtime.attach import attach
    from vmm.requests import StatsEvent

    vm = await attach(pid=entry.pid)
    measured = 0
    async with vm.events(stats_interval_ms=interval_ms) as events:
        async for event in events:
            if not isinstance(event, StatsEvent):
                continue
            measured += 1
            if measured > 1:  # the first has no time to measure the processor in
                yield await vm.status(), event
    if measured < 2:
        raise BootError(ErrorCode.VM_DIED, "the VM ended while it was measured")


def _stats_object(entry: RegistryEntry, status: VmStatus, stats: StatsEvent) -> dict[str, Any]:
    return {
        "pid": entry.pid,
        "name": entry.name,
        "status": asdict(status),
        "uptime_ms": max(0, round(stats.time_ms - entry.started_at)),
        "memory": {
            "ceiling_mib": stats.ceiling_mib,
            "rss_bytes": stats.rss_bytes,
            "pss_bytes": stats.pss_bytes,
            "private_bytes": stats.private_bytes,
            "shared_bytes": stats.shared_bytes,
            "balloon_bytes": stats.balloon_bytes,
            "lazy_pages_pending": stats.lazy_pages_pending,
        },
        "cpu_percent": stats.cpu_percent,
        "limited": {
            "throttled": stats.throttled,
            "memory_at_limit": stats.memory_at_limit,
            "oom_kills": stats.oom_kills,
        },
    }


def _described(
    entry: RegistryEntry, status: VmStatus, stats: StatsEvent
) -> Generator[tuple[str, str]]:
    yield "name", entry.name or "-"
    yield "pid", f"{entry.pid} (QEMU {status.qemu_pid}, {status.accel})"
    yield "state", f"{status.state}, up {format_duration(time.time() * 1000 - entry.started_at)}"
    if status.trouble:
        yield "  trouble", status.trouble
    yield "cpu", f"{stats.cpu_percent:.1f}% of one core, {status.cpus} vCPU"
    yield "memory", f"{format_bytes(stats.rss_bytes)} of {format_bytes(stats.ceiling_mib << 20)}"
    yield "  pss", format_bytes(stats.pss_bytes)
    yield "  own", format_bytes(stats.private_bytes)
    yield "  shared", format_bytes(stats.shared_bytes)
    yield "  returned", format_bytes(stats.balloon_bytes)
    yield "  unread", f"{stats.lazy_pages_pending} pages of the snapshot"
    if status.limits:
        yield "limits", describe_limits(status.limits)
        reached = (stats.throttled, stats.memory_at_limit, stats.oom_kills)
        yield "  reached", describe_reached(*reached)


def _one_line(stats: StatsEvent) -> str:
    return (
        f"cpu {stats.cpu_percent:.1f}%  rss {format_bytes(stats.rss_bytes)}"
        f"  pss {format_bytes(stats.pss_bytes)}  returned {format_bytes(stats.balloon_bytes)}"
    )
