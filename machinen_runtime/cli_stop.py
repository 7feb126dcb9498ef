"""`machinen stop` and `machinen gc`."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from machinen_runtime.cli_support import (
    Verb,
    complete_vm,
    json_option,
    print_json,
    print_table,
    progress,
    run_async,
)
from machinen_runtime.errors import ErrorCode, ParseError, RegistryError
from machinen_runtime.gc import GcResult, run_gc
from machinen_runtime.pids import signal_process, validate_pid, wait_process_gone
from machinen_runtime.registry import RegistryEntry, all_entries, live_entries
from machinen_runtime.standbys import end_standbys

KILL_PATIENCE_MS = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """What became of one VM: stopped, already_dead, recycled, failed; would_stop if not tried."""

    pid: int
    name: str | None
    status: str
    error: str | None = None


@click.command("stop", cls=Verb, short_help="Stop sandboxes.")
@click.argument("vms", metavar="VM...", nargs=-1, shell_complete=complete_vm)
@click.option("-a", "--all", "everything", is_flag=True, help="Stop every running sandbox.")
@click.option("-9", "-f", "--force", is_flag=True, help="Kill instead of powering off.")
@click.option("-n", "--dry-run", is_flag=True, help="Show what would be stopped.")
@json_option
def stop_command(
    vms: tuple[str, ...], everything: bool, force: bool, dry_run: bool, as_json: bool
) -> int:
    """Power sandboxes off: the workload gets TERM, two seconds later KILL.

    \b
    Examples:
      machinen stop web
      machinen stop --all --force
    """
    if bool(vms) == everything:
        raise ParseError(ErrorCode.PARSE_FLAG_MISSING_VALUE, "name the sandboxes, or say --all")
    entries = live_entries() if everything else _recorded(vms)
    if dry_run:
        results = [_would_stop(entry) for entry in entries]
    else:
        with progress("stopping"):
            results = run_async(_stop_all, entries, force) if entries else []
            if everything:
                end_standbys()
    if as_json:
        print_json({"results": [_as_object(result) for result in results]})
    else:
        _print_stopped(results)
    return 1 if any(result.status == "failed" for result in results) else 0


@click.command("gc", cls=Verb, short_help="Remove what dead sandboxes left behind.")
@click.option("-n", "--dry-run", is_flag=True, help="Show what would be removed.")
@json_option
def gc_command(dry_run: bool, as_json: bool) -> int:
    """Remove files and registry entries of sandboxes whose monitor is gone.

    \b
    Example:
      machinen gc --dry-run
    """
    results = run_gc(dry_run=dry_run)
    if as_json:
        print_json({"dry_run": dry_run, "results": [_gc_object(result) for result in results]})
    else:
        _print_gc(results)
    return 1 if any(result.failed_paths for result in results) else 0


def _recorded(targets: Sequence[str]) -> list[RegistryEntry]:
    """The entries the targets name, dead or alive; a live one wins over a dead one of its name."""
    entries = list(all_entries())
    entries.sort(key=lambda entry: validate_pid(entry.pid, entry) != "alive")
    found: dict[int, RegistryEntry] = {}
    for target in targets:
        matches = [entry for entry in entries if target in (str(entry.pid), entry.name)]
        if not matches:
            raise RegistryError(
                ErrorCode.REGISTRY_VM_NOT_FOUND,
                f"no running VM is called {target}; `machinen ls` lists them",
            )
        found[matches[0].pid] = matches[0]
    return list(found.values())


async def _stop_all(entries: Sequence[RegistryEntry], force: bool) -> list[Stopped]:
    import anyio

    results: dict[int, Stopped] = {}

    async def stop(entry: RegistryEntry) -> None:
        results[entry.pid] = await _stop(entry, force)

    async with anyio.create_task_group() as tasks:
        for entry in entries:
            tasks.start_soon(stop, entry)
    return [results[entry.pid] for entry in entries]


async def _stop(entry: RegistryEntry, force: bool) -> Stopped:
    from machinen_runtime.attach import attach

    before = validate_pid(entry.pid, entry)
    if before == "alive" and not force:
        try:
            await (await attach(pid=entry.pid)).stop()
        except RegistryError:  # it went in between
            before = "dead"
    elif before == "alive":
        signal_process(entry.pid, entry, signal.SIGKILL)
        await wait_process_gone(entry.pid, entry, timeout_ms=KILL_PATIENCE_MS)
    if validate_pid(entry.pid, entry) == "alive":
        return Stopped(pid=entry.pid, name=entry.name, status="failed", error="it still runs")
    run_gc(pid=entry.pid)
    status = {"alive": "stopped", "dead": "already_dead", "recycled": "recycled"}[before]
    return Stopped(pid=entry.pid, name=entry.name, status=status)


def _would_stop(entry: RegistryEntry) -> Stopped:
    """What `_stop` would find, looking only."""
    status = validate_pid(entry.pid, entry)
    words = {"alive": "would_stop", "dead": "already_dead", "recycled": "recycled"}
    return Stopped(pid=entry.pid, name=entry.name, status=words[status])


def _print_stopped(results: Sequence[Stopped]) -> None:
    for result in results:
        click.echo(f"{result.name or result.pid}: {result.status.replace('_', ' ')}")
    if not results:
        click.echo("(no running VMs)", err=True)


def _as_object(result: Stopped) -> dict[str, Any]:
    described: dict[str, Any] = {
        "pid": result.pid,
        "name": result.name,
        "status": result.status,
    }
    return described | ({"error": result.error} if result.error else {})


def _print_gc(results: Sequence[GcResult]) -> None:
    if not results:
        click.echo("(nothing to remove)", err=True)
        return
    rows = [
        [
            str(result.pid or "-"),
            result.name or "-",
            result.status,
            str(len(result.removed_paths)),
            ", ".join(result.failed_paths) or "-",
        ]
        for result in results
    ]
    print_table(["PID", "NAME", "STATUS", "REMOVED", "NOT-REMOVED"], rows)


def _gc_object(result: GcResult) -> dict[str, Any]:
    return {
        "pid": result.pid,
        "name": result.name,
        "status": result.status,
        "removed_paths": result.removed_paths,
        "failed_paths": result.failed_paths,
    }
