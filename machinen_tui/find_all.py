"""One regular expression over every pane: hits as they are found, the newest of each pane first.

It works a few milliseconds at a time and lets the application draw and take keys in between.
"""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import NamedTuple

import anyio

from machinen_tui.pane_search import Match, matches
from machinen_tui.pane_text import PaneText
from machinen_tui.roster import SandboxView

SLICE_S = 0.012
MAX_HITS_PER_PANE, MAX_HITS = 200, 2000


class Hit(NamedTuple):
    """A match, and the sandbox in whose pane it is."""

    view: SandboxView
    match: Match


async def find_all(
    views: Sequence[SandboxView], pattern: re.Pattern[str]
) -> AsyncIterator[list[Hit]]:
    """Hits in batches: one line is one hit. Panes take turns, so the first hits of all come
    first."""
    searches = [(view, _lines_of(view, pattern), [0]) for view in views]
    found = 0
    while searches and found < MAX_HITS:
        batch: list[Hit] = []
        started = time.perf_counter()
        while searches and time.perf_counter() - started < SLICE_S:
            view, search, count = searches.pop(0)
            match = next(search, None)
            if match is not None and count[0] < MAX_HITS_PER_PANE:
                count[0] += 1
                batch.append(Hit(view, match))
                searches.append((view, search, count))
        found += len(batch)
        if batch:
            yield batch[: MAX_HITS - found + len(batch)]
        await anyio.lowlevel.checkpoint()


def _lines_of(view: SandboxView, pattern: re.Pattern[str]) -> Iterator[Match]:
    """The first match of each line of a pane."""
    if view.session is None:
        return
    before = -1
    for match in matches(PaneText(view.session.model), pattern):
        if match.line != before:
            yield match
        before = match.line
