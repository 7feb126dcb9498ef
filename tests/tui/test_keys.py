"""Keys, pastes and mouse events as a guest sees them."""

from __future__ import annotations

import pytest

from machinen_tui.keys import encode_key, encode_mouse, encode_paste


@pytest.mark.parametrize(
    ("key", "character", "expected"),
    [
        ("a", "a", b"a"),
        ("A", "A", b"A"),
        ("space", " ", b" "),
        ("enter", "\r", b"\r"),
        ("tab", "\t", b"\t"),
        ("shift+tab", None, b"\x1b[Z"),
        ("escape", "\x1b", b"\x1b"),
        ("backspace", "\x7f", b"\x7f"),
        ("ctrl+c", "\x03", b"\x03"),
        ("ctrl+q", "\x11", b"\x11"),
        ("ctrl+p", "\x10", b"\x10"),
        ("ctrl+@", "\0", b"\0"),
        ("ctrl+backslash", "\x1c", b"\x1c"),
        ("ctrl+right_square_bracket", "\x1d", b"\x1d"),
        ("ctrl+underscore", "\x1f", b"\x1f"),
        ("alt+x", "x", b"\x1bx"),
        ("alt+enter", None, b"\x1b\r"),
        ("ctrl+alt+a", None, b"\x1b\x01"),
        ("up", None, b"\x1b[A"),
        ("shift+up", None, b"\x1b[1;2A"),
        ("ctrl+left", None, b"\x1b[1;5D"),
        ("ctrl+shift+right", None, b"\x1b[1;6C"),
        ("home", None, b"\x1b[H"),
        ("delete", None, b"\x1b[3~"),
        ("ctrl+pageup", None, b"\x1b[5;5~"),
        ("f1", None, b"\x1bOP"),
        ("shift+f1", None, b"\x1b[1;2P"),
        ("f5", None, b"\x1b[15~"),
        ("f12", None, b"\x1b[24~"),
        ("exclamation_mark", "!", b"!"),
        ("full_stop", None, b"."),
        ("alt+full_stop", None, b"\x1b."),
        ("right_square_bracket", "]", b"]"),
        ("slash", "/", b"/"),
        ("é", "é", "é".encode()),
        ("left_shift", None, b""),
        ("super+left_control", None, b""),
    ],
)
def test_a_key_becomes_what_xterm_sends(key: str, character: str | None, expected: bytes) -> None:
    assert encode_key(key, character) == expected


def test_cursor_keys_follow_application_mode() -> None:
    assert encode_key("up", None, application_cursor=True) == b"\x1bOA"
    assert encode_key("ctrl+up", None, application_cursor=True) == b"\x1b[1;5A"


def test_a_paste_is_bracketed_when_asked_and_cannot_end_its_bracket() -> None:
    assert encode_paste("a\nb", bracketed=False) == b"a\rb"
    assert encode_paste("x\x1b[201~rm\n", bracketed=True) == b"\x1b[200~x[201~rm\r\x1b[201~"


def test_mouse_events_follow_the_mode_of_the_guest() -> None:
    assert encode_mouse("down", 1, 4, 2, mode=1000, sgr=True) == b"\x1b[<0;5;3M"
    assert encode_mouse("up", 1, 4, 2, mode=1000, sgr=True) == b"\x1b[<0;5;3m"
    assert encode_mouse("up", 1, 4, 2, mode=9, sgr=True) == b""
    assert encode_mouse("move", 0, 4, 2, mode=1002, sgr=True) == b""
    assert encode_mouse("move", 0, 4, 2, mode=1003, sgr=True) == b"\x1b[<35;5;3M"
    assert encode_mouse("move", 1, 4, 2, mode=1002, sgr=True) == b"\x1b[<32;5;3M"
    assert encode_mouse("scroll_up", 0, 0, 0, mode=1000, sgr=False) == b"\x1b[M\x60\x21\x21"
    assert (
        encode_mouse("down", 3, 0, 0, mode=1000, sgr=True, modifiers=["ctrl"]) == b"\x1b[<18;1;1M"
    )
    assert encode_mouse("down", 1, 300, 0, mode=1000, sgr=False) == b""
    assert encode_mouse("down", 1, 0, 0, mode=0, sgr=True) == b""
