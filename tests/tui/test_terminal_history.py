"""The scrollback: logical lines under a budget, reflow that loses nothing, and search."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from machinen_tui.terminal_model import TerminalModel
from machinen_tui.terminal_search import SCREEN, compiled, search


def logical_text(model: TerminalModel) -> str:
    """All that was written, as lines, whatever the width: what must never change."""
    parts = [text for _, text in model.scrollback.texts()][::-1]
    screen = model.lines_text()
    joined = "\n".join(parts)
    if not parts:
        return screen
    return joined + ("" if model.scrollback.goes_on else "\n") + screen


def all_rows(model: TerminalModel) -> list[str]:
    count = len(model.scrollback)
    return [model.text(0, back) for back in range(count, 0, -1)] + model.screen_text().split("\n")


def test_a_narrower_screen_wraps_lines_and_a_wider_one_joins_them() -> None:
    model = TerminalModel(10, 4)
    model.feed(b"abcdefghij0123\r\nxy")
    model.resize(7, 4)
    assert model.screen_text() == "abcdefg\nhij0123\nxy"
    model.resize(20, 4)
    assert model.screen_text() == "abcdefghij0123\nxy"
    assert (model.terminal.cursor.x, model.terminal.cursor.y) == (2, 1)


def test_the_cursor_stays_at_its_place_in_the_text() -> None:
    model = TerminalModel(10, 4)
    model.feed(b"$ abcdefghijkl\x1b[3D")
    model.resize(5, 4)
    model.feed(b"X")
    model.resize(30, 4)
    assert model.screen_text() == "$ abcdefghiXkl"


def test_a_line_half_in_the_scrollback_is_joined_again() -> None:
    model = TerminalModel(10, 2)
    model.feed(b"abcdefghijklmnopqrstuvwxyz\r\nlast")
    assert model.screen_text() == "uvwxyz\nlast"
    model.resize(30, 2)
    assert model.screen_text() == "abcdefghijklmnopqrstuvwxyz\nlast"
    assert len(model.scrollback) == 0


def test_the_hidden_main_screen_reflows_too() -> None:
    model = TerminalModel(10, 4)
    model.feed(b"abcdefghijklmno\x1b[?1049h\x1b[Halternate")
    model.resize(5, 4)
    model.feed(b"\x1b[?1049l")
    assert model.screen_text() == "abcde\nfghij\nklmno"


def test_colours_links_and_wide_characters_survive_the_scrollback() -> None:
    model = TerminalModel(12, 2)
    line = "\x1b[1;38;5;208mab\x1b[0m\x1b]8;;http://x/\x07cd\x1b]8;;\x07日本\x1b[4:3;44me  \x1b[0m"
    model.feed((line + "\r\n").encode())
    before = list(model.cells(0))
    model.feed(b"x\r\n" * 900)
    back = len(model.scrollback)
    assert list(model.scrollback.row(back)) == before


PARTS = st.sampled_from(
    [
        "a",
        "word ",
        "0123456789",
        "\r\n",
        "\r\n",
        "\x1b[31m",
        "\x1b[0m",
        "é",
        "日本",
        "👩\u200d💻",
        "  ",
    ]
)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(PARTS, max_size=80),
    st.lists(st.tuples(st.integers(2, 25), st.integers(1, 8)), min_size=1, max_size=6),
)
def test_no_series_of_sizes_loses_or_adds_text(
    parts: list[str], sizes: list[tuple[int, int]]
) -> None:
    model = TerminalModel(12, 4)
    model.feed("".join(parts).encode())
    before = logical_text(model).rstrip()
    for columns, lines in sizes:
        model.resize(columns, lines)
        assert logical_text(model).rstrip() == before
        joined = "".join(all_rows(model)).replace(" ", "")
        assert joined == before.replace("\n", "").replace(" ", "")


def test_fifty_thousand_lines_take_less_than_eight_megabytes() -> None:
    model = TerminalModel(80, 24)
    line = b"2026-11-22T10:00:00Z INFO [worker-12] connection retry queue took=123us "
    for start in range(0, 50_000, 500):
        model.feed(b"".join(line + b"%d\r\n" % n for n in range(start, start + 500)))
    assert model.scrollback.end - model.scrollback.first == 50_000 + 1 - 24
    assert model.scrollback.size_bytes <= 8_000_000
    model.resize(50, 24)
    assert len(model.scrollback) >= 100_000 - 48


def test_old_lines_go_when_the_budget_is_exceeded_and_a_place_in_them_becomes_the_oldest() -> None:
    model = TerminalModel(80, 24, history_bytes=100_000)
    model.feed(b"first\r\n" + b"x" * 70 + b"\r\n")
    model.feed(b"line\r\n" * 100)
    place = model.scrollback.locate(len(model.scrollback))
    assert model.scrollback.back_of(place) == len(model.scrollback)
    for _ in range(100):
        model.feed(b"a line of some length, drawn row by row\r\n" * 60)
    assert model.scrollback.first > place[0]
    assert model.scrollback.size_bytes <= 100_000 + 20_000
    assert model.scrollback.back_of(place) == len(model.scrollback)


def test_endless_lines_stay_within_the_budget_and_are_only_broken() -> None:
    model = TerminalModel(80, 4, history_bytes=500_000)
    for _ in range(40):
        model.feed(b"0123456789" * 20_000)
        assert model.scrollback.size_bytes <= 500_000 + 3 * 65_536 * 8
    text = "".join(text for _, text in list(model.scrollback.texts())[::-1])
    assert set(re.findall(r"0\d{9}", text)) == {"0123456789"}


def test_a_place_stays_while_text_arrives_and_the_width_changes() -> None:
    model = TerminalModel(20, 3)
    for number in range(2000):
        model.feed(b"line %d and some more text\r\n" % number)
    back = 3000
    text = model.text(0, back)
    place = model.scrollback.locate(back)
    for _ in range(5):
        model.feed(b"flood of lines\r\n" * 300 + b"one\r\n")
        assert model.text(0, model.scrollback.back_of(place)) == text
    model.resize(80, 3)
    row = model.text(0, model.scrollback.back_of(place))
    assert text in row
    model.resize(20, 3)
    assert model.text(0, model.scrollback.back_of(place)) in row


def test_search_finds_the_newest_first_in_all_panes() -> None:
    models = {name: TerminalModel(20, 3) for name in "ab"}
    for name, model in models.items():
        model.feed(
            b"".join(b"%s \x1b[31mline\x1b[0m %d\r\n" % (name.encode(), n) for n in range(700))
        )
    hits = [hit for hits in search(models.items(), compiled(r"line (1|699)$")) for hit in hits]
    assert [(hit.key, hit.text) for hit in hits] == [
        ("a", "a line 699"), ("b", "b line 699"), ("a", "a line 1"), ("b", "b line 1"),
    ]  # fmt: skip
    assert [hit.line for hit in hits] == [SCREEN, SCREEN, 1, 1]
    assert all(hit.text[hit.start : hit.end].startswith("line") for hit in hits)


def test_search_finds_what_wraps_on_the_screen_and_minds_capitals_only_if_given() -> None:
    model = TerminalModel(6, 5)
    model.feed(b"needLE in a hay")
    models = [("a", model)]
    found = [hit for hits in search(models, compiled("needle in")) for hit in hits]
    assert [hit.text for hit in found] == ["needLE in a hay"]
    assert not [hit for hits in search(models, compiled("needlE")) for hit in hits]
    with pytest.raises(re.error):
        compiled("(")
