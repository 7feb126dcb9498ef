"""The terminal under the panes: what each sequence does, and that nothing a guest sends can hurt
it."""

from __future__ import annotations

import tracemalloc

import pyte
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from machinen_tui.terminal_model import TerminalModel
from machinen_tui.terminal_text import safe_to_draw


def model_of(data: bytes, columns: int = 20, lines: int = 5) -> TerminalModel:
    model = TerminalModel(columns, lines)
    model.feed(data)
    return model


def replies_to(data: bytes, *, live: bool = True) -> bytes:
    replies: list[bytes] = []
    model = TerminalModel(20, 5, on_reply=replies.append)
    model.feed(data, live=live)
    return b"".join(replies)


@pytest.mark.parametrize(
    "sequence",
    [
        b"\x1bP+q544e\x1b\\", b"\x1bPq#0;2;0;0;0#0~~@@vv\x1b\\", b"\x1b_Gf=24,s=10;AAAA\x1b\\",
        b"\x1b^private\x1b\\", b"\x1bXstring\x1b\\", b"\x1b]52;c;aGk=\x07", b"\x1b]133;A\x1b\\",
        b"\x1b]8;;http://x/\x1b\\", b"\x1b[4:3m", b"\x1b[38:2::255:0:0m", b"\x1b[<u",
        b"\x1b[=1;1u", b"\x1b[>4;2m", b"\x1b[!p", b"\x1b[=c", b"\x1b*0", b"\x1b[?4m", b"\x1b[?6n",
        b"\xc2\x9b31m", b"\xc2\x90payload\xc2\x9c", b"\x1b]0;never ended\x18", b"\x1b[12\x18",
        b"\x1b[1;2;3;4;5;6$z", b"\x1b[?1;2c", b"\x1b[99999999999999999999C\r", b"\x1b[?2026h",
        b"\x1b[?2026l", b"\x1b#8\x1bc",
    ],
)  # fmt: skip
def test_a_sequence_prints_nothing_whole_or_in_pieces(sequence: bytes) -> None:
    assert model_of(sequence + b"ok").screen_text() == "ok"
    piecewise = TerminalModel(20, 5)
    for byte in sequence + b"ok":
        piecewise.feed(bytes([byte]))
    assert piecewise.screen_text() == "ok"


def test_an_osc_longer_than_its_cap_is_swallowed_and_sets_no_title() -> None:
    model = model_of(b"\x1b]2;" + b"x" * 100_000 + b"\x07ok")
    assert (model.screen_text(), model.terminal.title) == ("ok", "")


def test_osc_2_sets_the_title_and_osc_11_does_not() -> None:
    model = model_of(b"\x1b]2;a title\x1b\\\x1b]11;#fff\x07\x1b]133;C\x07")
    assert model.terminal.title == "a title"


def test_the_alternate_screen_comes_and_goes_without_touching_the_main_one() -> None:
    model = model_of(b"main\x1b[?1049h\x1b[Halternate\x1b[2J")
    assert model.terminal.alternate
    assert model.screen_text() == ""
    model.feed(b"\x1b[?1049l!")
    assert model.screen_text() == "main!"


def test_rows_that_scroll_out_are_kept_and_the_alternate_screen_keeps_none() -> None:
    model = model_of(b"".join(b"%d\r\n" % number for number in range(8)))
    assert [model.text(y, back=4) for y in range(5)] == ["0", "1", "2", "3", "4"]
    before = len(model.scrollback)
    model.feed(b"\x1b[?1049h" + b"x\r\n" * 20)
    assert len(model.scrollback) == before


def test_ed_3_empties_the_scrollback_only() -> None:
    model = model_of(b"a\r\n" * 9 + b"\x1b[3J")
    assert len(model.scrollback) == 0
    assert model.text(0) == "a"


def test_the_scrollback_stays_within_its_budget() -> None:
    model = TerminalModel(80, 24, history_bytes=200_000)
    model.feed(b"a line of text\r\n" * 50_000)
    for _ in range(3000):
        model.feed(b"one more\r\n")
    assert model.scrollback.size_bytes <= 200_000 + 80 * 256 * 8
    assert model.text(0, back=1) == "one more"


def test_line_feed_below_the_scroll_region_stays_there() -> None:
    model = model_of(b"\x1b[1;3r\x1b[5;1Hlast\r\nsame")
    assert model.text(4) == "same"
    assert model.terminal.cursor.y == 4


def test_wide_characters_wrap_whole_and_leave_no_halves() -> None:
    model = model_of("abc日本".encode(), columns=6, lines=3)
    assert [model.text(0), model.text(1)] == ["abc日", "本"]
    model.feed(b"\x1b[1;5Hx")
    assert model.text(0) == "abc x"


