"""Cells and their styles: what a Select Graphic Rendition sequence does to a `pyte.screens.Char`,
kept so that it is worked out once.

A `StyleTable` hands out one `Char` object per character in one style; tables themselves are
interned, so drawing text is a chain of dict
look-ups and equal cells are the same object. Parameters follow ECMA-48 8.3.117, ISO 8613-6 colours
(`38:2::r:g:b`) and xterm's ctlseqs.
"""

from __future__ import annotations

from functools import lru_cache

import pyte.graphics as graphics
from pyte.screens import Char

PLAIN = Char(" ")
"""A blank cell in the default style. `Char`'s fields: data, fg, bg, bold, italics, underscore,
strikethrough, reverse, blink."""

MAX_STYLES = 4096
"""Styles kept apart at once; a guest that invents more (24-bit gradients) only costs look-ups
again."""

MAX_CHARS_PER_STYLE = 4096

_FG, _BG = 1, 2
_FLAGS = {
    1: (3, True), 3: (4, True), 4: (5, True), 5: (8, True), 6: (8, True), 7: (7, True),
    9: (6, True), 21: (5, True), 22: (3, False), 23: (4, False), 24: (5, False), 25: (8, False),
    27: (7, False), 29: (6, False),
}  # fmt: skip

_NAMES_16 = [*[*graphics.FG_ANSI.values()][:8], *graphics.FG_AIXTERM.values()]
"""The first 16 colours of the palette by name, so that a theme may choose them."""

Change = tuple[int, str | bool]
"""Which field of `Char` takes which value."""


class StyleTable(dict[str, Char]):
    """One style: text → the cell that shows it. `attrs` is the style as a blank cell, `next_styles`
    caches SGR transitions."""

    __slots__ = ("attrs", "next_styles")

    def __init__(self, attrs: Char) -> None:
        super().__init__()
        self.attrs = attrs
        self.next_styles: dict[str, StyleTable] = {}

    def __missing__(self, text: str) -> Char:
        if len(self) >= MAX_CHARS_PER_STYLE:
            self.clear()
        cell = self[text] = self.attrs._replace(data=text)
        return cell


class StyleTables:
    """Every style one terminal uses, interned by its attributes."""

    def __init__(self) -> None:
        self._tables: dict[Char, StyleTable] = {}
        self.plain = self.table(PLAIN)

    def table(self, attrs: Char) -> StyleTable:
        """The table of the style that `attrs` carries (its text is ignored)."""
        if attrs.data != " ":
            attrs = attrs._replace(data=" ")
        found = self._tables.get(attrs)
        if found is None:
            if len(self._tables) >= MAX_STYLES:
                self._forget()
            found = self._tables[attrs] = StyleTable(attrs)
        return found

    def after_sgr(self, current: StyleTable, params: str) -> StyleTable:
        """The style after `CSI params m`. Unknown parameters change nothing."""
        following = current.next_styles.get(params)
        if following is None:
            reset, changes = sgr_changes(params)
            fields = list(PLAIN if reset else current.attrs)
            for index, value in changes:
                fields[index] = value
            following = self.table(Char._make(fields))
            if len(current.next_styles) < MAX_STYLES:
                current.next_styles[params] = following
        return following

    def _forget(self) -> None:
        for table in self._tables.values():
            table.next_styles.clear()
        self._tables.clear()
        if hasattr(self, "plain"):
            self.plain.next_styles.clear()
            self._tables[PLAIN] = self.plain


@lru_cache(maxsize=8192)
def sgr_changes(params: str) -> tuple[bool, tuple[Change, ...]]:
    """Whether `params` resets first, and the changes that follow the last reset."""
    reset, changes = False, list[Change]()
    groups = params.split(";")
    index = 0
    while index < len(groups):
        head, _, sub = groups[index].partition(":")
        code = _number(head)
        index += 1
        if code == 0:
            reset = True
            changes.clear()
        elif code in (38, 48, 58):
            color, used = _color(sub.split(":")) if sub else _color_of_groups(groups[index:])
            index += used
            if color is not None and code != 58:
                changes.append((_FG if code == 38 else _BG, color))
        elif code == 4 and sub:
            changes.append((5, _number(sub.partition(":")[0]) != 0))
        else:
            changes.extend(_simple_change(code))
    return reset, tuple(changes)


def _simple_change(code: int) -> list[Change]:
    if code in _FLAGS:
        return [_FLAGS[code]]
    for field, names in (
        (_FG, graphics.FG_ANSI),
        (_BG, graphics.BG_ANSI),
        (_FG, graphics.FG_AIXTERM),
        (_BG, graphics.BG_AIXTERM),
    ):
        if code in names:
            return [(field, names[code].replace("bfight", "bright"))]
    return []


def _color_of_groups(groups: list[str]) -> tuple[str | None, int]:
    """A colour in the semicolon form `5;n` or `2;r;g;b`, and how many groups it took."""
    if groups[:1] == ["5"]:
        return _palette(groups[1] if len(groups) > 1 else ""), 2
    if groups[:1] == ["2"]:
        return _rgb(groups[1:4]), 4
    return None, 1


def _color(sub: list[str]) -> tuple[str | None, int]:
    """A colour in the colon form: `5:n`, `2:r:g:b` or `2:colourspace:r:g:b[:…]`."""
    if sub[0] == "5":
        return _palette(sub[1] if len(sub) > 1 else ""), 0
    if sub[0] == "2":
        return _rgb(sub[1:4] if len(sub) == 4 else sub[2:5]), 0
    return None, 0


def _palette(text: str) -> str | None:
    index = _number(text)
    if index < 16:
        return _NAMES_16[index]
    return graphics.FG_BG_256[index] if index < 256 else None


def _rgb(parts: list[str]) -> str | None:
    values = [_number(part) for part in parts]
    if len(values) != 3 or max(values) > 255:
        return None
    return "{:02x}{:02x}{:02x}".format(*values)


def _number(text: str) -> int:
    """A parameter, clamped to what any sequence can mean; an empty one is 0."""
    return min(int(text[:6]), 9999) if text[:6].isdecimal() else 0
