"""Programs that a VM test starts: they end when the test session does, however it ends.

Their signals are those of a program started in a terminal. A session under `nohup`, or in a
script's `&`, ignores some, its children inherit that, and Ctrl-C would not reach them.
"""

from __future__ import annotations

import sys

from vmm.tied import tied

SIGNALS = ("HUP", "INT", "QUIT", "TERM", "CHLD")
HEED = ["env", f"--default-signal={','.join(SIGNALS)}"]


def heeding(*argv: str) -> list[str]:
    """The command line that runs `argv` tied to this process and with its signals at default."""
    return tied(*HEED, *argv)


MACHINEN = heeding(sys.executable, "-m", "machinen_runtime.cli")
"""The command line under test."""
