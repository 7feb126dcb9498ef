"""What stock pyte raises on, prints, gets wrong or lacks: each by its name, each once at least.

What is longer to tell has a file of its own: sequences, history, keys, mouse, clipboard, panes.
"""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from machinen_tui.terminal_cells import DEFAULT_STYLE
from machinen_tui.terminal_model import TerminalModel
from machinen_tui.terminal_modes import ALTERNATE_SCREENS, MOUSE_MODES, SETTABLE
from machinen_tui.terminal_sequences import CSI, MAX_PARAMS
from tests.tui.terminal_oracles import libvterm_screen
from tests.tui.test_terminal_oracles import our_screen
from tests.tui.test_terminal_sequences import model_of, replies_to

ROWS = b"".join(b"\x1b[%d;1H%s" % (y, b"12345678") for y in range(1, 6))


def state_of(model: TerminalModel) -> tuple[object, ...]:
    """All that a sequence without a meaning must leave alone."""
    terminal = model.terminal
    return (
        [list(row) for row in terminal.buffer], terminal.cursor.x, terminal.cursor.y,
        terminal.cursor.hidden, terminal.style, set(terminal.mode), terminal.margins,
        terminal.side_margins, terminal.title, terminal.icon_name, terminal.keyboard.flags,
        terminal.cursor_shape, set(terminal.tabstops), len(model.scrollback),
    )  # fmt: skip


# -- what raised ----------------------------------------------------------------------------------


def test_private_and_unknown_forms_of_every_final_change_nothing() -> None:
    model = model_of(b"some text\r\nmore\x1b[1;32m")
    before = state_of(model)
    finals = [chr(code) for code in range(0x40, 0x7F)]
    marks = ["".join(pair) for pair in itertools.product("<=>?", ["", *" !\"#$%&'()*+,-./"])]
    for mark, final, parameters in itertools.product(marks, finals, ("", "1", "4;2", ":;9;9;9;9")):
        if mark + final not in CSI:
            model.feed(f"\x1b[{mark[0]}{parameters}{mark[1:]}{final}".encode())
            assert state_of(model) == before, (mark, parameters, final)


# -- what was printed -----------------------------------------------------------------------------

SIXEL = b"\x1bPq" + b'"1;1;93;14#0;2;60;0;0#0!14@#1!9~-$' * 3000 + b"\x1b\\"
KITTY = b"".join(b"\x1b_Ga=T,f=100,m=1;" + b"QUJD" * 1024 + b"\x1b\\" for _ in range(20))


@pytest.mark.parametrize("picture", [SIXEL, KITTY], ids=["sixel", "kitty"])
@pytest.mark.parametrize("piece", [7, 4096, 1 << 20])
def test_pictures_are_swallowed_however_they_arrive(picture: bytes, piece: int) -> None:
    model = TerminalModel(20, 5)
    data = b"before" + picture + b"after"
    for start in range(0, len(data), piece):
        model.feed(data[start : start + piece])
    assert model.screen_text() == "beforeafter"


@pytest.mark.parametrize("start", [b"\x1b]0;", b"\x1bPq", b"\x1b_G", b"\x1b^", b"\x1bX"])
def test_a_string_that_never_ends_shows_nothing_takes_no_memory_and_can_be_aborted(
    start: bytes,
) -> None:
    model = TerminalModel(20, 5)
    model.feed(start)
    tracemalloc.start()
    try:
        for _ in range(100):
            model.feed(b"x" * 65_536)
        assert tracemalloc.get_traced_memory()[0] < 2_000_000
    finally:
        tracemalloc.stop()
    assert model.screen_text() == ""
    model.feed(b"\x18ok")
    assert (model.screen_text(), model.terminal.title) == ("ok", "")


