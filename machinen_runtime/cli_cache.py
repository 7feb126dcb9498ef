"""`machinen cache ls` and `machinen cache prune`: what warm boots start from."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from machinen_runtime.cli_support import (
    Verb,
    VerbGroup,
    format_bytes,
    format_duration,
    json_option,
    once,
    print_json,
    print_table,
    progress,
)
from machinen_runtime.errors import ErrorCode, ParseError

if TYPE_CHECKING:
    from machinen_runtime.standbys import Standby
    from machinen_runtime.template_cache import CachedTemplate


@click.group("cache", cls=VerbGroup, no_args_is_help=False, short_help="Templates of warm boots.")
def cache_command() -> None:
    """Look after the templates that warm boots start from.

    The first boot of an image keeps a template of its guest, just after it came up; later boots
    start from that. Templates can always be made again.

    \b
    Example:
      machinen cache ls
    """


@cache_command.command("ls", cls=Verb)
@click.option("--check", is_flag=True, help="Read every template whole and compare its checksums.")
@json_option
def cache_ls_command(check: bool, as_json: bool) -> int:
    """List the templates, the one used last first, and the standbys: machines that wait for the
    next boot. With --check, exits with 1 if a template is damaged.

    \b
    Examples:
      machinen cache ls
      machinen cache ls --check --json | jq .total_bytes
    """
    from machinen_runtime.standbys import list_standbys
    from machinen_runtime.template_cache import list_templates

    with progress("reading"):
        found = list_templates(check=check)
    waiting = [_standby_object(each) for each in list_standbys()]
    if as_json:
        print_json(
            {
                "templates": [asdict(each) for each in found],
                "total_bytes": sum(each.size_bytes for each in found),
                "standbys": waiting,
            }
        )
    else:
        _print(found)
        _print_standbys(waiting)
    return 1 if check and any(each.problem for each in found) else 0


@cache_command.command("prune", cls=Verb)
@click.option("-a", "--all", "everything", is_flag=True, help="Remove every template.")
@once("--unused-days", type=float, metavar="DAYS", help="Remove what nobody used for so long; 30.")
@once("--max-mib", type=int, metavar="MIB", help="Keep this much, used last; 4096.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what would go, and remove nothing.")
@json_option
def cache_prune_command(
    everything: bool,
    unused_days: float | None,
    max_mib: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove templates: damaged ones, those not used for long, and the longest unused of what is
    too much. Running sandboxes do not need theirs any more; one that starts right now keeps it.
    Standbys go with their template.

    \b
    Examples:
      machinen cache prune --unused-days 7
      machinen cache prune --all
    """
    from machinen_runtime.standbys import end_standbys
    from machinen_runtime.template_cache import prune_templates
    from machinen_runtime.templates import forget_unmade

    for name, value in (("--unused-days", unused_days), ("--max-mib", max_mib)):
        if value is not None and not value >= 0:
            raise ParseError(ErrorCode.PARSE_FLAG_MALFORMED, f"{name} is 0 or more, not {value}")
    removed = prune_templates(
        max_bytes=None if max_mib is None else max_mib << 20,
        max_unused_days=unused_days,
        everything=everything,
        dry_run=dry_run,
    )
    if not dry_run:
        forget_unmade()
        if everything:
            end_standbys()  # also those whose template went some other way
    freed_bytes = sum(each.size_bytes for each in removed)
    if as_json:
        result: dict[str, Any] = {"dry_run": dry_run, "freed_bytes": freed_bytes}
        print_json({**result, "removed": [each.key for each in removed]})
    elif removed:
        verb = "would remove" if dry_run else "removed"
        click.echo(f"{verb} {len(removed)} templates, {format_bytes(freed_bytes)}")
    else:
        click.echo("(nothing to remove)", err=True)


def _standby_object(standby: Standby) -> dict[str, Any]:
    from machinen_runtime.memory import read_host_rss_bytes

    return {
        "id": standby.id,
        "template": standby.key,
        "pid": standby.pid,
        "state": "waiting" if standby.is_ready else "being made",
        "made_at": standby.made_at,
        "memory_bytes": read_host_rss_bytes(standby.pid),
    }


def _print_standbys(waiting: list[dict[str, Any]]) -> None:
    if not waiting:
        return
    now_ms = time.time() * 1000
    rows = [
        [
            each["id"],
            each["template"][:12],
            str(each["pid"]),
            "-" if each["memory_bytes"] is None else format_bytes(each["memory_bytes"]),
            format_duration(max(0.0, now_ms - each["made_at"])),
            each["state"],
        ]
        for each in waiting
    ]
    click.echo()
    print_table(["STANDBY", "TEMPLATE", "PID", "MEMORY", "AGE", "STATE"], rows)


def _print(found: list[CachedTemplate]) -> None:
    if not found:
        click.echo("(no templates yet: the next boot makes one)", err=True)
        return
    now_ms = time.time() * 1000
    rows = [
        [
            each.key[:12],
            each.image or "(base)",
            "-" if each.memory_mib is None else f"{each.memory_mib} MiB",
            each.network or "-",
            format_bytes(each.size_bytes),
            format_duration(max(0.0, now_ms - each.used_at)),
            each.problem or "ok",
        ]
        for each in found
    ]
    print_table(["TEMPLATE", "IMAGE", "MEMORY", "NETWORK", "SIZE", "UNUSED", "STATE"], rows)
