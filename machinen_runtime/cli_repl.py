"""`machinen repl`: one command per line, each in a shell of its own."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress

import click

from machinen_runtime.cli_support import Verb, env_option, find_target, once, vm_argument
from machinen_runtime.paths import ensure_private_dir, home_root
from machinen_runtime.registry import RegistryEntry

HISTORY_FILE = "repl_history"
HISTORY_LINES = 1000


@click.command("repl", cls=Verb, short_help="Type commands that run in a sandbox.")
@vm_argument()
@env_option("Set a variable of the commands' environment. Repeatable.")
@once("--cwd", metavar="PATH", help="Directory in the guest to run them in.")
def repl_command(vm: str, env: dict[str, str], cwd: str | None) -> int:
    """Read lines and run each in a sandbox, in a shell of its own: nothing carries over.

    Ctrl-C ends the command that runs, or drops the line; Ctrl-D leaves. Exits with the code of the
    last command, if the lines come from a file or a pipe.

    \b
    Examples:
      machinen repl web
      printf '%s\\n' 'uname -r' uptime | machinen repl web
    """
    entry = find_target(vm)
    if not sys.stdin.isatty():
        code = 0
        for line in sys.stdin:
            code = _run(entry, line, env, cwd)
        return code
    with _history():
        _converse(entry, f"{vm}> ", env, cwd)
    return 0


def _converse(entry: RegistryEntry, prompt: str, env: dict[str, str], cwd: str | None) -> None:
    while True:
        try:
            line = input(prompt)
            code = _run(entry, line, env, cwd)
            if code:
                click.echo(f"[exit code {code}]", err=True)
        except KeyboardInterrupt:  # drops the line; a command's second one leaves it to its hang-up
            click.echo("^C")
        except EOFError:
            click.echo()
            return


def _run(entry: RegistryEntry, line: str, env: dict[str, str], cwd: str | None) -> int:
    """Run one line with our stdout and stderr; its stdin is empty, the next line is not for it."""
    from machinen_runtime.channel_format import RunRequest
    from machinen_runtime.exec_pump import run_with_descriptors

    if not line.strip():
        return 0
    sys.stdout.flush()
    request = RunRequest(cmd=line.rstrip("\n"), env=env, cwd=cwd, stdin=False)
    try:
        return run_with_descriptors(entry.socket_path, request, stdin=None)
    except BrokenPipeError:
        return 128 + signal.SIGPIPE


@contextmanager
def _history() -> Generator[None]:
    """Lines can be edited and found again, also next time."""
    import readline  # here: importing it changes the terminal

    path = home_root() / HISTORY_FILE
    with suppress(OSError):
        readline.read_history_file(path)
    readline.set_history_length(HISTORY_LINES)
    try:
        yield
    finally:
        with suppress(OSError):  # a home that cannot be written to is no reason to fail
            ensure_private_dir(path.parent)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            readline.write_history_file(path)
