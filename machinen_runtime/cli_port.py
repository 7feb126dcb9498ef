"""`machinen port ls|add|rm`: the port forwards of a running sandbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from machinen_runtime.cli_support import (
    VerbGroup,
    find_target,
    is_number,
    json_option,
    parse_forward,
    print_json,
    print_table,
    run_async,
    vm_argument,
)
from machinen_runtime.errors import ErrorCode, ParseError

if TYPE_CHECKING:
    from machinen_runtime.option_types import PortForward
    from machinen_runtime.registry_entry import RegistryEntry

HEADER = ["HOST", "GUEST"]


@click.group(
    "port", cls=VerbGroup, no_args_is_help=False, short_help="Port forwards of a running sandbox."
)
def port_command() -> None:
    """List, add and remove port forwards of a running sandbox.

    \b
    Examples:
      machinen port add web 8080:80
      machinen port add web 0:80        # any free port of the host; says which
      machinen port ls web
      machinen port rm web 8080
    """


@port_command.command("ls")
@vm_argument()
@json_option
def port_ls_command(vm: str, as_json: bool) -> None:
    """List the forwards of VM.

    \b
    Example:
      machinen port ls web --json | jq '.ports[].hostPort'
    """
    entry = find_target(vm)

    async def ls() -> list[PortForward]:
        from machinen_runtime.port_forwards import list_forwards

        return await list_forwards(entry)

    forwards = run_async(ls)
    if as_json:
        print_json({"vm": _named(entry), "ports": [_as_object(each) for each in forwards]})
    elif not forwards:
        click.echo("(no port forwards)")
    else:
        print_table(HEADER, [[_place(each), str(each.guest_port)] for each in forwards])


@port_command.command("add")
@vm_argument()
@click.argument("forward", metavar="[ADDR:]HOST:GUEST")
@json_option
def port_add_command(vm: str, forward: str, as_json: bool) -> None:
    """Lead a TCP port of this host to one of VM, and print where it listens.

    With HOST 0 any free port is taken. Without ADDR only this host can connect (127.0.0.1).

    \b
    Examples:
      machinen port add web 8080:80
      curl "$(machinen port add web 0:80)"
    """
    address, host, guest = parse_forward("port add", forward)
    if host == 0 and address != "127.0.0.1":
        raise ParseError(
            ErrorCode.PARSE_PORT_INVALID,
            "a free port is only looked for on 127.0.0.1: leave ADDR out",
        )
    entry = find_target(vm)

    async def add() -> PortForward:
        from machinen_runtime.option_types import PortForward
        from machinen_runtime.port_forwards import add_forward

        wanted = PortForward(host_port=host, guest_port=guest, host_addr=address) if host else guest
        return await add_forward(entry, wanted)

    added = run_async(add)
    if as_json:
        print_json({"vm": _named(entry), **_as_object(added)})
    else:
        click.echo(_place(added))


@port_command.command("rm")
@vm_argument()
@click.argument("place", metavar="[ADDR:]HOST")
@json_option
def port_rm_command(vm: str, place: str, as_json: bool) -> None:
    """Remove a forward of VM and end its connections. HOST is the port of this host.

    \b
    Example:
      machinen port rm web 8080
    """
    address, _, port = place.rpartition(":")
    address = address.strip("[]") or "127.0.0.1"
    if not is_number(port):
        raise ParseError(
            ErrorCode.PARSE_PORT_INVALID, f"port rm takes [ADDR:]HOST_PORT, not {place!r}"
        )
    entry = find_target(vm)

    async def remove() -> None:
        from machinen_runtime.port_forwards import remove_forward

        await remove_forward(entry, int(port), address)

    run_async(remove)
    if as_json:
        print_json({"vm": _named(entry), "hostPort": int(port), "hostAddr": address})


def _named(entry: RegistryEntry) -> str | int:
    return entry.name or entry.pid


def _place(forward: PortForward) -> str:
    address = f"[{forward.host_addr}]" if ":" in forward.host_addr else forward.host_addr
    return f"{address}:{forward.host_port}"


def _as_object(forward: PortForward) -> dict[str, Any]:
    return {
        "hostPort": forward.host_port,
        "guestPort": forward.guest_port,
        "hostAddr": forward.host_addr,
    }
