"""`machinen crashes`: reports of sandboxes that ended unexpectedly."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from machinen_runtime.cli_support import (
    Verb,
    VerbGroup,
    json_option,
    print_json,
    print_table,
    printable,
)
from machinen_runtime.errors import ErrorCode, ParseError

if TYPE_CHECKING:
    from vmm.crash_report import CrashReport

CONSOLE_LINES = 40


@click.group("crashes", cls=VerbGroup, no_args_is_help=False, invoke_without_command=True)
@click.pass_context
def crashes_command(context: click.Context) -> None:
    """List, show and remove the reports of sandboxes that ended unexpectedly: QEMU died, the guest
    panicked, the monitor failed or was killed. The last 50 are kept, for 30 days.

    \b
    Examples:
      machinen crashes
      machinen crashes show web
    """
    if context.invoked_subcommand is None:
        context.invoke(crashes_ls_command, as_json=False)


@crashes_command.command("ls", cls=Verb)
@json_option
def crashes_ls_command(as_json: bool) -> None:
    """List the reports, newest first.

    \b
    Example:
      machinen crashes ls --json | jq -r '.crashes[].reason'
    """
    from machinen_runtime.crashes import crash_path, list_crashes

    found = list_crashes()
    if as_json:
        keys = ("id", "time", "reason", "message", "pid", "name")
        rows = [{**{key: asdict(each)[key] for key in keys}} for each in found]
        print_json({"crashes": [{**row, "path": str(crash_path(row["id"]))} for row in rows]})
    elif found:
        table = [[each.id, each.name or str(each.pid), each.reason, each.message] for each in found]
        cells = [[printable(cell, keep="")[:120] for cell in row] for row in table]
        print_table(["REPORT", "SANDBOX", "REASON", "WHAT"], cells)
    else:
        click.echo("(no crashes)", err=True)


@crashes_command.command("show", cls=Verb)
@click.argument("report", metavar="REPORT|VM")
@json_option
def crashes_show_command(report: str, as_json: bool) -> None:
    """Show a report, or the newest one of a sandbox: why it ended, the last phases, versions, the
    end of its console and what QEMU said.

    \b
    Examples:
      machinen crashes show web
      machinen crashes show web --json | jq -r .console_tail
    """
    from machinen_runtime.crashes import crash_path, read_crash

    found = read_crash(report)
    if as_json:
        print_json({**asdict(found), "path": str(crash_path(found.id))})
        return
    for title, text in _facts(found):
        click.echo(f"{title + ':':<12}{printable(text, keep='')}")
    lines = found.console_tail.splitlines()[-CONSOLE_LINES:]
    for title, parts in (
        ("console", lines),
        ("QEMU", found.qemu_stderr.splitlines()),
        ("traceback", found.traceback.splitlines()),
    ):
        if parts:
            click.echo(f"\n{title}:")
            click.echo("\n".join("  " + printable(part, keep="\t") for part in parts))
    click.echo(f"\nwhole report: {crash_path(found.id)}", err=True)


@crashes_command.command("rm", cls=Verb)
@click.argument("reports", metavar="[REPORT]...", nargs=-1)
@click.option("-a", "--all", "everything", is_flag=True, help="Remove every report.")
@json_option
def crashes_rm_command(reports: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Remove reports.

    \b
    Examples:
      machinen crashes rm 20261123T120000Z-1f2e3d4c
      machinen crashes rm --all
    """
    from machinen_runtime.crashes import list_crashes, remove_crash

    if everything == bool(reports):
        raise ParseError(ErrorCode.PARSE_FLAG_MISSING_VALUE, "name reports, or pass --all")
    wanted = [each.id for each in list_crashes()] if everything else list(reports)
    removed = [remove_crash(each) for each in wanted]
    if as_json:
        print_json({"removed": removed})
    else:
        for each in removed:
            click.echo(each)


def _facts(report: CrashReport) -> list[tuple[str, str]]:
    facts = [
        ("sandbox", f"{report.name or '-'} (pid {report.pid}, id {report.vm_id})"),
        ("ended", report.time),
        ("reason", f"{report.reason}: {report.message}"),
    ]
    if report.state is not None:
        lived = "" if report.uptime_ms is None else f" after {report.uptime_ms / 1000:.1f} s"
        facts.append(("state", report.state + lived))
    if report.qemu_status is not None:
        facts.append(("QEMU ended", _ended(report.qemu_status)))
    if report.operations:
        last = report.operations[-1]
        facts.append(("last did", f"{last.get('kind')} {last.get('error') or 'done'}"))
    if report.versions:
        shown = ", ".join(f"{name} {text}" for name, text in report.versions.items())
        facts.append(("versions", shown))
    return facts


def _ended(status: int) -> str:
    return f"by signal {-status}" if status < 0 else f"with status {status}"