@pytest.mark.parametrize("abort", [b"\x18", b"\x1a"], ids=["CAN", "SUB"])
@pytest.mark.parametrize(
    "begun", [b"\x1b]2;a title", b"\x1bP$qm", b"\x1b_Gq", b"\x1b[31", b"\x1b[?1049", b"\x1b("]
)
def test_can_and_sub_abort_whatever_has_begun(begun: bytes, abort: bytes) -> None:
    model = model_of(begun + abort + b"mhx")
    assert model.text(0) == "mhx"
    assert model.cells(0)[0].style == DEFAULT_STYLE
    assert model.terminal.title == ""
    assert replies_to(begun + abort) == b""


def test_eight_bit_controls_work_as_characters_and_not_as_stray_bytes() -> None:
    """In UTF-8 a C1 control is a character; a lone byte is malformed, as libvterm has it."""
    controls = "\x9b31mred\x9b0m \x9d2;title\x9c\x90payload\x9c\x85next\x8dup"
    model = model_of(controls.encode())
    assert model.terminal.title == "title"
    assert model.cells(0)[0].fg == "red"
    assert model.screen_text() == "red up\nnext"
    data = b"\x9b31mx"
    assert our_screen(data) == libvterm_screen(data, 14, 6)


# -- what was wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent", [b"\x1b[>4;2m", b"\x1b[>4;1m", b"\x1b[>4m", b"\x1b[>m", b"\x1b[?4m"]
)
def test_xtmodkeys_is_no_style(sent: bytes) -> None:
    assert model_of(sent + b"x").cells(0)[0].style == DEFAULT_STYLE


@pytest.mark.parametrize(
    "number", [3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 17, 19, 22, 50, 52, 66, 99, 104, 105, 110,
               111, 112, 133, 176, 555, 633, 697, 777, 1337, 9001],
)  # fmt: skip
def test_no_other_osc_touches_the_title_or_the_icon_name(number: int) -> None:
    model = model_of(b"\x1b]2;mine\x07\x1b]1;icon\x07")
    model.feed(b"\x1b]%d;other\x07\x1b]%d\x07ok" % (number, number))
    assert (model.terminal.title, model.terminal.icon_name) == ("mine", "icon")
    assert model.text(0) == "ok"


def test_nel_goes_to_the_first_column() -> None:
    assert model_of(b"abc\x1bEd").screen_text() == "abc\nd"
    assert model_of("abc\x85d".encode()).screen_text() == "abc\nd"


def test_decsc_keeps_one_place_and_decrc_may_come_again() -> None:
    assert model_of(b"a\x1b7b\x1b7\x1b[4;4H\x1b8X\x1b[4;4H\x1b8Y").text(0) == "abY"


@pytest.mark.parametrize(
    ("data", "row"),
    [
        ("日本語\x1b[1;2Hx", " x本語"), ("日本語\x1b[1;3Hx", "日x 語"),
        ("日本語\x1b[1;4H\x1b[X", "日  語"), ("日本語\x1b[1;3H\x1b[X", "日  語"),
        ("日本語\x1b[1;4H\x1b[K", "日"), ("日本語\x1b[1;3H\x1b[1K", "    語"),
        ("日本語\x1b[1;2H\x1b[P", " 本語"), ("日本語\x1b[1;2H\x1b[@", "   本語"),
        ("日本語\x1b[4h\x1b[1;4Hx", "日 x 語"), ("日本語\x1b[1;2H語", " 語 語"),
        ("ab日\x1b[1;3H\u0301x", "ab\u0301x"),
    ],
)  # fmt: skip
def test_no_edit_leaves_half_a_wide_character(data: str, row: str) -> None:
    model = model_of(data.encode())
    assert model.text(0) == row
    cells = model.terminal.buffer[0]
    assert len(cells) == 20
    for x, cell in enumerate(cells):  # a second half stands behind a first one, and only there
        first_half = bool(cell.data) and cell.data in "日本語"
        assert first_half == (x + 1 < 20 and not cells[x + 1].data), x


def test_a_wide_character_goes_whole_over_a_right_margin() -> None:
    model = model_of("\x1b[?69h\x1b[2;6s\x1b[1;2Habcd日x".encode())
    assert (model.text(0), model.text(1)) == (" abcd", " 日x")
    assert model_of("日本".encode(), columns=1, lines=3).screen_text() == ""