def test_clusters_stand_in_one_cell_and_are_drawn_as_every_terminal_counts_them() -> None:
    model = model_of("👩\u200d💻❤\ufe0fe\u0301🇩🇪👍🏽x".encode())
    assert model.screen_text() == "👩\u200d💻❤\ufe0fe\u0301🇩🇪👍🏽x"
    assert [len(cell.data) for cell in model.cells(0)] == [3, 0, 2, 0, 2, 2, 0, 2, 0, 1]
    assert safe_to_draw(model.screen_text()) == "👩❤ e\u0301🇩🇪👍x"


def test_a_cluster_cut_between_two_feeds_is_one_cell() -> None:
    model = TerminalModel(20, 5)
    for part in ("👩", "\u200d", "💻❤", "\ufe0f", "e", "\u0301", "🇩", "🇪", "👍", "🏽", "x"):
        model.feed(part.encode())
    assert [cell.data for cell in model.cells(0) if cell.data] == [
        "👩\u200d💻", "❤\ufe0f", "e\u0301", "🇩🇪", "👍🏽", "x",
    ]  # fmt: skip


def test_sgr_colours_in_every_spelling() -> None:
    cells = model_of(
        b"\x1b[38;2;1;2;3ma\x1b[38:2:1:2:3mb\x1b[38:2::1:2:3mc\x1b[38;5;196md\x1b[1;31me\x1b[0mf"
    ).cells(0)
    assert [cell.fg for cell in cells] == ["010203", "010203", "010203", "ff0000", "red", "default"]
    assert [cell.bold for cell in cells] == [False, False, False, False, True, False]


def test_erasing_keeps_the_background_colour() -> None:
    cells = model_of(b"\x1b[44m\x1b[K").cells(0)
    assert len(cells) == 20
    assert {cell.bg for cell in cells} == {"blue"}


def test_rep_su_sd_ech_cbt_and_scosc() -> None:
    assert model_of(b"ab\x1b[3b").text(0) == "abbbb"
    assert model_of(b"1\r\n2\r\n3\x1b[1S").text(0) == "2"
    assert model_of(b"1\r\n2\x1b[1T").text(1) == "1"
    assert model_of(b"abcdef\r\x1b[2X").text(0) == "  cdef"
    assert model_of(b"\x1b[17Gx\x1b[2Zy").text(0) == "        y       x"
    assert model_of(b"ab\x1b[scd\x1b[uX").text(0) == "abXd"


def test_rep_repeats_only_what_comes_right_before_it() -> None:
    assert model_of(b"ab\r\x1b[3b").text(0) == "ab"
    assert model_of(b"ab\x1b[31m\x1b[3b").text(0) == "abbbb"


def test_without_autowrap_the_last_column_is_overwritten() -> None:
    model = model_of(b"\x1b[?7labcdefgh", columns=5, lines=2)
    assert model.screen_text() == "abcdh"
    assert model.terminal.cursor.x == 4


def test_insert_and_delete_line_move_the_rows_below() -> None:
    model = model_of(b"1\r\n2\r\n3\x1b[1;1H\x1b[M")
    assert model.screen_text() == "2\n3"
    model.feed(b"\x1b[L")
    assert model.screen_text() == "\n2\n3"


def test_line_drawing_characters() -> None:
    assert model_of(b"\x1b(0lqk\x1b(B q").text(0) == "┌─┐ q"


def test_questions_are_answered_live_and_not_in_a_replay() -> None:
    assert replies_to(b"ab\x1b[6n") == b"\x1b[1;3R"
    assert replies_to(b"\x1b[c\x1b[>c\x1b[5n") == b"\x1b[?62;22c\x1b[>1;100;0c\x1b[0n"
    assert replies_to(b"\x1b[?2004h\x1b[?2004$p") == b"\x1b[?2004;1$y"
    assert replies_to(b"ab\x1b[6n\x1b[c", live=False) == b""


def test_modes_are_recorded() -> None:
    terminal = model_of(b"\x1b[?1h\x1b[?2004h\x1b[?1002h\x1b[?1006h\x1b[?25l\x1b[3 q\x07").terminal
    assert terminal.has_mode(1)
    assert terminal.has_mode(2004)
    assert (terminal.mouse_mode, terminal.has_mode(1006)) == (1002, True)
    assert (terminal.cursor.hidden, terminal.cursor_shape, terminal.bells) == (True, 3, 1)


