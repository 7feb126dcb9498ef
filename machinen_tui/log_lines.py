"""A log as lines that may be drawn: fed bytes as they come, capped, filtered. Pure.

Whoever wrote it is not trusted: of escape sequences and control characters nothing is left.
"""

from __future__ import annotations

import codecs
import re
from collections import deque

MAX_LINES = 20_000
MAX_LINE_CHARS = 2_000
ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI, ECMA-48 5.4
    r"|\x1b[\]P^_X][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)?"  # OSC, DCS, PM, APC, SOS
    r"|\x1b[ -/]*[0-~]?"
)
UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]P^_X][^\x07\x1b]{0,4096}|[ -/]*)?\Z")


class LogLines:
    """The newest lines of a log and those of them that match a filter."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._partial = ""
        """The last line, raw, as long as its newline is missing."""
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._shown: deque[str] = deque(maxlen=MAX_LINES)
        self._needle = ""

    def feed(self, data: bytes) -> None:
        """Take in more of the log."""
        *whole, self._partial = (self._partial + self._decoder.decode(data)).split("\n")
        for raw in whole:
            self._add(cleaned(raw))
        if len(self._partial) > 4 * MAX_LINE_CHARS:
            self._add(cleaned(self._partial))
            self._partial = ""

    def say(self, text: str) -> None:
        """A line of our own."""
        if self._partial:
            self.feed(b"\n")
        self._add(cleaned(text))

    def filter(self, needle: str) -> None:
        """Show the lines that contain `needle`, whatever its case; all if it is empty."""
        self._needle = needle.casefold()
        self._shown = deque(filter(self._matches, self._lines), maxlen=MAX_LINES)

    @property
    def needle(self) -> str:
        """What is looked for, case folded."""
        return self._needle

    @property
    def total(self) -> int:
        """How many lines there are, matching or not."""
        return len(self._lines) + bool(self._partial)

    def shown(self) -> list[str]:
        """The lines that match, the one being written among them."""
        last = cleaned(UNFINISHED.sub("", self._partial))
        return [*self._shown, last] if last and self._matches(last) else list(self._shown)

    def _add(self, line: str) -> None:
        self._lines.append(line)
        if self._matches(line):
            self._shown.append(line)

    def _matches(self, line: str) -> bool:
        return self._needle in line.casefold()


def cleaned(raw: str) -> str:
    """`raw` as cells: no escapes, tabs as blanks, of a line rewritten by \\r its last state."""
    text = ESCAPES.sub("", raw.rstrip("\r"))
    text = text.rsplit("\r", 1)[-1].expandtabs(8)
    return "".join(char for char in text if char.isprintable())[:MAX_LINE_CHARS]


def spans_of(line: str, needle: str) -> list[tuple[int, int]]:
    """Where `needle` (case folded) stands in `line`: starts and ends, not overlapping."""
    folded, spans, at = line.casefold(), list[tuple[int, int]](), 0
    if not needle or len(folded) != len(line):  # folding changed the columns: mark nothing
        return []
    while (found := folded.find(needle, at)) >= 0:
        at = found + len(needle)
        spans.append((found, at))
    return spans
