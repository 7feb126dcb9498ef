"""`machinen each`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from machinen_runtime.cli_support import (
    DashDashCommand,
    complete_vm,
    find_target,
    json_option,
    print_json,
    progress,
    run_async,
)
from machinen_runtime.errors import ErrorCode, ParseError
from machinen_runtime.registry import live_entries

if TYPE_CHECKING:
    from machinen_runtime.run_many import OutcomeGroup, RunOutcome


@click.command("each", cls=DashDashCommand, short_help="Run a command in several sandboxes.")
@click.argument("vms", metavar="VM...", nargs=-1, shell_complete=complete_vm)
@click.option("-a", "--all", "everything", is_flag=True, help="Run it in every sandbox.")
@json_option
@click.pass_context
def each_command(ctx: click.Context, vms: tuple[str, ...], everything: bool, as_json: bool) -> int:
    """Run the command after -- in several sandboxes at once, and group those that said the same.

    No shell looks at the command. Exits with 1 unless it ended with 0 in all of them.

    \b
    Examples:
      machinen each web-1 web-2 web-3 -- make test
      machinen each --all --json -- uname -r | jq '.groups[0].names'
    """
    command: list[str] = ctx.meta["command"]
    if bool(vms) == everything or not command:
        message = "name sandboxes or say --all, then -- and a command: machinen each a b -- uname"
        raise ParseError(ErrorCode.PARSE_FLAG_MISSING_VALUE, message)
    entries = live_entries() if everything else [find_target(vm) for vm in vms]

    async def run() -> list[RunOutcome]:
        from machinen_runtime.run_many import run_in_each

        return await run_in_each(entries, command)

    with progress("running"):
        outcomes = run_async(run) if entries else []
    from machinen_runtime.run_many import grouped

    groups = grouped(outcomes)
    if as_json:
        print_json({"groups": [_as_object(group) for group in groups]})
    else:
        for group in groups:
            _print(group)
    return 0 if all(outcome.exit_code == 0 for outcome in outcomes) else 1


def _as_object(group: OutcomeGroup) -> dict[str, Any]:
    first = group.first
    return {
        "names": group.names,
        "pids": [each.entry.pid for each in group.outcomes],
        "exit_code": first.exit_code,
        "code": str(first.error.code) if first.error is not None else None,
        "message": str(first.error) if first.error is not None else None,
        "stdout": first.stdout.decode("utf-8", "replace"),
        "stderr": first.stderr.decode("utf-8", "replace"),
        "cut": first.is_cut,
        "elapsed_ms": [round(each.elapsed_ms, 1) for each in group.outcomes],
    }


def _print(group: OutcomeGroup) -> None:
    first = group.first
    slowest = max(each.elapsed_ms for each in group.outcomes)
    how = f"exit {first.exit_code}" if first.error is None else f"({first.error.code})"
    click.echo(f"{', '.join(group.names)}: {how}, {slowest:.0f} ms")
    text = first.stdout + first.stderr if first.error is None else str(first.error).encode()
    for line in text.splitlines():
        click.echo(b"  " + line)
    if first.is_cut:
        click.echo("  … and more")
