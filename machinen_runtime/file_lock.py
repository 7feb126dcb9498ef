"""Files that are locked with flock(2): the kernel lets go of them when their holder is gone.

Who holds one exclusively may remove it: whoever waited for its name finds out, and takes the file
that has the name now.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from machinen_runtime.paths import ensure_private_dir


def lock_file(path: Path, how: int) -> int | None:
    """The open and locked file at `path`, made if missing.

    None if it is locked already, or cannot be made. `how` is LOCK_EX or LOCK_SH.
    """
    while True:
        try:
            ensure_private_dir(path.parent)
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError:
            return None
        try:
            fcntl.flock(lock, how | fcntl.LOCK_NB)
            if _is_still(path, lock):
                return lock
        except OSError:
            os.close(lock)
            return None
        os.close(lock)  # whoever had it removed the file: there is a new one to lock


def is_locked(descriptor: int) -> bool:
    """Whether somebody holds the open file exclusively; it is not locked by asking."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the locked file is the one with that name: another may have removed it meanwhile."""
    with suppress(FileNotFoundError):
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    return False
