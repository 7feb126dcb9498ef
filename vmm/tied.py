"""Programs that end when the process that starts them does, however that ends.

`setpriv --pdeathsig` (util-linux 2.33) asks the kernel for it: PR_SET_PDEATHSIG, prctl(2). A parent
that ends before the program has asked is not noticed by the kernel, so a shell looks once whether
the parent is still the one it shall be. This module is imported before anything heavy, see
vmm/qemu.py.
"""

from __future__ import annotations

import os

_EXEC_IF_PARENT_LIVES = 'test "$PPID" = "$0" && exec "$@"'


def tied(*argv: str, signal: str = "KILL", parent: int | None = None) -> list[str]:
    """The command line that runs `argv` and gets it `signal` when its parent ends.

    The process that starts it must be `parent`, a pid, this one's unless told: for another nothing
    is run and the status is 1. The kernel means the parent's thread: start it from one that stays.
    """
    pid = os.getpid() if parent is None else parent
    ask = ["setpriv", "--pdeathsig", signal, "--"]
    return [*ask, "sh", "-c", _EXEC_IF_PARENT_LIVES, str(pid), *argv]
