"""Where the commands `machinen` and `mn` begin, before anything that takes time is imported.

A Ctrl-C that comes while we still load ends us at once and without a traceback: nothing has been
started that would have to be undone. Verbs that do start something unwind; `let_verbs_unwind()`
comes before them.
"""

from __future__ import annotations

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

_NUMBERS = (signal.SIGINT, signal.SIGTERM)


def main() -> None:
    """Run the command line and exit."""
    for number in _NUMBERS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup, or in a script's `&`
            signal.signal(number, _leave)
    from machinen_runtime.cli import main as run_command_line

    try:
        run_command_line()
    finally:
        for number in _NUMBERS:  # all is done or undone: only Python's own end is left
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _leave)


def let_verbs_unwind() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt again, and TERM the same."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.stderr.flush()
    os._exit(128 + number)  # pyright: ignore[reportPrivateUsage]
