"""`machinen cp`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from machinen_runtime.cli_support import Verb, find_target, run_async
from machinen_runtime.errors import ErrorCode, ParseError
from machinen_runtime.registry import RegistryEntry, live_entries

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

GUEST_HOME = "/root"
STREAM = "-"


def complete_place(
    ctx: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """`NAME:` of every live VM, and files of this host."""
    from click.shell_completion import CompletionItem

    del ctx, param
    names = [f"{entry.name or entry.pid}:" for entry in live_entries()]
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return [*found, CompletionItem(incomplete, type="file")]


@dataclass(frozen=True, slots=True)
class _GuestPlace:
    vm: str
    path: str


@click.command("cp", cls=Verb, short_help="Copy files into or out of a sandbox.")
@click.argument("source", metavar="SRC", shell_complete=complete_place)
@click.argument("target", metavar="DST", shell_complete=complete_place)
@click.option("-r", "--recursive", is_flag=True, help="Copy directories with all in them.")
@click.option(
    "-x", "--exclude", metavar="PATTERN", multiple=True, help="Leave these out. Repeatable."
)
@click.option("-q", "--quiet", is_flag=True, help="Show no progress.")
def cp_command(
    source: str, target: str, recursive: bool, exclude: tuple[str, ...], quiet: bool
) -> int:
    """Copy SRC to DST; one of them is VM:PATH, the other a path of this host, or - for stdin or
    stdout.

    If DST is a directory, SRC goes into it under its own name; SRC/. copies what is in SRC. PATH is
    relative to root's home. Modes are kept; in the sandbox everything belongs to root. Patterns are
    those of `tar --exclude`.

    \b
    Examples:
      machinen cp app.py web:/srv/
      machinen cp -r -x .git . web:/srv/app
      machinen cp -r web:/var/log ./logs
      pg_dump shop | machinen cp - db:/tmp/shop.sql
    """
    here, there = _place(source), _place(target)
    if isinstance(here, _GuestPlace) == isinstance(there, _GuestPlace):
        raise ParseError(
            ErrorCode.PARSE_FLAG_MALFORMED,
            "one of SRC and DST is VM:PATH and the other a path of this host",
        )
    if STREAM in (here, there) and recursive:
        raise ParseError(ErrorCode.PARSE_FLAG_MALFORMED, "a directory cannot go through a pipe")
    if isinstance(there, _GuestPlace):
        return _copy_in(str(here), there, recursive, exclude, quiet)
    assert isinstance(here, _GuestPlace)
    return _copy_out(here, str(there), recursive, exclude, quiet)


def _place(text: str) -> str | _GuestPlace:
    """VM:PATH, or a path of this host: one with a slash or a dot in front, or without a colon."""
    vm, colon, path = text.partition(":")
    if not colon or not vm or text.startswith(("/", "./", "../", "~")):
        return text
    if path in ("", "~") or path.startswith("~/"):
        path = GUEST_HOME + path.removeprefix("~")
    return _GuestPlace(vm, path if path.startswith("/") else f"{GUEST_HOME}/{path}")


def _copy_in(
    source: str, target: _GuestPlace, recursive: bool, exclude: tuple[str, ...], quiet: bool
) -> int:
    entry = find_target(target.vm)
    if source == STREAM:
        return run_async(_copy_stdin, entry, target.path)

    async def copy() -> None:
        from machinen_runtime.cli_meter import Meter
        from machinen_runtime.guest_copy import copy_into

        with Meter(f"{source} → {target.vm}", visible=not quiet) as meter:
            await copy_into(
                entry.socket_path,
                source,
                target.path,
                recursive=recursive,
                excludes=exclude,
                on_bytes=meter.add,
            )

    run_async(copy)
    return 0


def _copy_out(
    source: _GuestPlace, target: str, recursive: bool, exclude: tuple[str, ...], quiet: bool
) -> int:
    entry = find_target(source.vm)
    if target == STREAM:
        return _cat(entry, source.path)

    async def copy() -> None:
        from machinen_runtime.cli_meter import Meter
        from machinen_runtime.guest_copy import copy_out

        with Meter(f"{source.vm} → {target}", visible=not quiet) as meter:
            await copy_out(
                entry.socket_path,
                source.path,
                target,
                recursive=recursive,
                excludes=exclude,
                on_bytes=meter.add,
            )

    run_async(copy)
    return 0


async def _copy_stdin(entry: RegistryEntry, path: str) -> int:
    from machinen_runtime.terminal_io import STDIN, DescriptorReceiveStream
    from machinen_runtime.write_file import write_guest_stream

    source = DescriptorReceiveStream(STDIN)
    await write_guest_stream(entry.socket_path, path, source, exec_timeout_ms=None)
    return 0


def _cat(entry: RegistryEntry, path: str) -> int:
    from machinen_runtime.channel_format import RunRequest
    from machinen_runtime.exec_pump import run_with_descriptors

    sys.stdout.flush()
    request = RunRequest(cmd=["cat", "--", path], stdin=False)
    return run_with_descriptors(entry.socket_path, request, stdin=None) and 1
