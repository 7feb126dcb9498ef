"""`machinen promote`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from machinen_runtime.cli_support import (
    Verb,
    find_target,
    json_option,
    once,
    print_json,
    progress,
    run_async,
    vm_argument,
)

if TYPE_CHECKING:
    from machinen_runtime.promote import PromoteResult


@click.command("promote", cls=Verb, short_help="Let a fork take its family's place.")
@vm_argument()
@once("-n", "--name", metavar="NAME", help="Its new name, instead of the family's first one.")
@click.option("--dry-run", is_flag=True, help="Only say what would happen.")
@json_option
def promote_command(vm: str, name: str | None, dry_run: bool, as_json: bool) -> None:
    """Let a fork take its family's place: its relatives are kept as snapshots and end, then it gets
    the family's name.

    Everything is checked first. If a step fails, those before it are snapshots, those after it run
    on; nothing is lost.

    \b
    Examples:
      machinen promote web-2 --dry-run
      machinen promote web-2
    """
    from machinen_runtime.promote import plan_promotion

    entry = find_target(vm)
    plan = plan_promotion(entry, name)

    async def promote_it() -> PromoteResult:
        from machinen_runtime.promote import promote

        return await promote(plan)

    kept: list[tuple[str, str | None]] = [(each.name or str(each.pid), None)
                                          for each in plan.others]  # fmt: skip
    if not dry_run:
        with progress("promoting"):
            kept = [*run_async(promote_it).kept]
    if as_json:
        print_json(
            {
                "pid": entry.pid,
                "name": plan.name,
                "previous_name": entry.name,
                "kept": [{"name": each, "snap_dir": path} for each, path in kept],
                "dry_run": dry_run,
            }
        )
    elif dry_run:
        for step in plan.steps():
            click.echo(step)
    else:
        for each, path in kept:
            click.echo(f"{each}: {path}")
