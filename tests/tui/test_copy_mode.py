"""Text of a pane as logical lines, selections of it, copy mode's keys, and searching: no widget."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from machinen_tui.copy_mode import KEYS, CopyMode
from machinen_tui.pane_search import compiled, matches, matches_in, next_match
from machinen_tui.pane_text import PaneText, Place, row_starts
from machinen_tui.selection import BLOCK, CHARS, LINES, Selection, word_at
from machinen_tui.terminal_model import TerminalModel


def fed(text: str, columns: int = 20, lines: int = 5) -> TerminalModel:
    model = TerminalModel(columns, lines)
    model.feed(text.replace("\n", "\r\n").encode())
    return model


def all_lines(model: TerminalModel) -> list[str]:
    text = PaneText(model)
    return ["".join(text.cells(line)).rstrip() for line in range(text.first, text.last + 1)]


def copying(model: TerminalModel, height: int = 5) -> CopyMode:
    text = PaneText(model)
    return CopyMode(lambda: PaneText(model), Place(text.last, 0), height)


def typed(mode: CopyMode, keys: str) -> str:
    """The selection after these keys."""
    for key in keys.split():
        assert mode.take_key(key), key
    selection = mode.selection
    return "" if selection is None else selection.text(mode._text())  # pyright: ignore[reportPrivateUsage]


# -- logical lines --------------------------------------------------------------------------------


def test_wrapped_rows_are_one_line_in_the_history_on_the_screen_and_across_both() -> None:
    long = "".join(f"word{n:02} " for n in range(30)).rstrip()
    for before in range(8):
        model = fed("x\n" * before + long + "\nend")
        assert all_lines(model)[-2:] == [long, "end"]
        model.resize(33, 7)
        assert all_lines(model)[-2:] == [long, "end"]


@settings(max_examples=60)
@given(st.lists(st.text(alphabet="ab 世é", max_size=60), max_size=20), st.integers(4, 30))
def test_every_row_has_a_place_and_every_place_its_row(lines: list[str], columns: int) -> None:
    model = fed("\n".join(lines), columns, 4)
    text = PaneText(model)
    lowest = text.row_of(Place(text.last, 1 << 20))
    row = -len(model.scrollback)
    while row <= lowest:
        assert text.row_of(text.place_at(row)) == row
        row += 1
    for line in range(text.first, text.last + 1):
        assert text.row_starts(line) == row_starts(text.cells(line), columns)


def test_places_stay_while_text_arrives() -> None:
    model = fed("\n".join(f"line {n}" for n in range(40)))
    text = PaneText(model)
    at = next(n for n in range(text.first, text.last) if "".join(text.cells(n)) == "line 20")
    model.feed(b"\r\nmore" * 30)
    model.resize(11, 9)
    assert "".join(PaneText(model).cells(at)) == "line 20"


# -- selections -----------------------------------------------------------------------------------


def test_characters_unwrap_and_lose_their_trailing_blanks() -> None:
    model = fed("one two three four five six seven\nshort   \n\nlast")
    text = PaneText(model)
    everything = Selection(Place(text.first, 0), Place(text.last, 99))
    assert everything.text(text) == "one two three four five six seven\nshort\n\nlast"
    part = Selection(Place(text.first + 1, 2), Place(text.first, 28))
    assert part.text(text) == "seven\nsho"
    lines = Selection(Place(text.first, 30), Place(text.first + 1, 0), LINES)
    assert lines.text(text) == "one two three four five six seven\nshort\n"


def test_a_block_is_what_one_sees() -> None:
    model = fed("abcdef\n12\nuvwxyz")
    text = PaneText(model)
    block = Selection(Place(text.first, 1), Place(text.first + 2, 3), BLOCK)
    assert block.text(text) == "bcd\n2\nvwx"
    assert block.span(text.first + 1, 0, 20) == (1, 4)
    assert block.span(text.first + 3, 0, 20) == (0, 0)


def test_spans_mark_just_what_is_copied() -> None:
    selection = Selection(Place(5, 30), Place(4, 3), CHARS)
    rows = ((3, 0), (4, 0), (5, 0), (5, 20))
    spans = [selection.span(line, start, 20) for line, start in rows]
    assert spans == [(0, 0), (3, 20), (0, 20), (0, 11)]


def test_wide_characters_are_copied_whole() -> None:
    model = fed("漢字 and 👩‍💻 here")
    assert typed(copying(model), "0 v dollar_sign") == "漢字 and 👩‍💻 here"
    assert typed(copying(model), "0 l v e") == "字"


def test_a_double_click_takes_the_word_also_over_the_wrap() -> None:
    model = fed("see /usr/share/doc/a-very-long-name.txt, (now)")
    text = PaneText(model)
    assert word_at(text, Place(text.first, 22)).text(text) == "/usr/share/doc/a-very-long-name.txt"
    assert word_at(text, Place(text.first, 42)).text(text) == "now"


# -- keys -----------------------------------------------------------------------------------------


def test_keys_select_by_character_line_and_block() -> None:
    model = fed("alpha beta\ngamma delta\n\nepsilon")
    mode = copying(model)
    assert typed(mode, "g v e") == "alpha"
    assert typed(mode, "w e") == "alpha beta"
    assert typed(mode, "V j") == "alpha beta\ngamma delta\n"
    assert typed(mode, "V") == ""
    assert typed(mode, "g w ctrl+v j l l") == "bet\ndel"
    assert typed(mode, "o") == "bet\ndel"


def test_up_and_down_go_by_rows_and_keep_the_column() -> None:
    model = fed("a long line that wraps at twenty\nab\nanother long line to end here")
    mode = copying(model)
    typed(mode, "g l l l l l l")
    typed(mode, "j")
    assert mode.cursor.column == 26
    typed(mode, "j")
    assert mode.cursor == Place(PaneText(model).first + 1, 1)
    typed(mode, "j")
    assert mode.cursor.column == 6


def test_the_view_follows_the_cursor_through_the_history() -> None:
    model = fed("\n".join(f"line {n}" for n in range(100)))
    mode = copying(model)
    typed(mode, "g")
    assert mode.top == -95
    typed(mode, "pagedown pagedown")
    assert (mode.cursor.line, mode.top) == (8, -91)
    typed(mode, "G")
    assert mode.top == 0
    typed(mode, "H")
    assert mode.cursor.line == 95
    model.feed(b"\r\nmore" * 10)
    mode.keep_in_view()
    assert mode.top == -10


KEY = st.sampled_from(sorted(KEYS))


@settings(max_examples=80, deadline=None)
@given(st.lists(KEY, max_size=40), st.binary(max_size=200), st.integers(2, 30), st.integers(1, 6))
def test_no_keys_lead_out_of_the_text(
    keys: list[str], data: bytes, columns: int, lines: int
) -> None:
    model = fed("one\n漢字漢字\nthree\n" * 3, columns, lines)
    mode = copying(model, lines)
    for number, key in enumerate(keys):
        if number == len(keys) // 2:
            model.feed(data)
            model.resize(columns + 3, lines)
        mode.take_key(key)
        text = PaneText(model)
        assert text.first <= mode.cursor.line <= text.last
        assert mode.top <= text.row_of(mode.cursor) < mode.top + lines
        if mode.selection is not None:
            mode.selection.text(text)


# -- searching ------------------------------------------------------------------------------------


def test_a_search_goes_back_through_wrapped_lines_and_round() -> None:
    lines = [f"entry {n} with words beyond the width" for n in range(60)]
    model = fed("\n".join(lines))
    mode = copying(model)
    assert mode.search(compiled("WORDS".lower()), backwards=True)
    seen = [mode.cursor.line]
    for _ in range(58):
        mode.take_key("n")
        seen.append(mode.cursor.line)
    assert seen == list(range(58, -1, -1))
    mode.take_key("n")
    assert mode.cursor.line == 59
    assert "round" in mode.note
    mode.take_key("N")
    assert mode.cursor.line == 0
    assert not mode.search(compiled("nowhere"), backwards=True)
    assert "not found" in mode.note


def test_matches_on_one_line_come_in_turn() -> None:
    model = fed("aXbXcX")
    text, pattern = PaneText(model), compiled("X")
    assert [m.start for m in matches(text, pattern)] == [1, 3, 5]
    line = text.first
    back = next_match(text, pattern, Place(line, 5), backwards=True)
    ahead = next_match(text, pattern, Place(line, 1), backwards=False)
    assert (back and back.start, ahead and ahead.start) == (3, 3)


def test_columns_of_matches_count_wide_characters_twice() -> None:
    assert list(matches_in("漢字 ab", compiled("ab"))) == [(5, 7)]
    assert list(matches_in("x漢y", compiled("漢"))) == [(1, 3)]


@pytest.mark.parametrize(
    "pattern", ["", "(", "(a+)+b", "((x*)y)*", "(?:a{2,})*", "x*", "a" * 300, "[z-a]"]
)
def test_patterns_that_will_not_do_are_explained(pattern: str) -> None:
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        compiled(pattern)


@pytest.mark.parametrize("pattern", [r"\(a+\)+", "[+*]+x", "(ab|c)+", r"(\d\.){3}\d+", "a+b+"])
def test_harmless_patterns_are_taken(pattern: str) -> None:
    compiled(pattern)
