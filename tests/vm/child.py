"""Programs that a VM test starts: they end when the test session does, however it ends.

Their signals are those of a program started in a terminal. A session under `nohup`, or in a
script's `&`, ignores some, its children inherit that, and Ctrl-C would not reach them.
"""

from __future__ import annotations

import sys

SIGNALS = ("HUP", "INT", "QUIT", "TERM", "CHLD")
HEED = ["env", f"--default-signal={','.join(SIGNALS)}"]


def tied(*argv: str) -> list[str]:
    """The command line that runs `argv` tied to the thread that starts it (setpriv(1), env(1))."""
    return ["setpriv", "--pdeathsig", "KILL", *HEED, *argv]


MACHINEN = tied(sys.executable, "-m", "machinen_runtime.cli")
"""The command line under test."""