@pytest.mark.parametrize(
    ("data", "row"),
    [
        (b"0123456789\bX", "01234567X9"), (b"0123456789\x1b[DX", "01234567X9"),
        (b"0123456789\x1b[1DX", "01234567X9"), (b"0123456789\rX", "X123456789"),
        (b"0123456789\x1b[CX", "012345678X"), (b"0123456789\tX", "0123456789"),
        (b"0123456789\x1b[GX", "X123456789"), (b"0123456789\x1b[10GX", "012345678X"),
    ],
)  # fmt: skip
def test_a_pending_wrap_stands_on_the_last_column(data: bytes, row: str) -> None:
    assert model_of(data, columns=10).text(0) == row


@pytest.mark.parametrize("edit", ["L", "M"], ids=["IL", "DL"])
def test_inserting_and_deleting_lines_ends_at_the_left_margin(edit: str) -> None:
    """As xterm today, ECMA-48 (8.3.67, 8.3.32) and DEC STD 070 have it, a pending wrap ends;
    libvterm and tmux stay in their column. Outside of the region nothing moves, as in libvterm."""
    for before in (b"0000", b"0" * 20):
        assert model_of(b"\x1b[2;1H" + before + f"\x1b[{edit}a".encode()).text(1) == "a"
    boxed = model_of(b"\x1b[?69h\x1b[3;9s\x1b[2;5H" + f"\x1b[{edit}a".encode())
    assert boxed.text(1) == "  a"
    for before in (b"0" * 9, b"0" * 14):
        data = b"\x1b[4;6r\x1b[2;1H" + before + f"\x1b[{edit}a".encode()
        assert our_screen(data) == libvterm_screen(data, 14, 6)


def test_decrc_brings_a_pending_wrap_back() -> None:
    """As xterm and DEC STD 070 (the last column flag); libvterm and tmux forget it."""
    assert model_of(b"0123456789\x1b7\x1b[3;3H\x1b8X", columns=10).screen_text() == "0123456789\nX"


def test_rep_wraps() -> None:
    """As xterm; libvterm and tmux stop at the margin."""
    assert model_of(b"abcdefgh\x1b[5b", columns=10).screen_text() == "abcdefghhh\nhhh"


# -- what was missing -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", ALTERNATE_SCREENS)
def test_each_alternate_screen_hides_the_main_one_and_brings_it_back(number: int) -> None:
    model = model_of(b"main\r\ntext\x1b[?%dh\x1b[4;2Hother" % number)
    assert model.screen_text() == "\n\n\n other"
    assert (model.terminal.alternate, model.terminal.has_mode(number)) == (True, True)
    model.feed(b"\x1b[?%dlX" % number)
    assert not model.terminal.alternate
    stays = model_of(b"main\r\ntext\x1b[4;7HX")  # 47 and 1047 leave the cursor where it is
    back = model_of(b"main\r\ntextX")
    assert model.screen_text() == (back if number == 1049 else stays).screen_text()


@pytest.mark.parametrize("after", ["", "X", "\r\nX", "\x1b[?1047hin", "\x1b8X"])
def test_1047_looks_as_in_libvterm(after: str) -> None:
    data = f"main\x1b7\r\ntext\x1b[?1047h\x1b[3;3Hother\x1b[?1047l{after}".encode()
    assert our_screen(data) == libvterm_screen(data, 14, 6)


@pytest.mark.parametrize("number", ALTERNATE_SCREENS)
def test_1049_on_an_alternate_screen_clears_it_as_in_libvterm(number: int) -> None:
    """As xterm, too; tmux does nothing. What DECSC kept on the main screen stays kept."""
    data = f"main\x1b[?{number}h\x1b[3;3Hother\x1b[?1049hX".encode()
    assert our_screen(data) == libvterm_screen(data, 14, 6)
    model = model_of(b"ab\x1b7cd\x1b[?%dh\x1b[4;4Hin\x1b[?1049h\x1b[?1049lX" % number)
    assert model.screen_text() == ("abcdX" if number == 1049 else "abXd")
    assert not any(model.terminal.has_mode(each) for each in ALTERNATE_SCREENS)


