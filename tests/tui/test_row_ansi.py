"""Rows are written as Textual would: the same text in the same looks, whatever the guest drew."""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.color import ColorSystem
from rich.segment import Segment
from rich.style import Style
from textual._ansi_theme import MONOKAI
from textual.color import Color
from textual.filter import ANSIToTruecolor, DimFilter, LineFilter, Monochrome
from textual.strip import Strip

from machinen_tui.pane_paint import color_names, rich_style
from machinen_tui.row_ansi import MAX_STYLES, RowWriter, row_writer
from machinen_tui.terminal_cells import Cell
from machinen_tui.terminal_cells import Style as CellStyle
from machinen_tui.terminal_model import TerminalModel, runs_of
from machinen_tui.terminal_text import safe_to_draw

BASE = Style(color="#c8ccd8", bgcolor="#11131a")
ANSI_BASE = Style(color="default", bgcolor="default")
BACKGROUND = Color.parse("#11131a")
COLUMNS, LINES = 40, 4
SCREEN = 80
"""The terminal that is told is wider: what is written must end at the row's own end."""

PIECES = st.lists(
    st.one_of(
        st.text(alphabet="ab \u00e9\u2500\u6f22\U0001f600\u0301\u200d\ufe0f", max_size=12),
        st.sampled_from(["\r\n", "\b", "\t", "\x1b[2K", "\x1b[K", "\x1b[1;30H", "\x1b[3X"]),
        st.lists(
            st.sampled_from(
                ["0", "1", "2", "3", "4", "4:3", "7", "8", "9", "31", "44", "53", "97", "102",
                 "38;5;120", "48;2;9;99;199", "21", "22", "27"]
            ),
            max_size=3,
        ).map(lambda params: f"\x1b[{';'.join(params)}m"),
        st.sampled_from(["\x1b]8;;http://x[0m/\x1b\\", "\x1b]8;;\x1b\\"]),
    ),
    max_size=30,
)  # fmt: skip
TRUECOLOR = ANSIToTruecolor(MONOKAI)
LOOKS: tuple[tuple[Style, tuple[LineFilter, ...]], ...] = (
    (BASE, ()),
    (ANSI_BASE, ()),
    (BASE, (TRUECOLOR,)),
    (ANSI_BASE, (TRUECOLOR, Monochrome())),
    (BASE, (TRUECOLOR, DimFilter())),
)


def by_textual(
    cells: list[Cell], width: int, base: Style, filters: tuple[LineFilter, ...]
) -> str:  # fmt: skip
    """The row by way of segments, strips and filters."""
    names = color_names(base)
    segments = [
        Segment(safe_to_draw(text), rich_style(style, *names)) for text, style in runs_of(cells)
    ]
    strip = Strip(segments).adjust_cell_length(width, base)
    for each in filters:
        strip = strip.apply_filter(each, BACKGROUND)
    return "".join(
        Strip.render_style(style or Style.null(), text, ColorSystem.TRUECOLOR)
        for text, style, _ in strip
    )


def shown(row: str) -> list[Cell]:
    """What a terminal shows that is told the row while another style is on."""
    model = TerminalModel(SCREEN, 2)
    model.feed(b"\x1b[2H")
    model.feed(row.encode())
    model.feed(b"|")  # nothing of the row holds after it
    return list(model.terminal.buffer[1])


@settings(max_examples=300, deadline=None)
@given(PIECES, st.sampled_from(LOOKS))
def test_what_is_written_looks_as_what_textual_draws(
    pieces: list[str], look: tuple[Style, tuple[LineFilter, ...]]
) -> None:
    base, filters = look
    model = TerminalModel(COLUMNS, LINES)
    model.feed("".join(pieces).encode())
    writer = RowWriter(base, BACKGROUND, filters, ColorSystem.TRUECOLOR)
    for y in range(LINES):
        cells = list(model.cells(y))
        assert shown(writer.row(cells, COLUMNS)) == shown(by_textual(cells, COLUMNS, base, filters))


def test_a_row_ends_at_its_width_and_leaves_no_style() -> None:
    writer = RowWriter(BASE, BACKGROUND, (), ColorSystem.TRUECOLOR)
    cells = [Cell("x", CellStyle(reverse=True, link="http://x/"))]
    told = shown(writer.row(cells, 10))
    assert "".join(cell.data for cell in told).rstrip() == "x" + " " * 9 + "|"
    assert told[10].style == CellStyle()
    assert told[9].style.link == ""


def test_a_row_costs_textual_nothing_once_its_styles_are_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writer = RowWriter(BASE, BACKGROUND, (), ColorSystem.TRUECOLOR)
    cell = Cell("x", CellStyle(fg="red"))
    first = writer.row([cell], 4)
    monkeypatch.setattr(writer, "_learn", None)
    assert writer.row([cell], 4) == first


def test_a_guest_that_invents_styles_is_forgotten_in_time() -> None:
    writer = RowWriter(BASE, BACKGROUND, (), ColorSystem.TRUECOLOR)
    for number in range(MAX_STYLES + 10):
        writer.row([Cell("x", CellStyle(fg=f"{number:06x}"))], 4)
        assert len(writer._codes) <= MAX_STYLES


def test_panes_that_look_the_same_share_what_they_know() -> None:
    filters = (Monochrome(),)
    first = row_writer(BASE, BACKGROUND, filters, ColorSystem.TRUECOLOR)
    assert row_writer(BASE, BACKGROUND, filters, ColorSystem.TRUECOLOR) is first
    assert row_writer(ANSI_BASE, BACKGROUND, filters, ColorSystem.TRUECOLOR) is not first
