"""Text → what stands in the cells: grapheme clusters and the columns each takes.

Clusters are those of Unicode's UAX 29 and widths those of `wcwidth` (VS16 makes an emoji two
columns wide, two regional indicators are one flag), as terminals with mode 2027 count. Characters
that only steer layout (bidirectional controls, byte order marks) are dropped: they would act on
the user's terminal.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

from wcwidth import iter_graphemes, wcswidth, wcwidth

MAX_CLUSTER = 16
"""Code points in one cell; a guest may send any number of marks."""
MAX_CACHED = 64
"""Longer text is measured again each time."""

ZWJ = "\u200d"
VS15, VS16 = "\ufe0e", "\ufe0f"
CJK = r"\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3"
_WIDE = re.compile(rf"[{CJK}]+")
_NARROW = re.compile(
    r"[ -~\u00a1-\u00ac\u00ae-\u02ff\u0370-\u0377\u0391-\u03a1\u0400-\u0481\u048a-\u0523"
    r"\u2010-\u2027\u2190-\u2199\u2500-\u25aa\u25b0-\u25b5\u25c6-\u25fa\u2713-\u2718\u2800-\u28ff]+"
)


class Laid(NamedTuple):
    """Text laid out: one entry per column, empty for the second column of a wide cluster."""

    cells: tuple[str, ...]
    wide: bool
    """At least one cluster takes two columns."""
    joins: bool
    """The first entry may belong to the cluster before it."""


def lay(text: str) -> Laid:
    """Lay out printable text; what takes no column and joins nothing is dropped."""
    return _lay_cached(text) if len(text) <= MAX_CACHED else _lay(text)


@lru_cache(maxsize=1024)
def columns_of(cluster: str) -> int:
    """How many columns one cluster takes: 0, 1 or 2."""
    return min(max(wcswidth(cluster), 0), 2)


def is_one_cluster(text: str) -> bool:
    """Whether all of `text` belongs into one cell."""
    clusters = iter_graphemes(text)
    next(clusters, None)
    return next(clusters, None) is None


def _lay(text: str) -> Laid:
    if _NARROW.fullmatch(text):
        return Laid(tuple(text), wide=False, joins=False)
    if _WIDE.fullmatch(text):
        return Laid(_spread(text), wide=True, joins=False)
    cells: list[str] = []
    wide = False
    for cluster in iter_graphemes(text):
        for part in _parts(cluster):
            columns = columns_of(part)
            if columns:
                cells.append(part)
                if columns == 2:
                    cells.append("")
                    wide = True
            elif not cells and _is_mark(part[0]):
                cells.append(part)
    return Laid(tuple(cells), wide, joins=bool(text) and _may_join(text[0]))


_lay_cached = lru_cache(maxsize=8192)(_lay)


def _spread(text: str) -> tuple[str, ...]:
    """Each character, followed by its second column."""
    cells = [""] * (2 * len(text))
    cells[::2] = text
    return tuple(cells)


def _parts(cluster: str) -> list[str]:
    """The cluster, capped; one that would take more than two columns falls apart."""
    if len(cluster) == 1:
        return [cluster]
    cluster = "".join(c for c in cluster[:MAX_CLUSTER] if not _steers(c))
    return [cluster] if wcswidth(cluster) <= 2 else list(cluster)


def _steers(character: str) -> bool:
    """A format character that is no part of a cluster's look."""
    return (
        unicodedata.category(character) in ("Cf", "Cc")
        and character not in "\u200c\u200d"
        and not "\U000e0020" <= character <= "\U000e007f"
    )


def _is_mark(character: str) -> bool:
    """Joins the cluster before it though it takes no column: combining marks, ZWJ, selectors."""
    return wcwidth(character) == 0 and not _steers(character)


def _may_join(character: str) -> bool:
    """May belong to the cluster before it: marks, skin tones, regional indicators, jamo."""
    return (
        _is_mark(character)
        or "\U0001f3fb" <= character <= "\U0001f3ff"
        or "\U0001f1e6" <= character <= "\U0001f1ff"
        or "\u1160" <= character <= "\u11ff"
        or unicodedata.category(character) in ("Mc", "Mn", "Me")
    )


@lru_cache(maxsize=4096)
def safe_to_draw(text: str) -> str:
    """`text` drawn so that every terminal counts the columns we count.

    Terminals disagree on clusters: many draw `👩‍💻` four columns wide. Of such a cluster the first
    character is drawn, then blanks up to its width.
    """
    if text.isascii():
        return text
    return "".join(map(_safe_cluster, lay(text).cells))


@lru_cache(maxsize=4096)
def _safe_cluster(cluster: str) -> str:
    columns = columns_of(cluster)
    if len(cluster) == 1 and "\U0001f1e6" <= cluster <= "\U0001f1ff":
        return chr(ord(cluster) - 0x1F1E6 + ord("A")) + " "  # half a flag
    if columns == sum(max(wcwidth(c), 0) for c in cluster) and not {ZWJ, VS16} & set(cluster):
        return cluster
    if len(cluster) == 2 and all("\U0001f1e6" <= c <= "\U0001f1ff" for c in cluster):
        return cluster  # a flag: two columns however it is counted
    base = cluster[0]
    return base + " " * (columns - max(wcwidth(base), 0))
