"""Where the commands `machinen` and `mn` begin, before anything that takes time is imported.

A Ctrl-C that comes while we still load ends us at once and without a traceback: nothing has been
started that would have to be undone. Verbs that do start something unwind; `let_verbs_unwind()`
comes before them.
"""

from __future__ import annotations

import atexit
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from types import FrameType
else:
    import _signal as signal  # what `signal` wraps, without the milliseconds that takes


def main() -> None:
    """Run the command line and exit."""
    fill_closed_streams()
    leave_at_once(signal.SIGINT, signal.SIGTERM)
    from machinen_runtime.cli import main as run_command_line

    try:
        run_command_line()
    except KeyboardInterrupt:  # it came when the verb had ended
        sys.exit(128 + signal.SIGINT)
    finally:
        nothing_is_left_to_do(signal.SIGINT, signal.SIGTERM)


def leave_at_once(*numbers: int) -> None:
    """From here on these signals end the process, 128 + their number, and nothing unwinds."""
    for number in numbers:
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup, or in a script's `&`
            signal.signal(number, _leave)


def nothing_is_left_to_do(*numbers: int) -> None:
    """All is done or undone, only Python's own end is left.

    These signals leave at once while Python waits for threads. After that it would give them their
    defaults back, and they would kill who has done all that was asked: then they change nothing.
    """
    leave_at_once(*numbers)
    for number in numbers:
        atexit.register(signal.signal, number, signal.SIG_IGN)


def fill_closed_streams() -> None:
    """Give a closed stdin, stdout or stderr (`>&-`) to /dev/null.

    Else the next file we open would take its number, and Python has no `sys.stdout` then.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            if os.open(os.devnull, os.O_RDWR) != number:
                raise  # every lower one is open: the lowest free number is this
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115


def let_verbs_unwind() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt again, if `leave_at_once` changed that."""
    if signal.getsignal(signal.SIGINT) == _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.stderr.flush()
    os._exit(128 + number)  # pyright: ignore[reportPrivateUsage]
