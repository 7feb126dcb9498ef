"""`machinen stats` and `machinen logs`."""

from __future__ import annotations

import codecs
import os
import sys
import time
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from machinen_runtime.cli_support import (
    find_target,
    format_bytes,
    format_duration,
    json_option,
    print_json,
    run_async,
    vm_argument,
)
from machinen_runtime.errors import ErrorCode, RegistryError
from machinen_runtime.pids import validate_pid
from machinen_runtime.registry import RegistryEntry

if TYPE_CHECKING:
    from vmm.requests import StatsEvent, VmStatus

CONSOLE_LOG = "console.log"
FOLLOW_STEP_S = 0.2
READ_BYTES = 65536


@click.command("stats", short_help="Show what a sandbox costs.")
@vm_argument()
@json_option
def stats_command(vm: str, as_json: bool) -> None:
    """Show state, memory and CPU of a sandbox, measured now.

    \b
    Example:
      machinen stats web --json | jq .memory.rss_bytes
    """
    entry = find_target(vm)
    status, stats = run_async(_measure, entry)
    if as_json:
        print_json(
            {
                "pid": entry.pid,
                "name": entry.name,
                "status": asdict(status),
                "memory": _memory(stats),
                "cpu_percent": stats.cpu_percent,
            }
        )
        return
    for title, text in _described(entry, status, stats):
        click.echo(f"{title + ':':<12}{text}")


@click.command("logs", short_help="Show the console of a sandbox.")
@vm_argument()
@click.option("-f", "--follow", is_flag=True, help="Go on until the sandbox ends.")
@click.option("--boot", is_flag=True, help="Show the console of its boot, kept at --detach.")
def logs_command(vm: str, follow: bool, boot: bool) -> None:
    """Show what a guest's kernel and init wrote to the console.

    \b
    Example:
      machinen logs web --follow
    """
    entry = find_target(vm)
    path = _log_path(entry, boot)
    chunks = _follow(path, entry) if follow else iter([path.read_bytes()])
    if not sys.stdout.isatty():
        for chunk in chunks:
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        return
    for text in codecs.iterdecode(chunks, "utf-8", "replace"):
        click.echo(_printable(text), nl=False)


def _log_path(entry: RegistryEntry, boot: bool) -> Path:
    candidates = (
        [entry.boot_log_path]
        if boot
        else [os.path.join(directory, CONSOLE_LOG) for directory in entry.cleanup_paths[1:2]]
    )
    for path in candidates:
        if path and os.path.isfile(path):
            return Path(path)
    kind = "boot log" if boot else "console log"
    raise RegistryError(ErrorCode.REGISTRY_VM_NOT_FOUND, f"{entry.name or entry.pid} has no {kind}")


def _follow(path: Path, entry: RegistryEntry) -> Generator[bytes]:
    """The file's contents as they grow, over its rotations, until the VM is gone."""
    file = path.open("rb", buffering=0)
    try:
        while True:
            while chunk := file.read(READ_BYTES):
                yield chunk
            alive = validate_pid(entry.pid, entry) == "alive"
            if _was_replaced(path, file.fileno()):
                file.close()
                file = path.open("rb", buffering=0)
            elif not alive:
                return
            else:
                time.sleep(FOLLOW_STEP_S)  # a log file tells nobody that it has grown
    except FileNotFoundError:
        return
    finally:
        file.close()


def _was_replaced(path: Path, descriptor: int) -> bool:
    try:
        return not os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _printable(text: str) -> str:
    """The guest wrote it: none of its escape sequences may reach a terminal."""
    return "".join(char for char in text if char in "\n\t" or char.isprintable())


async def _measure(entry: RegistryEntry) -> tuple[VmStatus, StatsEvent]:
    from machinen_runtime.attach import attach
    from vmm.requests import StatsEvent

    vm = await attach(pid=entry.pid)
    status = await vm.status()
    async with vm.events(stats_interval_ms=250) as events:
        async for event in events:
            if isinstance(event, StatsEvent):
                return status, event
    raise RegistryError(ErrorCode.REGISTRY_VM_NOT_FOUND, "the VM ended while it was measured")


def _memory(stats: StatsEvent) -> dict[str, Any]:
    return {
        "ceiling_mib": stats.ceiling_mib,
        "rss_bytes": stats.rss_bytes,
        "pss_bytes": stats.pss_bytes,
        "private_bytes": stats.private_bytes,
        "shared_bytes": stats.shared_bytes,
        "balloon_bytes": stats.balloon_bytes,
        "lazy_pages_pending": stats.lazy_pages_pending,
    }


def _described(
    entry: RegistryEntry, status: VmStatus, stats: StatsEvent
) -> Generator[tuple[str, str]]:
    yield "name", entry.name or "-"
    yield "pid", f"{entry.pid} (QEMU {status.qemu_pid}, {status.accel})"
    yield "state", f"{status.state}, up {format_duration(time.time() * 1000 - entry.started_at)}"
    yield "cpu", f"{stats.cpu_percent:.1f}% of one core, {status.cpus} vCPU"
    yield "memory", f"{format_bytes(stats.rss_bytes)} of {format_bytes(stats.ceiling_mib << 20)}"
    yield "  own", format_bytes(stats.private_bytes)
    yield "  shared", format_bytes(stats.shared_bytes)
    yield "  returned", format_bytes(stats.balloon_bytes)
    yield "  unread", f"{stats.lazy_pages_pending} pages of the snapshot"