def test_dirty_rows_are_only_those_that_changed() -> None:
    model = model_of(b"\x1b[1;1Ha\x1b[5;1H")
    model.take_dirty()
    model.feed(b"\x1b[3;1Hx")
    assert model.take_dirty() == {2, 4}


def test_shrinking_keeps_the_cursor_row_and_growing_brings_rows_back() -> None:
    model = model_of(b"1\r\n2\r\n3\r\n4\r\n5 long text here")
    model.resize(6, 2)
    assert model.screen_text() == " text\nhere"
    model.resize(20, 5)
    assert model.screen_text() == "1\n2\n3\n4\n5 long text here"


LINE_PARTS = [
    b"a", b"row of text", b"\r\n", b"x" * 9, "é日".encode(), b"\t", b"\x1b[31m", b"\x1b[41m",
    b"\x1b[1;48;5;9m", b"\x1b[7m", b"\x1b[49m", b"\x1b[m", b"\x1b[0m",
]  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(st.lists(st.sampled_from(LINE_PARTS), max_size=60))
@example([b"a", b"\r\n", b"b", b"\x1b[41m"])  # from the second line on the rows are red
def test_a_flood_ends_on_the_same_screen_and_history_as_slow_feeding(parts: list[bytes]) -> None:
    data = (b"".join(parts) + b"\r\n") * 200 + b"end"
    fast, slow = TerminalModel(12, 4), TerminalModel(12, 4)
    fast.feed(data)
    for line in data.splitlines(keepends=True):
        slow.feed(line)
    assert fast.screen_text() == slow.screen_text()
    assert [fast.cells(y) for y in range(4)] == [slow.cells(y) for y in range(4)]
    assert [fast.text(0, back) for back in range(1, 30)] == [
        slow.text(0, back) for back in range(1, 30)
    ]


@pytest.mark.parametrize("line", [b"y\r\n", b"\x1b[31my\x1b[0m\r\n"])
def test_a_flood_takes_little_memory_on_its_way(line: bytes) -> None:
    """What a piece takes for a moment is never given back: it stays in the process's RSS."""
    model = TerminalModel(80, 24)
    data = line * (256 * 1024 // len(line))
    tracemalloc.start()
    model.feed(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20 * len(data)


PIECES = st.one_of(
    st.binary(max_size=12),
    st.text(max_size=8).map(str.encode),
    st.tuples(
        st.sampled_from([b"\x1b[", b"\x1b[?", b"\x1b[>", b"\x1b]", b"\x1bP", b"\x1b"]),
        st.text("0123456789;:$ !", max_size=8).map(str.encode),
        st.sampled_from([bytes([byte]) for byte in range(0x40, 0x7F)]),
    ).map(b"".join),
    st.sampled_from(
        [b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[2;4r", b"\x1bc", b"\x1b[!p", "日".encode(), b"\r\n"]
    ),
)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(PIECES, max_size=40),
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 9)), max_size=3),
)
def test_no_bytes_raise_or_leave_the_cursor_outside(
    pieces: list[bytes], sizes: list[tuple[int, int]]
) -> None:
    model = TerminalModel(17, 6, on_reply=lambda _: None)
    for index, piece in enumerate(pieces):
        model.feed(piece)
        if index < len(sizes):
            model.resize(*sizes[index])
        terminal = model.terminal
        assert 0 <= terminal.cursor.y < terminal.lines
        assert 0 <= terminal.cursor.x <= terminal.columns
        for y in range(model.lines):
            assert len(model.cells(y)) <= model.columns
            assert not any(ord(character) < 32 for character in model.text(y))


EDITS = [
    "\r\n", "\x1b[2;3H", "\x1b[K", "\x1b[1K", "\x1b[J", "\x1b[A", "\x1b[3D", "\x1b[31m", "\x1b[2@",
    "\x1b[P",
]  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.one_of(
            st.text("abc xyz", min_size=1, max_size=9),
            st.sampled_from(EDITS),
        ),
        max_size=30,
    )
)  # fmt: skip
def test_plain_programs_look_as_in_pyte(parts: list[str]) -> None:
    """Columns are wider than any run, so that pyte's pending wrap (which differs from xterm's) does
    not come up."""
    ours, theirs = TerminalModel(400, 6), pyte.Screen(400, 6)
    ours.feed("".join(parts).encode())
    pyte.Stream(theirs).feed("".join(parts))
    assert [row.rstrip() for row in theirs.display] == [ours.text(y) for y in range(6)]
    assert (ours.terminal.cursor.x, ours.terminal.cursor.y) == (theirs.cursor.x, theirs.cursor.y)
