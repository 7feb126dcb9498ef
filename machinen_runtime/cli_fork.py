"""`machinen fork` and `machinen snapshot`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from machinen_runtime.cli_boot import detach_option, show_until_end
from machinen_runtime.cli_limits import cpus_option, limit_options, parse_limits
from machinen_runtime.cli_mounts import live_mount_option
from machinen_runtime.cli_network import allow_option, network_option, parse_network
from machinen_runtime.cli_support import (
    Verb,
    find_target,
    json_option,
    once,
    print_json,
    progress,
    publish_option,
    run_async,
    vm_argument,
    wait_option,
)

if TYPE_CHECKING:
    from machinen_runtime.handle import VmHandle
    from machinen_runtime.option_types import LiveMount, PortForward
    from machinen_runtime.snapshot import SnapshotResult


engine_option = once(
    "--engine",
    type=click.Choice(["vmstate", "criu"]),
    help="vmstate: the whole machine (default). criu: the workload's processes alone.",
)


@click.command("fork", cls=Verb, short_help="Make siblings of a running sandbox.")
@vm_argument()
@once("-n", "--new-name", metavar="NAME", help="Name of the fork; with --count NAME-1, NAME-2, …")
@once("-c", "--count", type=click.IntRange(1, 1000), metavar="K", help="Make K siblings at once.")
@once("-o", "--out-dir", metavar="DIR", type=click.Path(), help="Keep the snapshot in DIR.")
@engine_option
@click.option("--tcp-keep", is_flag=True, help="Keep open TCP connections in the fork.")
@click.option("--lazy", is_flag=True, help="criu: go on at once, read memory as it is touched.")
@detach_option
@publish_option("Lead a TCP port of this host into the fork; the source's are not. Repeatable.")
@network_option
@allow_option
@live_mount_option("Let a live mount lead to another directory in the fork. Repeatable.")
@cpus_option
@limit_options
@wait_option
@json_option
def fork_command(
    vm: str,
    new_name: str | None,
    count: int | None,
    out_dir: str | None,
    engine: str | None,
    tcp_keep: bool,
    lazy: bool,
    detach: bool,
    publish: list[PortForward],
    network: str | None,
    allow: Sequence[str],
    live_mounts: list[LiveMount],
    cpus: float | None,
    memory_max: str | None,
    io_max: str | None,
    wait: float | None,
    as_json: bool,
) -> int:
    """Make siblings of a running sandbox: same memory, same open programs, going on apart.

    The source stands still for some milliseconds, once. Without --detach the fork is shown on this
    terminal and ends with this command; --count and --json imply --detach.

    \b
    Examples:
      machinen fork web --new-name try --detach
      machinen fork web --count 8 --wait 60 --detach
      machinen fork web --count 8 --json | jq '.forks[].name'
    """
    from machinen_runtime.attach import attach

    detach = detach or as_json or count is not None
    entry = find_target(vm)
    options: dict[str, Any] = {
        "name": new_name,
        "out_dir": out_dir,
        "detached": detach,
        "port_forward": publish,
        "network": parse_network(network, allow),
        "live_mounts": live_mounts,
        "wait_for_memory_ms": (wait or 0) * 1000,
        **parse_limits(cpus, memory_max, io_max),
    }
    options |= {"engine": engine or "vmstate", "tcp_keep": tcp_keep, "lazy": lazy or None}

    async def fork() -> int:
        source = await attach(pid=entry.pid)
        with progress("forking") as on_wait:
            forks = await source.fork_many(count or 1, **options, on_wait=on_wait)
        if not detach:
            return await show_until_end(forks[0])
        described = [_describe(fork, source, out_dir) for fork in forks]
        if as_json:
            print_json(described[0] if count is None else {"forks": described})
        else:
            for fork in forks:
                click.echo(fork.name or str(fork.pid))
        return 0

    return run_async(fork)


@click.command("snapshot", cls=Verb, short_help="Write a sandbox to a directory.")
@vm_argument()
@click.argument("directory", metavar="DIR", type=click.Path())
@click.option("-k", "--keep-alive", is_flag=True, help="Let the sandbox go on.")
@engine_option
@click.option("--tcp-close", is_flag=True, help="criu: do not keep open TCP connections.")
@json_option
def snapshot_command(
    vm: str,
    directory: str,
    keep_alive: bool,
    engine: str | None,
    tcp_close: bool,
    as_json: bool,
) -> None:
    """Write a sandbox, as it runs, to DIR (absent or empty); then it ends, unless --keep-alive.

    \b
    Example:
      machinen snapshot web ./warm --keep-alive
      machinen restore ./warm --name web-2
    """
    from machinen_runtime.attach import attach
    from machinen_runtime.gc import run_gc

    entry = find_target(vm)

    async def snapshot() -> SnapshotResult:
        source = await attach(pid=entry.pid)
        return await source.snapshot(
            out_dir=directory,
            leave_running=keep_alive,
            engine=engine or "vmstate",
            tcp_close=tcp_close,
        )

    with progress("writing the snapshot"):
        result = run_async(snapshot)
    if not keep_alive:
        run_gc(pid=entry.pid)
    if as_json:
        print_json(
            {
                "snap_dir": result.snap_dir,
                "elapsed_ms": round(result.elapsed_ms, 1),
                "paused_ms": round(result.paused_ms, 1),
                "phases": result.phases,
                "dry_run": False,
            }
        )
    else:
        click.echo(result.snap_dir)


def _describe(fork: VmHandle, source: VmHandle, out_dir: str | None) -> dict[str, Any]:
    snapshot = fork.forked_by
    return {
        "pid": fork.pid,
        "name": fork.name,
        "source": source.name or source.pid,
        "bundle_dir": None if out_dir is None else str(Path(out_dir).absolute()),
        "ephemeral": out_dir is None,
        "paused_ms": None if snapshot is None else round(snapshot.paused_ms, 1),
        "phases": {} if snapshot is None else snapshot.phases,
    }
