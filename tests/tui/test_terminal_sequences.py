"""Sequences guests send beyond plain text: what each changes, and what it is answered."""

from __future__ import annotations

import pytest

from machinen_tui.terminal_model import TerminalModel
from machinen_tui.terminal_osc import DONE, PROMPT, RUNNING
from machinen_tui.terminal_sgr import sgr_params


def model_of(data: bytes, columns: int = 20, lines: int = 5) -> TerminalModel:
    model = TerminalModel(columns, lines)
    model.feed(data)
    return model


def replies_to(data: bytes, columns: int = 20, lines: int = 5) -> bytes:
    replies: list[bytes] = []
    TerminalModel(columns, lines, on_reply=replies.append).feed(data)
    return b"".join(replies)


@pytest.mark.parametrize(
    ("sgr", "field", "value"),
    [
        (b"2", "dim", True), (b"8", "conceal", True), (b"53", "overline", True),
        (b"5", "blink", True), (b"4", "underline", 1), (b"21", "underline", 2),
        (b"4:3", "underline", 3), (b"4:5", "underline", 5), (b"4:0", "underline", 0),
        (b"58:2::1:2:3", "underline_color", "010203"), (b"58;5;196", "underline_color", "ff0000"),
        (b"58;5;1;59", "underline_color", "default"), (b"1;2;22", "dim", False),
        (b"38:2:9:1:2:3", "fg", "010203"), (b"48:5:1", "bg", "red"), (b"107", "bg", "brightwhite"),
        (b"8;28", "conceal", False), (b"53;55", "overline", False), (b"1;0;3", "bold", False),
        (b"38;5;300", "fg", "default"), (b"38;2;256;0;0", "fg", "default"),
        (b"38;5", "fg", "default"), (b"9999;1", "bold", True),
    ],
)  # fmt: skip
def test_sgr_sets_every_part_of_a_style(sgr: bytes, field: str, value: object) -> None:
    style = model_of(b"\x1b[" + sgr + b"mx").cells(0)[0].style
    assert getattr(style, field) == value


def test_a_style_told_by_decrqss_brings_itself_about() -> None:
    sent = b"\x1b[1;2;3;4:4;5;7;8;9;53;38;5;208;48;2;1;2;3;58;5;9m"
    style = model_of(sent + b"x").cells(0)[0].style
    assert model_of(b"\x1b[" + sgr_params(style).encode() + b"mx").cells(0)[0].style == style
    assert replies_to(sent + b"\x1bP$qm\x1b\\").startswith(b"\x1bP1$r0;1;2;3;5;7;8;9;53;4:4;38:2::")


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (b"\x1b[=c", b"\x1bP!|00000000\x1b\\"),
        (b"\x1b[>0q", b"\x1bP>|machinen\x1b\\"),
        (b"\x1b[x", b"\x1b[2;1;1;128;128;1;0x"),
        (b"\x1b[?15n\x1b[?25n\x1b[?26n", b"\x1b[?13n\x1b[?20n\x1b[?27;1;0;0n"),
        (b"\x1b[?6n", b"\x1b[?1;1R"),
        (b"\x1b[4$p\x1b[4h\x1b[4$p\x1b[99$p", b"\x1b[4;2$y\x1b[4;1$y\x1b[99;0$y"),
        (b"\x1b[?2027$p\x1b[?1016$p\x1b[?7777$p", b"\x1b[?2027;3$y\x1b[?1016;4$y\x1b[?7777;0$y"),
        (b"\x1bP$qr\x1b\\", b"\x1bP1$r1;5r\x1b\\"),
        (b"\x1b[2;4r\x1bP$qr\x1b\\", b"\x1bP1$r2;4r\x1b\\"),
        (b"\x1b[4 q\x1bP$q q\x1b\\", b"\x1bP1$r4 q\x1b\\"),
        (b'\x1b[1"q\x1bP$q"q\x1b\\', b'\x1bP1$r1"q\x1b\\'),
        (b"\x1bP$qz\x1b\\", b"\x1bP0$r\x1b\\"),
        (b"\x1bP+q544e;7a7a\x1b\\",
         b"\x1bP1+r544e=787465726d2d323536636f6c6f72\x1b\\\x1bP0+r7a7a\x1b\\"),
        (b"\x1bP+qzz\x1b\\", b"\x1bP0+r\x1b\\"),
        (b"\x1b[18t\x1b[14t\x1b[16t", b"\x1b[8;5;20t\x1b[4;80;160t\x1b[6;16;8t"),
        (b"\x1b]2;secret; rm -rf\x07\x1b[21t", b"\x1b]l\x1b\\"),
        (b"\x1b]4;1;?\x07", b"\x1b]4;1;rgb:cdcd/0000/0000\x1b\\"),
        (b"\x1b]4;7;#102030;7;?\x07", b"\x1b]4;7;rgb:1010/2020/3030\x1b\\"),
        (b"\x1b]11;rgb:ff/80/0\x07\x1b]11;?\x07", b"\x1b]11;rgb:ffff/8080/0000\x1b\\"),
        (b"\x1b]11;#010203\x07\x1b]111\x07\x1b]11;?\x07", b"\x1b]11;rgb:1010/1313/1818\x1b\\"),
        (b"\x1b]10;?;?\x07",
         b"\x1b]10;rgb:d7d7/dada/e0e0\x1b\\\x1b]11;rgb:1010/1313/1818\x1b\\"),
        (b"\x1b]52;c;?\x07", b""),
        (b"\x1b[?u\x1b[>5u\x1b[?u\x1b[=2;2u\x1b[?u\x1b[<u\x1b[?u",
         b"\x1b[?0u\x1b[?5u\x1b[?7u\x1b[?0u"),
        (b"\x1b[>1u\x1b[?1049h\x1b[?u\x1b[>3u\x1b[?1049l\x1b[?u", b"\x1b[?0u\x1b[?1u"),
        (b"\x1b[>4;2m\x1b[?4m", b"\x1b[>4;2m"),
        (b"\x1b[3;4H\x1b[6n\x1b[?6h\x1b[6n", b"\x1b[3;4R\x1b[1;1R"),
        (b"AB\x1b[7;1;1;1;1;2*y", b"\x1bP7!~FF7D\x1b\\"),
        (b"\x1b[1mA\x1b[9;1;1;1;1;1*y", b"\x1bP9!~FF3F\x1b\\"),
        (b"\x1bZ", b"\x1b[?62;22c"),
    ],
)  # fmt: skip
def test_questions_and_their_answers(asked: bytes, answer: bytes) -> None:
    assert replies_to(asked) == answer


