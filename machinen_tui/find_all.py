"""One regular expression over every pane: hits as they are found, the newest of each pane first.

It works a few milliseconds at a time and lets the application draw and take keys in between.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import anyio

from machinen_tui.pane_search import Match, matches_by_block
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
    """Hits in batches: one line is one hit. Panes take turns, a block of lines each, so the newest
    hits of all come first."""
    searches = deque((view, _blocks_of(view, pattern), 0) for view in views)
    found = 0
    while searches and found < MAX_HITS:
        batch: list[Hit] = []
        started = time.perf_counter()
        while searches and time.perf_counter() - started < SLICE_S:
            view, blocks, count = searches.popleft()
            block = next(blocks, None)
            if block is not None:
                lines = block[: MAX_HITS_PER_PANE - count]
                batch += [Hit(view, match) for match in lines]
                if count + len(lines) < MAX_HITS_PER_PANE:
                    searches.append((view, blocks, count + len(lines)))
        batch = batch[: MAX_HITS - found]
        found += len(batch)
        if batch:
            yield batch
        await anyio.lowlevel.checkpoint()


def _blocks_of(view: SandboxView, pattern: re.Pattern[str]) -> Iterator[list[Match]]:
    """The first match of each line of a pane, a block of lines at a time."""
    if view.session is None:
        return
    for block in matches_by_block(PaneText(view.session.model), pattern):
        yield [first for _, (first, *_) in groupby(block, key=lambda match: match.line)]