def test_47_keeps_the_alternate_screen_1047_and_1049_clear_it() -> None:
    assert model_of(b"\x1b[?47hkept\x1b[?47l\x1b[?47h").screen_text() == "kept"
    assert model_of(b"\x1b[?1047hgone\x1b[?1047l\x1b[?1047h").screen_text() == ""
    assert model_of(b"\x1b[?47hgone\x1b[?47l\x1b[?1049h").screen_text() == ""
    model = model_of(b"\x1b[?47hkept and long\x1b[?47l")
    model.resize(6, 3)
    model.feed(b"\x1b[?47h")
    assert [len(row) for row in model.terminal.buffer] == [6] * 3
    assert model.screen_text() == "kept a"


def test_1048_saves_the_cursor_alone() -> None:
    model = model_of(b"ab\x1b[?1048h\x1b[4;4Hcd\x1b[?1048lX")
    assert model.screen_text() == "abX\n\n\n   cd"


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.sampled_from(["word ", "0123456789", "日本", "\r\n"]), min_size=1, max_size=20),
    st.lists(st.tuples(st.integers(2, 25), st.integers(1, 8)), min_size=1, max_size=5),
)
def test_after_full_screen_programs_and_resizes_text_goes_on_where_it_stopped(
    parts: list[str], sizes: list[tuple[int, int]]
) -> None:
    """A shell's prompt, an editor that is resized, the shell again: nothing is overwritten."""
    text = "".join(parts)
    edited, plain = TerminalModel(12, 5), TerminalModel(12, 5)
    edited.feed(text.encode() + b"\x1b[?1049h\x1b[2;2Hfull screen")
    plain.feed(text.encode())
    for columns, lines in sizes:
        edited.resize(columns, lines)
        plain.resize(columns, lines)
    edited.feed(b"\x1b[?1049l")
    assert edited.screen_text() == plain.screen_text()
    for model in (edited, plain):
        model.feed(b"$ typed")
    assert edited.screen_text() == plain.screen_text()


@pytest.mark.parametrize(
    ("data", "row", "shown"),
    [
        (b"\x1b[2S", 0, "12345678"), (b"\x1b[2T", 1, ""), (b"\x1b[2;4r\x1b[9S", 4, "12345678"),
        (b"\x1b[2;4r\x1b[9S", 2, ""), (b"\x1b[2;4r\x1b[T", 1, ""), (b"\x1b[0S", 4, ""),
    ],
)  # fmt: skip
def test_su_and_sd_scroll_the_region(data: bytes, row: int, shown: str) -> None:
    assert model_of(ROWS + data).text(row) == shown


def test_cht_cbt_hts_and_tbc() -> None:
    assert model_of(b"a\x1b[2Ib").text(0) == "a" + " " * 15 + "b"
    assert model_of(b"\x1b[18Ga\x1b[2Zb").text(0) == " " * 8 + "b" + " " * 8 + "a"
    assert model_of(b"\x1b[3g\x1b[5G\x1bH\r\tx\r\t\ty").text(0) == "    x" + " " * 14 + "y"
    assert model_of(b"\x1b[9G\x1b[g\r\tx").text(0) == " " * 16 + "x"


def test_scosc_and_scorc_keep_style_too() -> None:
    cells = model_of(b"\x1b[31ma\x1b[s\x1b[0;44mbc\x1b[uX").cells(0)
    assert [(cell.data, cell.fg, cell.bg) for cell in cells[:2]] == [
        ("a", "red", "default"), ("X", "red", "default"),
    ]  # fmt: skip


@pytest.mark.parametrize("shape", range(9))
def test_decscusr_takes_the_six_shapes(shape: int) -> None:
    model = model_of(b"\x1b[%d q" % shape)
    assert model.terminal.cursor_shape == (shape if shape <= 6 else 0)
    assert model.screen_text() == ""


