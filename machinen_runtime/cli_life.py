"""`machinen pause`, `resume`, `rename` and `wait`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import click

from machinen_runtime.cli_support import (
    Verb,
    complete_vm,
    find_target,
    json_option,
    once,
    print_json,
    run_async,
    vm_argument,
)
from machinen_runtime.errors import ErrorCode, MachinenError, ParseError
from machinen_runtime.registry import RegistryEntry, live_entries

if TYPE_CHECKING:
    from machinen_runtime.handle import VmHandle

WEEK_S = 7 * 24 * 3600
GONE = (ErrorCode.REGISTRY_VM_NOT_FOUND, ErrorCode.VM_DIED)

vms_argument = click.argument("vms", metavar="VM...", nargs=-1, shell_complete=complete_vm)


@click.command("pause", cls=Verb, short_help="Stop the processors of sandboxes.")
@vms_argument
@click.option("-a", "--all", "everything", is_flag=True, help="Pause every running sandbox.")
@once("--when-idle", type=float, metavar="SECONDS", help="Sleep whenever nothing happened so long.")
@click.option("--no-when-idle", is_flag=True, help="Sleep no more; one that sleeps is woken.")
@json_option
def pause_command(
    vms: tuple[str, ...],
    everything: bool,
    when_idle: float | None,
    no_when_idle: bool,
    as_json: bool,
) -> None:
    """Stop the processors of sandboxes. Memory stays, time in the guest stands still.

    With --when-idle they stop by themselves whenever nothing happened for so long, and run on as
    soon as somebody wants something of the guest: a key, a command, a connection to a forwarded
    port. Timers in the guest do not wake it.

    \b
    Examples:
      machinen pause web
      machinen pause --all
      machinen pause --all --when-idle 300
    """
    if when_idle is not None and no_when_idle:
        message = "--when-idle and --no-when-idle are opposites; give one of them"
        raise ParseError(ErrorCode.PARSE_FLAG_MALFORMED, message)
    if when_idle is not None and not 1 <= when_idle <= WEEK_S:
        message = f"--when-idle takes 1 to {WEEK_S} seconds, not {when_idle:g}"
        raise ParseError(ErrorCode.PARSE_FLAG_MALFORMED, message)

    async def pause(vm: VmHandle) -> str:
        if when_idle is not None or no_when_idle:
            await vm.auto_pause(None if when_idle is None else round(when_idle * 1000))
            return "never sleeps" if when_idle is None else f"sleeps after {when_idle:g} s"
        await vm.pause()
        return "paused"

    _change_all(vms, everything, pause, as_json)


@click.command("resume", cls=Verb, short_help="Let paused sandboxes run on.")
@vms_argument
@click.option("-a", "--all", "everything", is_flag=True, help="Resume every paused sandbox.")
@json_option
def resume_command(vms: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Let paused sandboxes run on, their clocks stepped to now.

    \b
    Example:
      machinen resume web
    """

    async def resume(vm: VmHandle) -> str:
        await vm.resume()
        return "running"

    _change_all(vms, everything, resume, as_json)


@click.command("rename", cls=Verb, short_help="Give a sandbox another name.")
@vm_argument()
@click.argument("name", metavar="NAME")
@json_option
def rename_command(vm: str, name: str, as_json: bool) -> None:
    """Give a sandbox another name; its hostname follows. The old name is free at once.

    \b
    Example:
      machinen rename web web-old
    """
    entry = find_target(vm)

    async def rename() -> None:
        from machinen_runtime.attach import attach

        await (await attach(pid=entry.pid)).rename(name)

    run_async(rename)
    if as_json:
        print_json({"pid": entry.pid, "name": name, "previous_name": entry.name})


@click.command("wait", cls=Verb, short_help="Wait until sandboxes have ended.")
@vms_argument
def wait_command(vms: tuple[str, ...]) -> None:
    """Return when all of these sandboxes have ended, whoever started them.

    How they ended only the process that started them can tell.

    \b
    Example:
      machinen wait build && machinen logs build
    """
    entries = _entries(vms)

    async def wait() -> None:
        from machinen_runtime.pids import wait_process_gone

        for entry in entries:
            await wait_process_gone(entry.pid, entry)

    run_async(wait)


def _change_all(
    vms: tuple[str, ...],
    everything: bool,
    change: Callable[[VmHandle], Awaitable[str]],
    as_json: bool,
) -> None:
    """Do the same to several sandboxes, in their order, and say what became of each."""
    if bool(vms) == everything:
        raise ParseError(ErrorCode.PARSE_FLAG_MISSING_VALUE, "name the sandboxes, or say --all")
    entries = live_entries() if everything else _entries(vms)

    async def change_each() -> list[dict[str, object]]:
        from machinen_runtime.attach import attach

        results: list[dict[str, object]] = []
        for entry in entries:
            try:
                state = await change(await attach(pid=entry.pid))
            except MachinenError as error:
                if everything and error.code in (
                    ErrorCode.REGISTRY_VM_NOT_FOUND,
                    ErrorCode.VM_DIED,
                ):
                    continue  # it ended meanwhile
                raise
            results.append({"pid": entry.pid, "name": entry.name, "state": state})
        return results

    results = run_async(change_each) if entries else []
    if as_json:
        print_json({"results": results})
    else:
        for result in results:
            click.echo(f"{result['name'] or result['pid']}: {result['state']}")


def _entries(vms: tuple[str, ...]) -> list[RegistryEntry]:
    if not vms:
        raise ParseError(ErrorCode.PARSE_FLAG_MISSING_VALUE, "name the sandboxes")
    return [find_target(vm) for vm in vms]
