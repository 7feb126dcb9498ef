"""`machinen`: small named Linux VMs from the command line.

Each verb lives in a file of its own and is imported when it is called: `machinen ls` shall not wait
for an event loop that it does not use. Data goes to stdout, everything else to stderr; main() alone
prints errors and decides about exit codes: 0, 1, 2 for a usage error, 130 and 143 for INT and TERM.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any, cast

import click

from machinen_runtime.errors import ErrorCode, MachinenError, ParseError

VERBS: dict[str, tuple[str, str]] = {
    "install": ("cli_setup", "Download and build what sandboxes need."),
    "doctor": ("cli_setup", "Check whether sandboxes can run here."),
    "boot": ("cli_boot", "Boot a sandbox and attach to it, or leave it running."),
    "ls": ("cli_list", "List the running sandboxes."),
    "exec": ("cli_exec", "Run a command in a sandbox."),
    "attach": ("cli_attach", "Attach this terminal to a session of a sandbox."),
    "sessions": ("cli_attach", "List the sessions of a sandbox, or end one."),
    "snapshot": ("cli_fork", "Write a sandbox, as it runs, to a directory."),
    "restore": ("cli_boot", "Start a sandbox from a snapshot."),
    "fork": ("cli_fork", "Make siblings of a running sandbox that go on from this moment."),
    "stop": ("cli_stop", "Stop sandboxes."),
    "gc": ("cli_stop", "Remove what dead sandboxes left behind."),
    "stats": ("cli_watch", "Show what a sandbox costs."),
    "logs": ("cli_watch", "Show the console of a sandbox."),
    "completion": ("cli_setup", "Print the completion script of a shell."),
}
ALIASES = {"list": "ls", "ps": "ls"}

HELP = """Small named Linux VMs that boot in a blink and fork while they run.

\b
  machinen boot --name web --detach -p 8080:80
  machinen exec web -- uname -a
  machinen fork web --new-name web-2 --detach
  machinen stop --all

VM is a name or a pid as `machinen ls` shows them. `machinen VERB --help` explains a verb.
"""


class LazyGroup(click.Group):
    """The verbs, each imported when it is first needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs in the order of the help."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a verb's file and return its command."""
        verb = ALIASES.get(cmd_name, cmd_name)
        if verb not in VERBS:
            return None
        module = importlib.import_module(f"machinen_runtime.{VERBS[verb][0]}")
        return cast("click.Command", getattr(module, f"{verb}_command"))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of verbs, from the table above."""
        with formatter.section("Verbs"):
            formatter.write_dl([(verb, text) for verb, (_, text) in VERBS.items()])


def _print_version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version  # slow to import, seldom asked for

        click.echo(f"machinen {version('machinen')}")
        ctx.exit()


@click.group(cls=LazyGroup, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """The group itself does nothing."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    terminated = _turn_term_into_interrupt()
    try:
        result: Any = cli.main(args=argv, prog_name="machinen", standalone_mode=False)
        code = result if isinstance(result, int) else 0
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads any more. Python flushes stdout once more at exit: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 128 + signal.SIGPIPE
    except BaseException as error:
        code = _report(_unwrapped(error))
        if code == 130 and terminated:
            code = 128 + signal.SIGTERM
    sys.exit(code)


def _turn_term_into_interrupt() -> list[int]:
    """Let SIGTERM unwind as Ctrl-C does, so that nothing half-started stays behind."""
    seen: list[int] = []

    def on_term(number: int, _frame: FrameType | None) -> None:
        seen.append(number)
        if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, signal.SIG_DFL, None):
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGTERM, on_term)
    return seen


def _unwrapped(error: BaseException) -> BaseException:
    """The one error in a task group's exception group; an interrupt wins over the rest."""
    while isinstance(error, BaseExceptionGroup):
        inner = cast("BaseExceptionGroup[BaseException]", error).exceptions
        interrupts = [each for each in inner if not isinstance(each, Exception)]
        error = (interrupts or list(inner))[0]
    return error


def _report(error: BaseException) -> int:
    """Print an error for people, and return the exit code it stands for."""
    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case SystemExit():
            return error.code if isinstance(error.code, int) else 1
        case KeyboardInterrupt() | click.Abort():
            return 128 + signal.SIGINT
        case click.UsageError():
            unknown = isinstance(error, click.NoSuchOption)
            code = ErrorCode.PARSE_FLAG_UNKNOWN if unknown else ErrorCode.PARSE_FLAG_MALFORMED
            hint = f"\nTry '{error.ctx.command_path} --help'." if error.ctx is not None else ""
            click.echo(f"machinen: ({code}) {error.format_message()}{hint}", err=True)
            return 2
        case click.ClickException():
            click.echo(f"machinen: {error.format_message()}", err=True)
            return 1
        case MachinenError():
            click.echo(f"machinen: ({error.code}) {error}", err=True)
            for line in _causes(error):
                click.echo(line, err=True)
            return 2 if isinstance(error, ParseError) else 1
        case OSError():
            click.echo(f"machinen: {error}", err=True)
            return 1
        case _:
            raise error


def _causes(error: MachinenError) -> list[str]:
    from machinen_runtime.errors import format_machinen_error

    own_lines = len(f"({error.code}): {error}".splitlines())
    return format_machinen_error(error).splitlines()[own_lines:]


if __name__ == "__main__":
    main()