def test_osc_tells_titles_places_links_and_prompts() -> None:
    model = model_of(b"\x1b]0;both\x07\x1b]1;icon\x07\x1b]2;ti\xc2\x9btle\x07")
    assert (model.terminal.title, model.terminal.icon_name) == ("both", "icon")
    model = model_of(b"\x1b]7;file://host/a%20b\x07\x1b]8;id=1;http://x/\x1b\\ab\x1b]8;;\x1b\\c")
    assert model.terminal.working_directory == "/a b"
    assert [cell.style.link for cell in model.cells(0)] == ["http://x/", "http://x/", ""]
    terminal = model.terminal
    for sent, state, status in (
        (b"A", PROMPT, None), (b"C", RUNNING, None), (b"D;3", DONE, 3), (b"D;x", DONE, None),
    ):  # fmt: skip
        model.feed(b"\x1b]133;" + sent + b"\x07")
        assert (terminal.prompt_state, terminal.exit_status) == (state, status)


def test_titles_can_be_kept_and_brought_back() -> None:
    model = model_of(b"\x1b]2;one\x07\x1b[22;2t\x1b]2;two\x07\x1b[23;2t")
    assert model.terminal.title == "one"


def test_osc_52_writes_when_live_and_is_bounded() -> None:
    written: list[bytes] = []
    model = TerminalModel(20, 5, on_clipboard=written.append)
    model.feed(b"\x1b]52;c;aGVsbG8=\x07\x1b]52;c;not base64!\x07\x1b]52;c;?\x07")
    model.feed(b"\x1b]52;c;b2xk\x07", live=False)
    model.feed(b"\x1b]52;c;" + b"QUJD" * 200_000 + b"\x07")
    assert written == [b"hello"]


def test_protected_cells_outlive_selective_erase_only() -> None:
    model = model_of(b'\x1b[1"qkeep\x1b[0"qlose\x1b[?2K')
    assert model.text(0) == "keep"
    model.feed(b"\r\x1b[?2J")
    assert model.text(0) == "keep"
    model.feed(b"\x1b[2K")
    assert model.text(0) == ""


def test_side_margins_confine_wrapping_scrolling_and_edits() -> None:
    start = b"\x1b[?69h\x1b[3;6s"
    assert model_of(start + b"\x1b[1;3Habcdef").screen_text() == "  abcd\n  ef"
    rows = b"".join(b"\x1b[%d;1H%s" % (y, b"12345678") for y in range(1, 6))
    assert model_of(rows + start + b"\x1b[1S").text(4) == "12    78"
    assert model_of(rows + start + b"\x1b[1;3H\x1b[L").text(0) == "12    78"
    assert model_of(rows + start + b"\x1b[1;3H\x1b[P").text(0) == "12456 78"
    assert model_of(rows + start + b"\x1b[1;3H\x1b[@").text(0) == "12 34578"
    assert model_of(rows + start + b"\x1b[1;8H\x1b[@").text(0) == "12345678"
    assert model_of(rows + start + b"\x1b[1;3H\x1b['}").text(3) == "12 34578"
    assert model_of(start + b"\x1b[1;5H\rx").text(0) == "  x"
    assert model_of(start + b"\x1b[?6h\x1b[1;1Hx").text(0) == "  x"
    assert model_of(start + b"\x1b[?69l\x1b[1;1Habcdefgh").text(0) == "abcdefgh"


