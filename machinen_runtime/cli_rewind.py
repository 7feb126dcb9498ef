"""`machinen rewind`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from machinen_runtime.cli_limits import cpus_option, limit_options, parse_limits
from machinen_runtime.cli_support import (
    Verb,
    find_target,
    json_option,
    print_json,
    progress,
    run_async,
    vm_argument,
    wait_option,
)
from machinen_runtime.errors import ErrorCode, ParseError

if TYPE_CHECKING:
    from machinen_runtime.memory_queue import OnWait
    from machinen_runtime.rewind import RewindResult


@click.command("rewind", cls=Verb, short_help="Put a snapshot in the place of a sandbox.")
@vm_argument()
@click.argument("snapshot", metavar="[SNAPSHOT]", required=False)
@click.option("--back", is_flag=True, help="Undo the last rewind: what ran before it goes on.")
@click.option("--no-undo", is_flag=True, help="Do not keep what runs now.")
@cpus_option
@limit_options
@wait_option
@json_option
def rewind_command(
    vm: str,
    snapshot: str | None,
    back: bool,
    no_undo: bool,
    cpus: float | None,
    memory_max: str | None,
    io_max: str | None,
    wait: float | None,
    as_json: bool,
) -> None:
    """Put SNAPSHOT in the place of a running sandbox: same name, same ports, going on from then.

    What runs now is kept as a snapshot first, and `--back` goes on with that; the last five of
    these are kept. If the snapshot cannot be restored the sandbox goes on as if nothing had
    happened. The new sandbox is detached.

    \b
    Examples:
      machinen rewind web ./warm
      machinen rewind web --back
    """
    if back == (snapshot is not None):
        message = "name a snapshot, or say --back; `machinen bundles ls` lists them"
        raise ParseError(ErrorCode.PARSE_FLAG_MISSING_VALUE, message)
    limits = parse_limits(cpus, memory_max, io_max)
    entry = find_target(vm)

    async def rewind_it(on_wait: OnWait) -> RewindResult:
        from machinen_runtime.rewind import rewind

        return await rewind(
            snapshot,
            pid=entry.pid,
            undo=not no_undo,
            wait_for_memory_ms=(wait or 0) * 1000,
            on_wait=on_wait,
            limits=limits.get("limits"),
        )

    with progress("rewinding") as on_wait:
        result = run_async(rewind_it, on_wait)
    if as_json:
        print_json(
            {
                "pid": result.vm.pid,
                "name": result.vm.name,
                "snap_dir": result.snap_dir,
                "undo_dir": result.undo_dir,
                "elapsed_ms": round(result.elapsed_ms, 1),
            }
        )
    else:
        click.echo(result.vm.name or str(result.vm.pid))
