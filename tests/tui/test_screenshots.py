"""The pictures of `make screenshots`: every character in its own cell."""

from __future__ import annotations

import re

from bench.screenshots import CELL_WIDTH, in_cells, with_stroke_styles

LINE = '<text class="t-r1" x="12.2" y="20" textLength="61" clip-path="url(#a)">a&#160;b─█</text>'


def test_characters_keep_their_columns_and_blanks_need_nothing() -> None:
    drawn = in_cells(LINE)
    places = re.findall(r'<text class="t-r1" x="([\d.]+)" y="20">(.)</text>', drawn)
    assert places == [("12.2", "a"), (f"{12.2 + 2 * CELL_WIDTH:.1f}", "b")]


def test_frames_become_lines_through_the_middle_of_the_cell_and_blocks_rectangles() -> None:
    drawn = in_cells(LINE)
    assert '<path class="t-r1" d="M48.8 13.7 H61.0"' in drawn
    assert drawn.count("<rect") == 1


def test_lines_take_the_colour_of_their_text() -> None:
    svg = "<style>.t-r1 { fill: #aabbcc }</style>"
    assert "path.t-r1{stroke:#aabbcc;fill:none}" in with_stroke_styles(svg)
