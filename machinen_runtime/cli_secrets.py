"""`machinen secrets`: hand secrets to a guest."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from machinen_runtime.cli_support import (
    VerbGroup,
    find_target,
    json_option,
    print_json,
    run_async,
    vm_argument,
)
from machinen_runtime.errors import ErrorCode, ParseError


@click.group("secrets", cls=VerbGroup, short_help="Hand secrets to a sandbox.")
def secrets_command() -> None:
    """Hand secrets to a sandbox: they become /etc/machinen.env there, readable by root alone.

    \b
    Example:
      machinen secrets set web @.env
    """


@secrets_command.command("set")
@vm_argument()
@click.argument("items", metavar="KEY=VALUE|@FILE|-...", nargs=-1)
@json_option
def secrets_set_command(vm: str, items: tuple[str, ...], as_json: bool) -> None:
    """Replace all secrets of a sandbox.

    @FILE has lines KEY=VALUE, and so has stdin (-); empty lines and those with # are passed over.
    What is written on a command line can be seen by every user of this host while it runs: a file
    or stdin is better. Without any, the sandbox has no secrets left.

    \b
    Examples:
      machinen secrets set web @.env
      pass show web/env | machinen secrets set web -
    """
    from machinen_runtime.channel_secrets import VsockSecrets

    secrets: dict[str, str] = {}
    for item in items:
        secrets |= _read(item)
    entry = find_target(vm)
    count = run_async(VsockSecrets.send, entry.socket_path, secrets)
    if as_json:
        print_json({"pid": entry.pid, "name": entry.name, "sent": len(secrets), "stored": count})
    elif count < len(secrets):
        click.echo(f"{len(secrets) - count} keys are no shell identifiers and were left out")


def _read(item: str) -> dict[str, str]:
    if item == "-":
        return _parse(sys.stdin, "stdin")
    if item.startswith("@"):
        with open(item[1:], encoding="utf-8") as file:
            return _parse(file, item[1:])
    return dict([_pair(item, "a secret")])


def _parse(lines: Iterable[str], source: str) -> dict[str, str]:
    kept = [line.rstrip("\r\n") for line in lines]
    return dict(
        _pair(line.strip().removeprefix("export "), f"line {number} of {source}")
        for number, line in enumerate(kept, start=1)
        if line.strip() and not line.lstrip().startswith("#")
    )


def _pair(text: str, what: str) -> tuple[str, str]:
    """Key and value; the text itself is in no message, it may be the secret."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise ParseError(ErrorCode.PARSE_FLAG_MALFORMED, f"{what} is not of the form KEY=VALUE")
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return key.strip(), value