@pytest.mark.parametrize("number", sorted(SETTABLE - {1048}))
def test_decrqm_tells_each_mode_set_and_reset(number: int) -> None:
    asked = b"\x1b[?%d$p" % number
    data = b"\x1b[?%dh" % number + asked + b"\x1b[?%dl" % number + asked
    assert replies_to(data) == b"\x1b[?%d;1$y\x1b[?%d;2$y" % (number, number)


@pytest.mark.parametrize("number", MOUSE_MODES)
def test_the_last_mouse_mode_asked_for_holds(number: int) -> None:
    model = model_of(b"\x1b[?1003h\x1b[?%dh" % number)
    assert model.terminal.mouse_mode == number
    model.feed(b"\x1b[?%dl" % number)
    assert model.terminal.mouse_mode == 0


@pytest.mark.parametrize(
    ("setup", "name", "answer"),
    [
        (b"", b"s", b"1;20s"), (b"\x1b[?69h\x1b[3;9s", b"s", b"3;9s"), (b"", b'"p', b'62;1"p'),
        (b"", b"t", b"5t"), (b"", b"$|", b"20$|"), (b"", b"*|", b"5*|"),
        (b"\x1b[1;4:3m", b"m", b"0;1;4:3m"),
    ],
)  # fmt: skip
def test_decrqss_tells_settings(setup: bytes, name: bytes, answer: bytes) -> None:
    assert replies_to(setup + b"\x1bP$q" + name + b"\x1b\\") == b"\x1bP1$r" + answer + b"\x1b\\"


def test_xtwinops_tells_sizes_and_moves_nothing() -> None:
    asked = b"".join(b"\x1b[%dt" % number for number in (11, 13, 15, 19, 20))
    told = b"\x1b[1t\x1b[3;0;0t\x1b[5;80;160t\x1b[9;5;20t\x1b]L\x1b\\"
    assert replies_to(asked) == told
    model = model_of(ROWS)
    before = state_of(model)
    for what in (*range(1, 11), 24, 99, 9999):
        model.feed(b"\x1b[%d;3;3t" % what)
        assert state_of(model) == before


def test_colours_are_set_told_and_given_back() -> None:
    ask = b"\x1b]4;3;?\x07\x1b]12;?\x07"
    told = replies_to(b"\x1b]4;3;rgb:1/2/3\x07\x1b]12;#abcdef\x07" + ask)
    assert told == b"\x1b]4;3;rgb:1111/2222/3333\x1b\\\x1b]12;rgb:abab/cdcd/efef\x1b\\"
    default = replies_to(ask)
    assert default != told
    reset = b"\x1b]4;3;rgb:1/2/3\x07\x1b]12;#abcdef\x07\x1b]104;3\x07\x1b]112\x07"
    assert replies_to(reset + ask) == default
    assert replies_to(b"\x1b]4;256;?\x07\x1b]4;-1;?\x07\x1b]4;x;?\x07\x1b]10;red?\x07") == b""


CLUSTERS = [
    ("family", "👨\u200d👩\u200d👧\u200d👦", 2), ("vs16", "☁\ufe0f", 2), ("vs15", "☁\ufe0e", 1),
    ("flag", "🇯🇵", 2), ("tone", "👋🏿", 2), ("keycap", "1\ufe0f\u20e3", 2),
    ("tags", "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", 2),
    ("marks", "o\u0308\u0304", 1), ("jamo", "\u1112\u1161\u11ab", 2),
    ("zwj sign", "🧔\u200d♀\ufe0f", 2),
]  # fmt: skip


@pytest.mark.parametrize(
    ("cluster", "width"), [c[1:] for c in CLUSTERS], ids=[c[0] for c in CLUSTERS]
)
def test_a_grapheme_cluster_is_one_cell_drawn_edited_and_wrapped_as_one(
    cluster: str, width: int
) -> None:
    whole = model_of(f"{cluster}|".encode())
    piecewise = TerminalModel(20, 5)
    for character in f"{cluster}|":
        piecewise.feed(character.encode())
    for model in (whole, piecewise):
        assert [cell.data for cell in model.cells(0)] == [cluster, *[""] * (width - 1), "|"]
        assert model.terminal.cursor.x == width + 1
    assert model_of(f"{cluster}|\r\x1b[{width}Px".encode()).text(0) == "x"
    narrow = model_of(f"abcd{cluster}".encode(), columns=4 + width - (width > 1), lines=3)
    assert narrow.text(int(width > 1)).endswith(cluster)
    whole.resize(2, 5)
    whole.resize(20, 5)
    assert whole.text(0) == f"{cluster}|"


