"""A Textual key, a paste or a mouse event → the bytes an xterm would send. Pure.

Sequences are xterm's (ctlseqs, "PC-Style Function Keys"): a modified cursor key is `CSI 1 ; m A`
with
m = 1 + shift + 2 alt + 4 ctrl.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

ESCAPE_KEY = "ctrl+right_square_bracket"
"""Twice in a row it leaves attached mode; one alone belongs to the guest."""
ESCAPE_KEY_BYTES = b"\x1d"
ESCAPE_KEY_WAIT_S = 0.3

MODIFIERS = {"shift": 1, "alt": 2, "meta": 2, "ctrl": 4}
_IGNORED_MODIFIERS = frozenset({"super", "hyper", "caps_lock", "num_lock"})

CURSOR_KEYS = {"up": "A", "down": "B", "right": "C", "left": "D", "end": "F", "home": "H"}
LETTER_KEYS = {"f1": "P", "f2": "Q", "f3": "R", "f4": "S"}
TILDE_KEYS = {
    "insert": 2, "delete": 3, "pageup": 5, "pagedown": 6, "f5": 15, "f6": 17, "f7": 18, "f8": 19,
    "f9": 20, "f10": 21, "f11": 23, "f12": 24, "f13": 25, "f14": 26, "f15": 28, "f16": 29,
    "f17": 31, "f18": 32, "f19": 33, "f20": 34,
}  # fmt: skip
PLAIN_KEYS = {"enter": "\r", "escape": "\x1b", "backspace": "\x7f", "tab": "\t", "space": " "}
_CTRL = {
    "at": "\0", "@": "\0", "space": "\0", "commercial_at": "\0", "left_square_bracket": "\x1b",
    "backslash": "\x1c", "right_square_bracket": "\x1d", "circumflex_accent": "\x1e",
    "underscore": "\x1f", "slash": "\x1f", "question_mark": "\x7f", "backspace": "\b",
    "enter": "\r", "tab": "\t", "escape": "\x1b", "2": "\0", "3": "\x1b", "4": "\x1c",
    "5": "\x1d", "6": "\x1e", "7": "\x1f", "8": "\x7f",
}  # fmt: skip
_ALIASES = {
    "return": "enter",
    "minus": "hyphen_minus",
    "plus": "plus_sign",
    "underscore": "low_line",
    "slash": "solidus",
    "backslash": "reverse_solidus",
    "at": "commercial_at",
}
_BARE_MODIFIERS = ("left_", "right_", "caps_lock", "num_lock", "scroll_lock", "iso_level")


def encode_key(key: str, character: str | None, *, application_cursor: bool = False) -> bytes:
    """What the guest gets for a key; empty for a key that means nothing to a terminal.

    Args:
        key: Textual's name of the key, such as `ctrl+shift+up`.
        character: The character it would print, if Textual knows one.
        application_cursor: The guest set DECCKM.
    """
    *names, base = key.split("+")
    if any(name not in MODIFIERS and name not in _IGNORED_MODIFIERS for name in names):
        return b""
    modifiers = 0
    for name in names:
        modifiers |= MODIFIERS.get(name, 0)
    if (sequence := _function_key(base, modifiers, application_cursor)) is not None:
        return sequence.encode()
    return _typed(base, character, modifiers).encode()


def _function_key(base: str, modifiers: int, application_cursor: bool) -> str | None:
    suffix = f";{modifiers + 1}" if modifiers else ""
    if base in CURSOR_KEYS:
        if suffix:
            return f"\x1b[1{suffix}{CURSOR_KEYS[base]}"
        return f"\x1b{'O' if application_cursor else '['}{CURSOR_KEYS[base]}"
    if base in LETTER_KEYS:
        return f"\x1b[1{suffix}{LETTER_KEYS[base]}" if suffix else f"\x1bO{LETTER_KEYS[base]}"
    if base in TILDE_KEYS:
        return f"\x1b[{TILDE_KEYS[base]}{suffix}~"
    if base == "tab" and modifiers & 1:
        return "\x1b[Z"
    return None


def _typed(base: str, character: str | None, modifiers: int) -> str:
    prefix = "\x1b" if modifiers & 2 else ""
    if modifiers & 4:
        if len(base) == 1 and base.isascii() and base.isalpha():
            return prefix + chr(ord(base.lower()) & 0x1F)
        if base in _CTRL:
            return prefix + _CTRL[base]
    if base in PLAIN_KEYS:
        return prefix + PLAIN_KEYS[base]
    if character is not None and len(character) == 1 and character.isprintable():
        return prefix + character
    if len(base) == 1:
        return prefix + (base.upper() if modifiers & 1 else base)
    if base.startswith(_BARE_MODIFIERS) and base != "left_square_bracket":
        return prefix + named_character(base) if base.endswith("bracket") else ""
    return (prefix + named) if (named := named_character(base)) else (character or "")


def named_character(base: str) -> str:
    """The character of a Unicode name in Textual's spelling (`full_stop`); empty if there is
    none."""
    for spelling in (_ALIASES.get(base, base), base.replace("_", "-")):
        for name in (spelling.replace("_", " "), spelling.replace("hyphen_minus", "hyphen-minus")):
            try:
                return unicodedata.lookup(name.upper())
            except KeyError:
                continue
    return ""


def encode_paste(text: str, *, bracketed: bool) -> bytes:
    """Pasted text as typed. Its own control characters are dropped, so it cannot end the
    bracket."""
    typed = "".join(c for c in text.replace("\r\n", "\r").replace("\n", "\r") if _may_paste(c))
    data = typed.encode()
    return b"\x1b[200~" + data + b"\x1b[201~" if bracketed else data


def _may_paste(character: str) -> bool:
    return character in "\r\t" or unicodedata.category(character) != "Cc"


def encode_mouse(
    action: str,
    button: int,
    column: int,
    row: int,
    *,
    mode: int,
    sgr: bool,
    modifiers: Iterable[str] = (),
) -> bytes:
    """A mouse event as the guest's mouse mode wants it; empty if it did not ask for this kind.

    Args:
        action: `down`, `up`, `move`, `scroll_up` or `scroll_down`.
        button: 1 left, 2 middle, 3 right, 0 none.
        column: Cell in the pane, from 0.
        row: The same downwards.
        mode: 9, 1000, 1002 or 1003; 0 sends nothing.
        sgr: The guest set mode 1006; otherwise cells beyond 222 cannot be said.
        modifiers: Of `shift`, `meta`, `ctrl`.
    """
    if not _wants(action, button, mode):
        return b""
    code = 64 if action == "scroll_up" else 65 if action == "scroll_down" else (button or 4) - 1
    if mode != 9:
        code += sum({"shift": 4, "meta": 8, "ctrl": 16}[name] for name in modifiers)
    code += 32 if action == "move" else 0
    if sgr:
        return f"\x1b[<{code};{column + 1};{row + 1}{'m' if action == 'up' else 'M'}".encode()
    if max(column, row) > 222:
        return b""
    if action == "up":
        code |= 3
    return b"\x1b[M" + bytes((32 + code, 33 + column, 33 + row))


def _wants(action: str, button: int, mode: int) -> bool:
    if action == "move":
        return mode == 1003 or (mode == 1002 and button > 0)
    if action == "up":
        return mode >= 1000
    return mode > 0
