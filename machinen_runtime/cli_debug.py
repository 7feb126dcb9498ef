"""`machinen debug`: a socket for gdb."""

from __future__ import annotations

import click

from machinen_runtime.cli_support import (
    Verb,
    find_target,
    json_option,
    print_json,
    run_async,
    vm_argument,
)


@click.command("debug", cls=Verb, short_help="Let gdb look into the machine of a sandbox.")
@vm_argument()
@click.option("--stop", is_flag=True, help="End it; the sandbox runs on.")
@json_option
def debug_command(vm: str, stop: bool, as_json: bool) -> None:
    """Have QEMU listen for gdb on a Unix socket that is yours alone, and print how to connect.

    The sandbox stands still while gdb holds it. --stop takes the breakpoints along.

    \b
    Examples:
      machinen debug web
      machinen debug web --stop
    """
    from machinen_runtime.debugging import start_debugger, stop_debugger

    entry = find_target(vm)
    who = entry.name or entry.pid
    facts = {"pid": entry.pid, "name": entry.name}
    if stop:
        ended = run_async(stop_debugger, entry)
        if as_json:
            print_json(
                {**facts, "listening": False, "socket": None, "command": None, "held": False}
            )
        else:
            click.echo(f"{who}: " + ("gdb is let go of" if ended else "was not debugged"), err=True)
        return
    found = run_async(start_debugger, entry)
    if as_json:
        reached = {"listening": True, "socket": found.path, "command": found.command}
        print_json({**facts, **reached, "held": found.held})
        return
    click.echo(found.command)
    if found.held:
        click.echo(f"{who} stands still: gdb holds it; --stop lets it run on", err=True)
    else:
        click.echo(f"{who} stands still as soon as gdb connects; --stop ends it", err=True)
