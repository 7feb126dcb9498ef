"""Before a standby starts, and when it ends: its slot, and a moment in which nobody is disturbed.

A slot is a file that its standby holds locked, so that there are no more of them than there shall
be; the runtime makes it (standbys.py there). This module is imported before anything heavy.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from vmm.errors import VmmError
from vmm.spec import StandbySpec, file_identity

BUSY_LOOK_S = 0.25
IDLE_SHARE = 0.9


def give_up_slot(standby: StandbySpec) -> None:
    """Make room for a successor: remove the slot's file while it is locked, then let go of it.

    Nothing happens the second time.
    """
    with suppress(OSError):
        if os.path.samestat(os.stat(standby.slot_path), os.fstat(standby.slot_fd)):
            os.unlink(standby.slot_path)
            os.close(standby.slot_fd)


@contextmanager
def template_in_use(standby: StandbySpec) -> Generator[ExitStack]:
    """Keep the template where it is, until the block or the stack it yields is closed.

    Raises:
        VmmError: RESTORE_FAILED: it is another one by now, or is being made.
    """
    with ExitStack() as stack:
        try:
            lock = os.open(standby.template_lock, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            stack.callback(os.close, lock)
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            raise VmmError("RESTORE_FAILED", "the template is being made or removed") from error
        if file_identity(standby.template) != standby.template_identity:
            raise VmmError("RESTORE_FAILED", "the template has gone")
        yield stack


def wait_for_leisure(patience_s: float) -> None:
    """Block until one of the host's processors has nothing to do, at most so long.

    What the boot before us was made for comes first: a standby costs a second of a processor.
    """
    ends_at = time.monotonic() + patience_s
    before = idle_seconds()
    while time.monotonic() < ends_at:
        time.sleep(BUSY_LOOK_S)
        now = idle_seconds()
        if now - before >= BUSY_LOOK_S * IDLE_SHARE:
            return
        before = now


def idle_seconds() -> float:
    """How long all processors together had nothing to do since the host booted, proc_stat(5)."""
    fields = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()
    return (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")
