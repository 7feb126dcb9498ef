"""Rows of cells as what a terminal is told to show them: the styles are Textual's, made by its own
pipeline and kept; a row is put together without it.

Textual makes a segment of each run, a strip of each row, and sends both through its filters, many
times a second. What comes out depends on the style alone, so it is asked for once a style.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import compress, count
from operator import is_not, itemgetter

from rich.color import ColorSystem
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter
from textual.strip import Strip

from machinen_tui.pane_paint import color_names, rich_style
from machinen_tui.terminal_cells import DEFAULT_STYLE, Cell
from machinen_tui.terminal_cells import Style as CellStyle
from machinen_tui.terminal_text import safe_to_draw

MARK = "\x01"
"""Stands for the text: no cell and no link holds one."""
RESET = "\x1b[0m"
MAX_STYLES = 4096

_data_of: Callable[[Cell], str] = itemgetter(0)
_style_of: Callable[[Cell], CellStyle] = itemgetter(9)


class RowWriter:
    """Writes rows of one kind of pane: those of one base style, drawn on one background."""

    def __init__(
        self,
        base: Style,
        background: Color,
        filters: Sequence[LineFilter],
        color_system: ColorSystem,
    ) -> None:
        self._names = color_names(base)
        self._background, self._filters, self._color_system = background, filters, color_system
        self._codes: dict[int, tuple[str, str, CellStyle]] = {}
        """By the identity of a style, which is why it is kept: what goes before and after text."""
        self._blank = self._around(base)[0]

    def row(self, cells: Sequence[Cell], width: int) -> str:
        """`cells`, at most `width` of them, blank up to `width`."""
        parts: list[str] = []
        codes, start = self._codes, 0
        text, styles = "".join(map(_data_of, cells)), list(map(_style_of, cells))
        plain = len(text) == len(cells) and text.isascii()
        for end in (*compress(count(1), map(is_not, styles, styles[1:])), len(cells)):
            style = styles[start] if styles else DEFAULT_STYLE
            before, after, _ = codes.get(id(style)) or self._learn(style)
            run = text[start:end] if plain else _drawn(cells[start:end])
            parts += (before, run, after)
            start = end
        if len(cells) < width:
            parts += (self._blank, " " * (width - len(cells)))
        parts.append(RESET)
        return "".join(parts)

    def strip(self, strip: Strip) -> str:
        """The same of a row that Textual's pipeline has to make."""
        for each in self._filters:
            strip = strip.apply_filter(each, self._background)
        return "".join(
            text if style is None else Strip.render_style(style, text, self._color_system)
            for text, style, _ in strip
        )

    def _learn(self, style: CellStyle) -> tuple[str, str, CellStyle]:
        if len(self._codes) >= MAX_STYLES:
            self._codes.clear()
        code = self._codes[id(style)] = (*self._around(rich_style(style, *self._names)), style)
        return code

    def _around(self, style: Style) -> tuple[str, str]:
        """What goes before and after text in `style`; before it, nothing of another style holds."""
        before, _, after = self.strip(Strip([Segment(MARK, style)], 1)).partition(MARK)
        link, found, params = before.rpartition("\x1b[")
        start = f"{link}\x1b[0;{params}" if found else f"{before}{RESET}"
        return start, after.removeprefix(RESET)


def _drawn(cells: Sequence[Cell]) -> str:
    text = "".join(map(_data_of, cells))
    return text if text.isascii() else safe_to_draw(text)


@lru_cache(maxsize=16)
def row_writer(
    base: Style, background: Color, filters: tuple[LineFilter, ...], color_system: ColorSystem
) -> RowWriter:
    """The writer of panes that look so; all of them share one."""
    return RowWriter(base, background, filters, color_system)
