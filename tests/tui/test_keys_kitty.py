"""Keys for guests that asked for kitty's protocol or modifyOtherKeys."""

from __future__ import annotations

import pytest

from machinen_tui.keys_kitty import encode_for, encode_kitty
from machinen_tui.pane_paint import rich_style, with_cursor
from machinen_tui.terminal_cells import PLAIN, Cell, Style
from machinen_tui.terminal_keyboard import Keyboard


@pytest.mark.parametrize(
    ("key", "character", "flags", "expected"),
    [
        ("a", "a", 1, b"a"),
        ("A", "A", 1, b"A"),
        ("escape", "\x1b", 1, b"\x1b[27u"),
        ("enter", "\r", 1, b"\r"),
        ("shift+enter", None, 1, b"\x1b[13;2u"),
        ("ctrl+a", "\x01", 1, b"\x1b[97;5u"),
        ("ctrl+i", None, 1, b"\x1b[105;5u"),
        ("alt+x", None, 1, b"\x1b[120;3u"),
        ("ctrl+shift+a", None, 1, b"\x1b[97;6u"),
        ("up", None, 1, b"\x1b[A"),
        ("ctrl+up", None, 1, b"\x1b[1;5A"),
        ("f1", None, 1, b"\x1b[P"),
        ("f3", None, 1, b"\x1b[13~"),
        ("f13", None, 1, b"\x1b[57376u"),
        ("delete", None, 1, b"\x1b[3~"),
        ("super+a", None, 1, b"\x1b[97;9u"),
        ("full_stop", ".", 1, b"."),
        ("a", "a", 8, b"\x1b[97u"),
        ("A", "A", 8, b"\x1b[97;2u"),
        ("enter", "\r", 8, b"\x1b[13u"),
        ("a", "a", 8 | 16, b"\x1b[97;;97u"),
        ("ctrl+a", "\x01", 8 | 16, b"\x1b[97;5u"),
        ("left_shift", None, 1, b""),
    ],
)
def test_keys_in_kittys_protocol(
    key: str, character: str | None, flags: int, expected: bytes
) -> None:
    assert encode_kitty(key, character, flags) == expected


@pytest.mark.parametrize(
    ("key", "level", "expected"),
    [
        ("ctrl+a", 1, b"\x01"), ("ctrl+a", 2, b"\x1b[27;5;97~"),
        ("shift+enter", 2, b"\x1b[27;2;13~"), ("a", 2, b"a"), ("up", 2, b"\x1b[A"),
        ("ctrl+a", 0, b"\x01"), ("ctrl+comma", 1, b"\x1b[27;5;44~"),
    ],
)  # fmt: skip
def test_keys_with_modify_other_keys(key: str, level: int, expected: bytes) -> None:
    keyboard = Keyboard()
    keyboard.set_modify(4, level)
    assert encode_for(keyboard, key, None, application_cursor=False) == expected


def test_without_a_protocol_keys_are_as_they_always_were() -> None:
    keyboard = Keyboard()
    assert encode_for(keyboard, "up", None, application_cursor=True) == b"\x1bOA"
    assert encode_for(keyboard, "ctrl+i", None, application_cursor=False) == b"\t"


def test_the_stack_of_flags_is_bounded_and_never_empty() -> None:
    keyboard = Keyboard()
    for flags in range(100):
        keyboard.push(flags)
    keyboard.pop(9999)
    assert keyboard.flags == 0
    keyboard.set(7)
    keyboard.set(2, 3)
    assert keyboard.flags == 5


def test_a_pane_draws_every_part_of_a_style_it_can() -> None:
    style = Style(
        bold=True, dim=True, underline=3, overline=True, conceal=True, fg="red", bg="010203"
    )
    drawn = rich_style(style, "#ffffff", "#000000")
    assert (drawn.bold, drawn.dim, drawn.underline, drawn.overline, drawn.conceal) == (True,) * 5
    assert drawn.bgcolor is not None
    assert drawn.bgcolor.name == "#010203"
    assert rich_style(Style(underline=2), "#ffffff", "#000000").underline2


def test_the_cursor_covers_both_columns_of_a_wide_character() -> None:
    cells = [Cell("a"), Cell("日"), Cell("")]
    for x in (1, 2):
        shown = with_cursor(cells, x, True)
        assert [cell.reverse for cell in shown] == [False, True, True]
        assert [cell.data for cell in shown] == ["a", "日", ""]
    assert [cell.underscore for cell in with_cursor([PLAIN], 3, False)] == [False] * 3 + [True]
