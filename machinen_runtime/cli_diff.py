"""`machinen diff`."""

from __future__ import annotations

import time
from collections.abc import Generator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from machinen_runtime.cli_support import (
    Verb,
    complete_vm,
    find_target,
    format_bytes,
    format_duration,
    json_option,
    print_json,
    progress,
    run_async,
)

if TYPE_CHECKING:
    from machinen_runtime.compare import FileDifference, ProcessDifference, VmDifference
    from machinen_runtime.file_difference import TextDifference
    from machinen_runtime.guest_survey import ProcessFacts
    from machinen_runtime.registry_entry import RegistryEntry


@click.command("diff", cls=Verb, short_help="Show how two sandboxes differ.")
@click.argument("a", metavar="A", shell_complete=complete_vm)
@click.argument("b", metavar="B", shell_complete=complete_vm)
@click.argument("path", required=False)
@json_option
def diff_command(a: str, b: str, path: str | None, as_json: bool) -> None:
    """Show how two sandboxes differ since they were one: files, processes, environment, memory.

    Files are those that changed in either since then and are not the same now; live mounts are left
    out. The environment is that of the shell in session main, as it was started. < is A, > is B.
    With PATH, show how that file differs, as diff -u would.

    \b
    Examples:
      machinen diff web web-2
      machinen diff web web-2 /etc/hosts
      machinen diff web web-2 --json | jq -r '.files[].path'
    """
    first, second = find_target(a), find_target(b)
    if path is not None:
        _diff_file(first, second, path, as_json)
        return

    async def compare_them() -> VmDifference:
        from machinen_runtime.compare import compare

        return await compare(first, second)

    with progress("comparing"):
        found = run_async(compare_them)
    if as_json:
        print_json(as_object(found))
    else:
        for line in _lines(found):
            click.echo(line)


def _diff_file(first: RegistryEntry, second: RegistryEntry, path: str, as_json: bool) -> None:
    async def compare_it() -> TextDifference:
        from machinen_runtime.file_difference import file_difference

        return await file_difference(first, second, path)

    with progress("comparing"):
        found = run_async(compare_it)
    if as_json:
        print_json({
            **_sides(found), "path": found.path, "same": found.same, "binary": found.binary,
            "cut": found.cut, "lines": found.lines,
        })  # fmt: skip
        return
    for line in found.lines:
        click.echo(line)
    if found.cut:
        click.echo("only their beginnings were compared: they are very long", err=True)


def _sides(found: VmDifference | TextDifference) -> dict[str, Any]:
    return {side: {"pid": entry.pid, "name": entry.name}
            for side, entry in (("a", found.a), ("b", found.b))}  # fmt: skip


def as_object(found: VmDifference) -> dict[str, Any]:
    """What --json prints."""
    return {
        **_sides(found),
        "parted_at": found.parted_at_ms,
        "files": [_file(each) for each in found.files],
        "files_problem": found.files_problem or None,
        "processes": [asdict(each) for each in found.processes],
        "same_processes": found.same_processes,
        "environment": [asdict(each) for each in found.environment],
        "same_variables": found.same_variables,
        "memory": {
            side: {**asdict(memory), "private_pages": memory.private_pages}
            for side, memory in (("a", found.memory_a), ("b", found.memory_b))
        },
        "elapsed_ms": round(found.elapsed_ms, 1),
    }


def _file(each: FileDifference) -> dict[str, Any]:
    return {name: value for name, value in asdict(each).items() if name != "name"}


def _lines(found: VmDifference) -> Generator[str]:
    yield _title(found)
    yield f"files: {len(found.files)} differ"
    if found.files_problem:
        yield f"  {found.files_problem}"
    for each in found.files:
        sign = {"only in a": "<", "only in b": ">"}.get(each.what, "!")
        yield f"  {sign} {each.path}" + (f"  ({each.what})" if sign == "!" else "")
    yield f"processes: {len(found.processes)} differ, {found.same_processes} in both"
    for process in found.processes:
        yield from _process_lines(process)
    yield f"environment: {len(found.environment)} differ, {found.same_variables} the same"
    for variable in found.environment:
        if variable.a is not None:
            yield f"  < {variable.name}={variable.a}"
        if variable.b is not None:
            yield f"  > {variable.name}={variable.b}"
    yield "memory:"
    for sign, memory in (("<", found.memory_a), (">", found.memory_b)):
        own = f"{format_bytes(memory.private_bytes)} its own ({memory.private_pages} pages)"
        yield f"  {sign} {own}, {format_bytes(memory.shared_bytes)} shared"


def _title(found: VmDifference) -> str:
    names = [entry.name or str(entry.pid) for entry in (found.a, found.b)]
    title = f"< {names[0]}\n> {names[1]}\n"
    if found.parted_at_ms is None:
        return title + "they are not related; compared since the younger was started"
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.parted_at_ms / 1000))
    ago = format_duration(time.time() * 1000 - found.parted_at_ms)
    return title + f"they were one until {at}, {ago} ago"


def _process_lines(process: ProcessDifference) -> Generator[str]:
    for sign, facts in (("<", process.a), (">", process.b)):
        if facts is not None:
            yield f"  {sign} {facts.pid:>6} {format_bytes(facts.rss_bytes):>5}  {_shown(facts)}"


def _shown(facts: ProcessFacts) -> str:
    return facts.command or f"[{facts.name}]"
