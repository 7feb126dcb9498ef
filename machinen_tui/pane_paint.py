"""Cells as Textual draws them: the cursor, a cell's style with its colours, marks laid over it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from machinen_tui import theme
from machinen_tui.palettes import ANSI_NAMES
from machinen_tui.terminal_cells import PLAIN, Cell
from machinen_tui.terminal_cells import Style as CellStyle
from machinen_tui.terminal_colors import TerminalColors


def restyled(strip: Strip, style: Style) -> list[Segment]:
    """The segments of `strip` with the colours of `style`."""
    return [Segment(segment.text, (segment.style or Style.null()) + style) for segment in strip]


def with_cursor(cells: Sequence[Cell], x: int, solid: bool) -> list[Cell]:
    """`cells` with the one at column `x` shown as the cursor: a block while attached, a line under
    it otherwise."""
    shown = [*cells, *[PLAIN] * (x + 1 - len(cells))]
    if x > 0 and not shown[x].data:
        x -= 1
    shown[x] = Cell(shown[x].data, _cursor_style(shown[x].style, solid))
    if x + 1 < len(shown) and not shown[x + 1].data:
        shown[x + 1] = shown[x].with_text("")
    return shown


@lru_cache(maxsize=1024)
def _cursor_style(under: CellStyle, solid: bool) -> CellStyle:
    """The same object for the same style: what is drawn in it is remembered."""
    return under._replace(reverse=not under.reverse) if solid else under._replace(underline=1)


@lru_cache(maxsize=8192)
def rich_style(style: CellStyle, foreground: str, background: str) -> Style:
    """A cell's style with its colours spelled out, so that reversing needs no terminal."""
    names = theme.ansi_colors(background)
    front = foreground if style.fg == "default" else names.get(style.fg) or f"#{style.fg}"
    back = background if style.bg == "default" else names.get(style.bg) or f"#{style.bg}"
    by_terminal = style.reverse and "default" in (front, back)  # only it knows its own colours
    if style.reverse and not by_terminal:
        front, back = back, front
    return Style(
        reverse=by_terminal or None,
        conceal=style.conceal or None,
        color=front,
        bgcolor=back,
        bold=style.bold or None,
        dim=style.dim or None,
        italic=style.italics or None,
        underline=(style.underline in (1, 3, 4, 5)) or None,
        underline2=(style.underline == 2) or None,
        overline=style.overline or None,
        strike=style.strikethrough or None,
        link=style.link or None,
    )


def terminal_colors(base: Style) -> TerminalColors:
    """What a terminal is drawn with on `base`, for guests that ask. The colours of the user's own
    terminal, which some looks use, are unknown here: those are told as an xterm's."""
    usual = TerminalColors()
    foreground, background = color_names(base)
    if background == "default":
        return usual
    names = theme.ansi_colors(background)
    return TerminalColors(
        usual.foreground if foreground == "default" else foreground[1:].lower(),
        background[1:].lower(),
        tuple(names[name][1:] for name in ANSI_NAMES),
    )


@lru_cache(maxsize=64)
def color_names(base: Style) -> tuple[str, str]:
    """Text and background of a widget as `#rrggbb`."""
    front, back = base.color, base.bgcolor
    return (
        "#c8ccd8"
        if front is None
        else "default"
        if front.is_default
        else front.get_truecolor().hex,
        "#11131a" if back is None else "default" if back.is_default else back.get_truecolor().hex,
    )
