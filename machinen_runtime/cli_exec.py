"""`machinen exec`."""

from __future__ import annotations

import signal
import sys

import click

from machinen_runtime.cli_support import (
    DashDashCommand,
    env_option,
    find_target,
    once,
    run_async,
    vm_argument,
)
from machinen_runtime.errors import ErrorCode, ParseError


@click.command("exec", cls=DashDashCommand, short_help="Run a command in a sandbox.")
@vm_argument()
@click.argument("words", metavar="-- CMD [ARG]...", nargs=-1)
@click.option("-t", "--tty", "--pty", is_flag=True, help="Give the command a terminal.")
@env_option("Set a variable of the command's environment. Repeatable.")
@once("--cwd", metavar="PATH", help="Directory in the guest to run it in.")
@click.pass_context
def exec_command(
    ctx: click.Context,
    vm: str,
    words: tuple[str, ...],
    tty: bool,
    env: dict[str, str],
    cwd: str | None,
) -> int:
    """Run CMD in a sandbox, with this command's stdin, stdout, stderr and exit code.

    CMD is looked up in the guest's PATH and no shell looks at it. With --tty and no CMD, a login
    shell.

    \b
    Examples:
      machinen exec web -- uname -sr
      echo hi | machinen exec web -- cat
      machinen exec web -- sh -c 'cd /srv && ls'
      machinen exec --tty web
    """
    command = [*words, *ctx.meta["command"]]
    if not command and not tty:
        raise ParseError(
            ErrorCode.PARSE_FLAG_MISSING_VALUE,
            f"no command; say for instance: machinen exec {vm} -- uname -a",
        )
    entry = find_target(vm)
    if tty:
        from machinen_runtime.cli_terminal import run_on_terminal

        return run_async(run_on_terminal, entry.socket_path, command or None, env, cwd)
    return _run_with_pipes(entry.socket_path, command, env, cwd)


def _run_with_pipes(
    socket_path: str, command: list[str], env: dict[str, str], cwd: str | None
) -> int:
    from machinen_runtime.channel_format import RunRequest
    from machinen_runtime.exec_pump import run_with_descriptors

    request = RunRequest(cmd=command, env=env, cwd=cwd, stdin=True)
    sys.stdout.flush()
    try:
        return run_with_descriptors(socket_path, request, stdin=0)
    except BrokenPipeError:  # as `head` does to `yes`; click would make it an exit code of 1
        return 128 + signal.SIGPIPE
