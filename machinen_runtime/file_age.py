"""How long ago a file was changed, by a clock that may have been set since.

A time in the future was written before the clock was set back. Taken as it is, such a file would
stay the youngest for as long as the clock is behind: never garbage, and the last to leave a cache.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

SLACK_S = 5.0
"""Clocks are corrected by so much all the time."""


def seconds_unchanged(path: Path, now: float | None = None) -> float:
    """Seconds since `path` was changed; one from the future is dated now, and ages from here on.

    Raises:
        OSError: it is gone.
    """
    now = time.time() if now is None else now
    age = now - path.stat().st_mtime
    if age < -SLACK_S:
        os.utime(path, (now, now))
    return max(0.0, age)
