"""Regular expressions over scrollbacks: newest text first, a little at a time, many panes at once.

Blocks of text are searched whole, so a pane of 50 000 lines takes milliseconds; panes take turns
block by block, so the newest hits of all come first. Nothing here waits or keeps a block alive.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Generic, NamedTuple, TypeVar

from machinen_tui.terminal_model import TerminalModel

Key = TypeVar("Key")

SCREEN = -1
"""In place of a line's number: the hit is on the screen."""
MAX_HITS_PER_BLOCK = 1000


class Hit(NamedTuple, Generic[Key]):
    """One match: in which pane, in which line, where in it, and the line."""

    key: Key
    line: int
    """The number of the line in the scrollback, or SCREEN."""
    start: int
    end: int
    text: str


class Expression(NamedTuple):
    """What is searched for. Lower-case text is searched for `lower`: several times faster than
    ignoring case."""

    exact: re.Pattern[str]
    lower: re.Pattern[str] | None

    def in_text(self, text: str) -> tuple[re.Pattern[str], str]:
        """The pattern and the form of `text` to search with it; positions are the same."""
        if self.lower is not None and text.isascii():
            return self.lower, text.lower()
        return self.exact, text


def compiled(pattern: str) -> Expression:
    """A search: case matters only if there is a capital in it.

    Raises:
        re.error: it is no regular expression; the message says why.
    """
    if re.search(r"[A-Z]", pattern):
        return Expression(re.compile(pattern, re.MULTILINE), None)
    plain = not re.search(r"\\[xu0-9]", pattern)  # these may stand for capitals
    exact = re.compile(pattern, re.MULTILINE | re.IGNORECASE)
    return Expression(exact, re.compile(pattern, re.MULTILINE) if plain else None)


def search(
    models: Iterable[tuple[Key, TerminalModel]], pattern: Expression
) -> Iterator[list[Hit[Key]]]:
    """The hits of all panes, newest text first, a block at a time; a list may be empty.

    Each step takes a few milliseconds: the caller may do other things between two, or stop.
    """
    turns: deque[tuple[Key, Iterator[tuple[int, str]]]] = deque(
        (key, _blocks(model)) for key, model in models
    )
    while turns:
        key, blocks = turns.popleft()
        found = next(blocks, None)
        if found is not None:
            turns.append((key, blocks))
            yield hits_in(key, *found, pattern)


def _blocks(model: TerminalModel) -> Iterator[tuple[int, str]]:
    """The screen, then the scrollback: the number of the first line, and lines of text."""
    yield SCREEN, model.lines_text()
    yield from model.scrollback.texts()


def hits_in(key: Key, first: int, text: str, expression: Expression) -> list[Hit[Key]]:
    """The hits in one block of lines, the newest first. An empty match is none."""
    pattern, searched = expression.in_text(text)
    found = pattern.search(searched)
    if found is None:
        return []
    starts = [0, *(total + 1 for total in accumulate(_steps(text)))]
    hits: list[Hit[Key]] = []
    while found is not None and len(hits) < MAX_HITS_PER_BLOCK:
        if found.end() > found.start():
            index = bisect_right(starts, found.start()) - 1
            line_end = text.find("\n", found.start())
            line = text[starts[index] : line_end if line_end >= 0 else len(text)]
            number = SCREEN if first == SCREEN else first + index
            start = found.start() - starts[index]
            hits.append(Hit(key, number, start, min(found.end() - starts[index], len(line)), line))
        following = max(found.end(), found.start() + 1)
        found = pattern.search(searched, following) if following < len(text) else None
    return hits[::-1]


def _steps(text: str) -> list[int]:
    """Lengths that add up to where each line ends, line feeds included from the second on."""
    lengths = [len(line) for line in text.split("\n")]
    return [length + (index > 0) for index, length in enumerate(lengths)]
