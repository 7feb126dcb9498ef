"""`machinen`: runs a verb, prints its error, decides about the exit code.

Data goes to stdout, everything else to stderr. Exit codes: 0, 1, 2 for a usage error, 130 and 143
for INT and TERM; a verb that runs a command passes the command's through.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, cast

from machinen_runtime.cli_start import fill_closed_streams, let_verbs_unwind

if TYPE_CHECKING:
    import click

    from machinen_runtime.errors import ErrorCode, MachinenError


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    fill_closed_streams()
    terminated: list[int] = []
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, no child's exit status could be had
    try:
        from machinen_runtime.cli_group import cli  # within reach of Ctrl-C, it takes its time

        let_verbs_unwind()
        terminated = _turn_term_into_interrupt()
        result: Any = cli.main(args=argv, prog_name="machinen", standalone_mode=False)
        code = result if isinstance(result, int) else 0
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads any more. Python flushes stdout once more at exit: let that go nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        code = 1
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
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    import click

    from machinen_runtime.errors import MachinenError, ParseError

    match error:
        case click.exceptions.Exit():
            return error.exit_code
        case SystemExit():
            return error.code if isinstance(error.code, int) else 1
        case click.Abort():
            return 128 + signal.SIGINT
        case click.UsageError():
            code = _parse_code(error)
            hint = f"\nTry '{error.ctx.command_path} --help'." if error.ctx is not None else ""
            click.echo(f"machinen: ({code}) {error.format_message()}{hint}", err=True)
            return 2
        case click.ClickException():
            click.echo(f"machinen: {error.format_message()}", err=True)
            return 1
        case MachinenError():
            click.echo(_described(error), err=True)
            return 2 if isinstance(error, ParseError) else 1
        case OSError():
            click.echo(f"machinen: {error}", err=True)
            return 1
        case _:
            raise error


def _parse_code(error: click.UsageError) -> ErrorCode:
    import click

    from machinen_runtime.errors import ErrorCode

    if isinstance(error, click.NoSuchOption):
        return ErrorCode.PARSE_FLAG_UNKNOWN
    lacks_value = isinstance(error, click.BadOptionUsage) and "requires" in error.message
    if lacks_value or isinstance(error, click.MissingParameter):
        return ErrorCode.PARSE_FLAG_MISSING_VALUE
    return ErrorCode.PARSE_FLAG_MALFORMED


def _described(error: MachinenError) -> str:
    """An error and its causes, for people or, if they ask for that, for programs."""
    from machinen_runtime.json_log import json_line, wants_json

    causes = _causes(error)
    if wants_json():
        details = {"code": str(error.code), "retryable": error.retryable, "causes": causes}
        return json_line("error", "failed", str(error), **details)
    return "\n".join([f"machinen: ({error.code}) {error}", *causes])


def _causes(error: MachinenError) -> list[str]:
    from machinen_runtime.errors import format_machinen_error

    own_lines = len(f"({error.code}): {error}".splitlines())
    return format_machinen_error(error).splitlines()[own_lines:]


if __name__ == "__main__":
    main()
