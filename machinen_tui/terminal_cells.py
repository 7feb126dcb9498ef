"""Cells and the styles they are drawn in, kept so that each is made once.

A `Cell` is pyte's `Char` and one field more: its `Style`, which holds what pyte has no room for.
Cells are interned: a `StyleTable` hands out one object per text in one style, so drawing a run is
a chain of dict look-ups and rows share their cells.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple, cast

from pyte.screens import Char

from machinen_tui.terminal_sgr import sgr_changes

SGR = re.compile(r"\x1b\[([0-9;:]*)m")
MAX_STYLES = 4096
"""Styles kept apart at once; a guest that invents more (24-bit gradients) costs look-ups again."""
MAX_TRANSITIONS = 65_536
"""SGR transitions remembered at once, of all styles of one terminal."""
MAX_CELLS = 65_536
"""Cells kept apart at once, of all styles of one terminal."""


class Style(NamedTuple):
    """How a cell looks: what `Char` says of it, and what pyte does not know. A tuple: every run of
    text is compared and looked up by it.

    Colours are `default`, one of pyte's sixteen names, or six hexadecimal digits. `underline` is
    SGR 4's sub-parameter: 0 none, 1 single, 2 double, 3 curly, 4 dotted, 5 dashed.
    """

    fg: str = "default"
    bg: str = "default"
    bold: bool = False
    italics: bool = False
    underline: int = 0
    strikethrough: bool = False
    reverse: bool = False
    blink: bool = False
    dim: bool = False
    conceal: bool = False
    overline: bool = False
    underline_color: str = "default"
    protected: bool = False
    """DECSCA: selective erase leaves the cell alone."""
    link: str = ""
    """The address of OSC 8."""


_new_tuple = cast("Callable[[type[Cell], tuple[Any, ...]], Cell]", tuple.__new__)  # pyright: ignore[reportUnknownMemberType]

FIELDS = Style._fields
NOT_OF_SGR = (FIELDS.index("protected"), FIELDS.index("link"))
"""Fields a reset keeps."""


@lru_cache(maxsize=8192)
def indexed_changes(params: str) -> tuple[bool, tuple[tuple[int, str | bool | int], ...]]:
    """`sgr_changes` with the places of fields for their names."""
    reset, changes = sgr_changes(params)
    return reset, tuple((FIELDS.index(name), value) for name, value in changes)


class Cell(Char):
    """A `Char` that knows its whole style: `cell.style`. Empty text: the second half of a wide
    character."""

    __slots__ = ()

    def __new__(cls, data: str = " ", style: Style | None = None) -> Cell:
        """A cell showing `data` in `style`."""
        style = style or DEFAULT_STYLE
        return cls._make(
            (
                data,
                style.fg,
                style.bg,
                style.bold,
                style.italics,
                style.underline > 0,
                style.strikethrough,
                style.reverse,
                style.blink,
                style,
            )
        )

    @classmethod
    def _make(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls, iterable: Iterable[Any]
    ) -> Cell:
        return _new_tuple(cls, tuple(iterable))

    @property
    def style(self) -> Style:
        """All of how it looks."""
        return cast("tuple[Any, ...]", self)[9]

    def __repr__(self) -> str:
        return f"Cell({self.data!r}, {self.style!r})"

    def with_text(self, data: str) -> Cell:
        """The same look, other text."""
        return Cell(data, self.style)

    def with_look(self, **changes: Any) -> Cell:
        """The same text, fields of its style changed."""
        return Cell(self.data, self.style._replace(**changes))

    def _replace(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, **changes: Any
    ) -> Cell:
        """As of a named tuple; a changed look changes `style` with it."""
        data = changes.pop("data", self.data)
        if "underscore" in changes:
            changes["underline"] = int(changes.pop("underscore"))
        known = {name: value for name, value in changes.items() if name in FIELDS}
        return Cell(data, self.style._replace(**known))


DEFAULT_STYLE = Style()
PLAIN = Cell(" ")
"""A blank cell in the default style."""


class StyleTable(dict[str, Cell]):
    """One style: text → the cell that shows it.

    `attrs` is the style as a blank cell, `erased` what erasing leaves (the background colour stays:
    xterm's "bce"), `next_styles` caches SGR transitions.
    """

    __slots__ = ("_look", "attrs", "erased", "next_styles", "owner", "style")

    def __init__(self, style: Style, owner: StyleTables) -> None:
        super().__init__()
        self.style = style
        self.owner = owner
        self.attrs = PLAIN if style == DEFAULT_STYLE else Cell(" ", style)
        self.erased = PLAIN if style.bg == "default" else Cell(" ", Style(bg=style.bg))
        self.next_styles: dict[str, StyleTable] = {}
        self._look = self.attrs[1:]
        self[" "] = self.attrs

    def __missing__(self, text: str) -> Cell:
        owner = self.owner
        owner.cells_made += 1
        if owner.cells_made > MAX_CELLS:
            owner.forget_cells()
        cell = self[text] = _new_tuple(Cell, (text, *self._look))
        return cell


class StyleTables:
    """Every style one terminal uses."""

    def __init__(self) -> None:
        self._tables: dict[tuple[Any, ...], StyleTable] = {}
        self.cells_made = self._transitions = 0
        self.plain = StyleTable(DEFAULT_STYLE, self)
        self._tables[DEFAULT_STYLE] = self.plain

    def table(self, style: Style) -> StyleTable:
        """The table of `style`."""
        found = self._tables.get(style)
        if found is None:
            if len(self._tables) >= MAX_STYLES:
                self._forget_styles()
            found = self._tables[style] = StyleTable(style, self)
        return found

    def after_sgr(self, current: StyleTable, params: str) -> StyleTable:
        """The style after `CSI params m`. Unknown parameters change nothing."""
        following = current.next_styles.get(params)
        if following is None:
            reset, changes = indexed_changes(params)
            values: list[Any] = [*(DEFAULT_STYLE if reset else current.style)]
            if reset:
                for index in NOT_OF_SGR:
                    values[index] = current.style[index]
            for index, value in changes:
                values[index] = value
            found = self._tables.get(tuple(values))
            following = self.table(Style(*values)) if found is None else found
            self._transitions += 1
            if self._transitions > MAX_TRANSITIONS:
                self._forget_transitions()
            current.next_styles[params] = following
        return following

    def after_text(self, current: StyleTable, text: str) -> StyleTable:
        """The style after `text`, in which nothing but SGR changes it."""
        if "\x1b" in text:
            reset_at = max(text.rfind("\x1b[0m"), 0)
            reset_at = max(text.rfind("\x1b[m", reset_at), reset_at)
            for params in SGR.findall(text, reset_at):
                current = self.after_sgr(current, params)
        return current

    def forget_cells(self) -> None:
        """There are too many; those on screen stay as they are."""
        self.cells_made = 0
        for table in self._tables.values():
            table.clear()
            table[" "] = table.attrs

    def _forget_transitions(self) -> None:
        self._transitions = 0
        for table in self._tables.values():
            table.next_styles.clear()

    def _forget_styles(self) -> None:
        self._forget_transitions()
        self._tables = {DEFAULT_STYLE: self.plain}
