"""Keys as kitty's protocol and xterm's modifyOtherKeys spell them, for guests that asked. Pure.

Sources: kitty's "Comprehensive keyboard handling in terminals" (`CSI code ; modifiers u`), xterm's
ctlseqs (`CSI 27 ; modifiers ; code ~`). Textual tells presses only, so releases (flag 2) and the
keys of other layouts (flag 4) are never reported.
"""

from __future__ import annotations

from machinen_tui.keys import (
    CURSOR_KEYS,
    LETTER_KEYS,
    PLAIN_KEYS,
    TILDE_KEYS,
    encode_key,
    named_character,
)
from machinen_tui.terminal_keyboard import ALL_KEYS, WITH_TEXT, Keyboard

BITS = {"shift": 1, "alt": 2, "ctrl": 4, "super": 8, "hyper": 16, "meta": 32, "caps_lock": 64,
        "num_lock": 128}  # fmt: skip
TYPING = 1 | 64 | 128
"""Modifiers that only choose the character."""
FUNCTION_KEYS = {
    "caps_lock": 57358, "scroll_lock": 57359, "num_lock": 57360, "print_screen": 57361,
    "pause": 57362, "menu": 57363, **{f"f{n}": 57363 + n for n in range(13, 36)},
}  # fmt: skip
F3_TILDE = 13
"""F3 is `13 ~`: `CSI R` would be a cursor report."""
ALWAYS_TEXT = ("enter", "tab", "backspace")
"""Without modifiers they stay as they were, so that a shell is usable after a crash."""


def encode_for(
    keyboard: Keyboard, key: str, character: str | None, *, application_cursor: bool
) -> bytes:
    """What the guest gets for a key, as its keyboard mode wants it."""
    legacy = encode_key(key, character, application_cursor=application_cursor)
    if keyboard.flags:
        return encode_kitty(key, character, keyboard.flags)
    if keyboard.modify_other_keys and (other := _other(key, character, keyboard, legacy)):
        return other
    return legacy


def encode_kitty(key: str, character: str | None, flags: int) -> bytes:
    """A key in kitty's protocol; empty for one it has no number for."""
    modifiers, base = _split(key)
    if base in CURSOR_KEYS:
        return _letter(CURSOR_KEYS[base], modifiers)
    if base in LETTER_KEYS and base != "f3":
        return _letter(LETTER_KEYS[base], modifiers)
    if base == "f3" or (base in TILDE_KEYS and base not in FUNCTION_KEYS):
        return _csi(F3_TILDE if base == "f3" else TILDE_KEYS[base], modifiers, "~")
    if base in FUNCTION_KEYS:
        return _csi(FUNCTION_KEYS[base], modifiers, "u")
    text = _text_of(base, character)
    if not text:
        return b""
    if base in PLAIN_KEYS and base != "space":
        if base in ALWAYS_TEXT and not modifiers and not flags & ALL_KEYS:
            return text.encode()
        return _csi(ord(text), modifiers, "u")
    if not modifiers & ~TYPING and not flags & ALL_KEYS:
        return _shifted(text, modifiers).encode()
    if text != text.lower():
        modifiers |= BITS["shift"]
    typed = _shifted(text, modifiers) if flags & WITH_TEXT and not modifiers & ~TYPING else ""
    return _csi(ord(text.lower()[0]), modifiers, "u", typed)


def _split(key: str) -> tuple[int, str]:
    *names, base = key.split("+")
    modifiers = 0
    for name in names:
        modifiers |= BITS.get(name, 0)
    return modifiers, base


def _text_of(base: str, character: str | None) -> str:
    """The one character a key stands for; empty if none."""
    if base in PLAIN_KEYS:
        return PLAIN_KEYS[base]
    if len(base) == 1:
        return base
    if named := named_character(base):
        return named
    return character if character is not None and len(character) == 1 and character >= " " else ""


def _shifted(text: str, modifiers: int) -> str:
    upper = text.upper()
    return upper if modifiers & 1 and len(upper) == 1 else text


def _letter(final: str, modifiers: int) -> bytes:
    return f"\x1b[1;{modifiers + 1}{final}".encode() if modifiers else f"\x1b[{final}".encode()


def _csi(number: int, modifiers: int, final: str, text: str = "") -> bytes:
    parameters = [str(number)]
    if modifiers or text:
        parameters.append(str(modifiers + 1) if modifiers else "")
    if text:
        parameters.append(str(ord(text)))
    return f"\x1b[{';'.join(parameters)}{final}".encode()


def _other(key: str, character: str | None, keyboard: Keyboard, legacy: bytes) -> bytes:
    """modifyOtherKeys: level 1 for keys that have no sequence of their own, level 2 for every
    modified one; empty: the key stays as it was."""
    modifiers, base = _split(key)
    text = _text_of(base, character)
    if not text or (not modifiers & ~TYPING and base not in PLAIN_KEYS) or not modifiers:
        return b""
    if keyboard.modify_other_keys == 1 and legacy not in (b"", text.encode()):
        return b""
    return f"\x1b[27;{(modifiers & 0b1111) + 1};{ord(text[0])}~".encode()
