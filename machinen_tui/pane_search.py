"""Regular expressions over a pane's text: lower case finds both cases, newest text first. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from machinen_tui.pane_text import PaneText, Place
from machinen_tui.terminal_text import lay

MAX_PATTERN = 200
MAX_SEARCHED = 20_000
"""Of a longer line only this many characters are searched."""


class Match(NamedTuple):
    """Columns `start` to `end` (excluded) of a logical line."""

    line: int
    start: int
    end: int
    text: str
    """The whole line."""


def compiled(pattern: str) -> re.Pattern[str]:
    """`pattern` ready to search with. ValueError, in words, if it cannot be searched for."""
    if not pattern:
        raise ValueError("type what to search for")
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"at most {MAX_PATTERN} characters")
    if _repeats_a_repeat(pattern):
        raise ValueError("a repeat within a repeat could take for ever: write it without one")
    flags = re.MULTILINE | (0 if any(c.isupper() for c in pattern) else re.IGNORECASE)
    try:
        made = re.compile(pattern, flags)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"no regular expression: {error}") from error
    if made.match(""):
        raise ValueError("that matches everywhere, also where nothing is")
    return made


def matches_in(text: str, pattern: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """The columns each match in one line takes."""
    for found in pattern.finditer(text, 0, MAX_SEARCHED):
        start = _columns(text[: found.start()])
        yield start, start + max(_columns(found[0]), 1)


def matches(text: PaneText, pattern: re.Pattern[str]) -> Iterator[Match]:
    """All matches, the newest line first; within a line from left to right."""
    return chain.from_iterable(matches_by_block(text, pattern))


def matches_by_block(text: PaneText, pattern: re.Pattern[str]) -> Iterator[list[Match]]:
    """The same a few hundred lines at a time, so that a caller can pause; often empty."""
    special = any(mark in pattern.pattern for mark in ("(?", "\\A", "\\Z", "\\b", "\\B"))
    for number, block in text.texts():
        found: list[Match] = []
        if special or pattern.search(block) is not None:
            lines = block.split("\n")
            for offset in range(len(lines) - 1, -1, -1):
                for start, end in matches_in(lines[offset], pattern):
                    found.append(Match(number + offset, start, end, lines[offset]))
        yield found


def next_match(
    text: PaneText, pattern: re.Pattern[str], place: Place, *, backwards: bool
) -> Match | None:
    """The match before `place`, or after it; beyond the end from the other end on."""
    best: Match | None = None
    round_about: Match | None = None
    for found in matches(text, pattern):
        at = (found.line, found.start)
        if backwards:
            if at < place:
                if best is not None and best.line != found.line:
                    return best
                best = found
            elif round_about is None or found.line == round_about.line:
                round_about = found
        elif at > place:
            if best is None or at < (best.line, best.start):
                best = found
        elif round_about is None or at < (round_about.line, round_about.start):
            round_about = found
    return best or round_about


def characters(text: str, columns: int) -> int:
    """How many characters of `text` stand in its first columns."""
    return columns if text.isascii() else len("".join(lay(text).cells[:columns]))


def _columns(text: str) -> int:
    return len(text) if text.isascii() else len(lay(text).cells)


_TOKEN = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\(\?[a-zA-Z:=!<>P#]*|[()]|[*+]|\{\d*,\d*\}|.", re.S
)


def _repeats_a_repeat(pattern: str) -> bool:
    """Whether an unbounded repeat lies inside a group that is itself repeated."""
    stack, closed = [False], False
    for token in _TOKEN.findall(pattern):
        unbounded = token in ("*", "+") or (token[0] == "{" and token.endswith(",}"))
        if token[0] == "(":
            stack.append(False)
        elif token == ")" and len(stack) > 1:
            closed = stack.pop()
            stack[-1] = stack[-1] or closed
            continue
        elif unbounded:
            if closed:
                return True
            stack[-1] = True
        closed = False
    return False
