"""How a run uses the machine: how many workers, and which files they take when.

A guest under TCG or a compiler keeps a core busy; a test of the TUI waits half of its time, for
keys to be taken and for timers. Taken in turns by one worker more than there are cores, the busy
ones have the cores nearly to themselves and the waiting costs nothing. Three guests at a time on
two cores took 1.5 to 2.8 times as long each. Whatever is neither comes last: those files are short,
so workers end together.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

MOST_WORKERS = 5


def workers() -> int:
    """For `pytest --numprocesses auto`."""
    return min(len(os.sched_getaffinity(0)) + 1, MOST_WORKERS)


def in_turns(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The tests, file by file, in the order in which workers take files.

    They do with `--dist loadfile --no-loadscope-reorder`.
    """
    busy = {item.path for item in items if any(map(item.get_closest_marker, ("vm", "busy")))}
    waiting = {item.path for item in items if "tui" in item.path.parts} - busy
    turn = {**_evenly(busy), **_evenly(waiting)}
    return sorted(items, key=lambda item: (turn.get(item.path, 1.0), item.path))


def _evenly(paths: Iterable[Path]) -> dict[Path, float]:
    """When each is to be taken, from 0 to 1."""
    ordered = sorted(paths)
    return {path: place / len(ordered) for place, path in enumerate(ordered)}