def test_a_region_inside_side_margins_keeps_what_is_beside_it_while_lines_run_through() -> None:
    frame = b"".join(b"\x1b[%d;1H|......|" % y for y in range(1, 6))
    data = frame + b"\x1b[?69h\x1b[2;7s\x1b[2;4r\x1b[2;2H" + b"ab\r\n" * 9
    assert model_of(data).screen_text().split("\n") == [
        "|......|", "|ab    |", "|ab    |", "|      |", "|......|",
    ]  # fmt: skip


def test_character_sets_and_shifts() -> None:
    assert model_of(b"\x1b)0\x0eq\x0fq").text(0) == "─q"
    assert model_of(b"\x1b*0\x1bNqq").text(0) == "─q"
    assert model_of(b"\x1b+0\x1boq\x1b(B\x0fq").text(0) == "─q"
    assert model_of(b"\x1b(A#\x1b(B#").text(0) == "£#"


def test_saved_modes_and_cursor_come_back() -> None:
    terminal = model_of(b"\x1b[?1;1004h\x1b[?1;1004s\x1b[?1;1004l\x1b[?1;1004r").terminal
    assert terminal.has_mode(1)
    assert terminal.has_mode(1004)
    model = model_of(b"\x1b[2;3H\x1b[31m\x1b(0\x1b7\x1b[0m\x1b(B\x1b[5;5H\x1b8q")
    assert model.text(1) == "  ─"
    assert model.cells(1)[2].fg == "red"


def test_soft_reset_keeps_the_text_and_hard_reset_does_not() -> None:
    data = b"text\x1b[2;4r\x1b[4h\x1b[?6h\x1b[?25l\x1b[>7u\x1b(0\x1b[31m"
    model = model_of(data + b"\x1b[!p\x1b[1;1Hab")
    assert model.text(0) == "abxt"
    assert model.cells(0)[0].fg == "default"
    assert not model.terminal.cursor.hidden
    assert model.terminal.keyboard.flags == 0
    assert model_of(data + b"\x1bc").screen_text() == ""


def test_reverse_wrap_goes_back_over_rows_only_when_asked() -> None:
    assert model_of(b"\x1b[2;1H\b\bx").screen_text() == "\nx"
    assert model_of(b"\x1b[?45h\x1b[2;1H\b\bx").text(0) == " " * 18 + "x"


def test_a_pending_wrap_is_left_by_movement_and_kept_by_style() -> None:
    assert model_of(b"abcde\bX", columns=5).text(0) == "abcXe"
    assert model_of(b"abcde\x1b[31mf", columns=5).screen_text() == "abcde\nf"
    assert model_of(b"abcde\x1b[KX", columns=5).screen_text() == "abcd\nX"


def test_scrolling_left_and_right() -> None:
    assert model_of(b"abcdef\x1b[2 @").text(0) == "cdef"
    assert model_of(b"abcdef\x1b[2 A").text(0) == "  abcdef"
    assert model_of(b"abc\x1b[1;1H\x1b6").text(0) == " abc"


def test_a_synchronised_update_is_a_mode_and_ends_with_a_reset() -> None:
    model = model_of(b"\x1b[?2026h")
    assert model.terminal.has_mode(2026)
    model.feed(b"\x1bc")
    assert not model.terminal.has_mode(2026)


def test_vs16_makes_the_character_before_it_wide() -> None:
    model = model_of("❤".encode())
    assert model.terminal.cursor.x == 1
    model.feed("\ufe0fx".encode())
    assert [cell.data for cell in model.cells(0)] == ["❤\ufe0f", "", "x"]


def test_marks_alone_and_layout_controls_draw_nothing() -> None:
    assert model_of("\u0301\u200d\u202e\ufeffx".encode()).screen_text() == "x"
    flood_of_marks = "e" + "\u0301" * 500
    assert len(model_of(flood_of_marks.encode()).cells(0)[0].data) <= 16


@pytest.mark.parametrize("zeros", [0, 1, 9, 40])
def test_leading_zeros_of_parameters_mean_nothing(zeros: int) -> None:
    model = TerminalModel(20, 6)
    lead = "0" * zeros
    model.feed(f"\x1b[{lead}3;{lead}5H\x1b[{lead}1;{lead}31mx".encode())
    assert model.text(2) == "    x"
    assert model.terminal.buffer[2][4].style.bold
    assert model.terminal.buffer[2][4].style.fg == "red"


def test_the_line_drawing_set_has_decs_own_signs() -> None:
    model = TerminalModel(20, 2)
    model.feed(b"\x1b(0h_q`\x1b(B")
    assert model.text(0) == "\u2424 \u2500\u25c6"  # NL, blank, line, diamond: as xterm has them