@pytest.mark.parametrize(
    ("data", "y", "xs"),
    [
        (b"\x1b[5;1H\n", 4, range(20)), (b"\x1b[1;1H\x1bM", 0, range(20)),
        (b"\x1b[S", 4, range(20)), (b"\x1b[T", 0, range(20)), (b"\x1b[2;1H\x1b[L", 1, range(20)),
        (b"\x1b[2;1H\x1b[M", 4, range(20)), (b"\x1b[1;3H\x1b[2@", 0, range(2, 4)),
        (b"\x1b[1;3H\x1b[2P", 0, range(18, 20)), (b"\x1b[1;3H\x1b[2X", 0, range(2, 4)),
        (b"\x1b[1;3H\x1b[K", 0, range(2, 20)), (b"\x1b[2J", 3, range(20)),
        (b"\x1b[2 @", 2, range(18, 20)), (b"\x1b[2 A", 2, range(2)),
        (b"\x1b[5;20Hxy", 4, range(1, 20)),
    ],
)  # fmt: skip
def test_what_enters_or_is_erased_has_the_background_in_force(
    data: bytes, y: int, xs: range
) -> None:
    row = model_of(ROWS + b"\x1b[1;44m" + data).terminal.buffer[y]
    assert {row[x].bg for x in xs} == {"blue"}
    assert not any(row[x].bold for x in xs)  # the colour alone stays


def test_decrqcra_sums_a_rectangle_counted_from_the_origin() -> None:
    asked = b"\x1b[1;1;2;2;3;3*y"
    assert replies_to(ROWS + asked) == b"\x1bP1!~%04X\x1b\\" % (-2 * (ord("2") + ord("3")) & 0xFFFF)
    data = ROWS + b"\x1b[?6h\x1b[2;4r\x1b[1;1;1;1;1;1*y"
    assert replies_to(data) == b"\x1bP1!~%04X\x1b\\" % (-ord("1") & 0xFFFF)
    assert replies_to(ROWS + b"\x1b[1;1;4;4;2;2*y") == b"\x1bP1!~0000\x1b\\"


# -- what is remembered ---------------------------------------------------------------------------


@pytest.mark.parametrize("final", [b"m", b"H", b"h", b"t"])
@pytest.mark.parametrize("mark", [b"", b"?", b">"])
def test_long_parameters_are_swallowed_and_not_remembered(mark: bytes, final: bytes) -> None:
    """A guest may send any number of different ones."""
    model = TerminalModel(20, 5)
    model.feed(b"\x1b[%s%s%sx" % (mark, b"1;" * MAX_PARAMS, final))
    tracemalloc.start()
    try:
        for number in range(30):
            sent = b"\x1b[%s%s%d%s" % (mark, b"1;" * 10_000, number, final)
            model.feed(sent)
            model.feed((sent + b"\r\n") * 16)  # as a flood, which is filed as it came
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
    finally:
        tracemalloc.stop()
    assert model.lines_text().strip() == ""  # the x has scrolled away, nothing came after it
    assert model.text(0, len(model.scrollback)) == "x"


@pytest.mark.parametrize("length", range(MAX_PARAMS - 2, MAX_PARAMS + 3))
def test_the_longest_parameters_count_the_same_in_pieces(length: int) -> None:
    sent = b"\x1b[" + b"0" * (length - 1) + b"1mx"
    whole, piecewise = model_of(sent), TerminalModel(20, 5)
    for byte in sent:
        piecewise.feed(bytes([byte]))
    assert whole.cells(0) == piecewise.cells(0)
    assert whole.cells(0)[0].bold == (length <= MAX_PARAMS)
