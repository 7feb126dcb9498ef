"""Select Graphic Rendition: parameters → what they change, and a style → its parameters.

Sources: ECMA-48 8.3.117; ISO 8613-6 for colours with colons (`38:2::r:g:b`); xterm's ctlseqs; for
underlines (`4:3`, `58:…`) kitty's "Colored and styled underlines"; 53 and 55 are overline.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import pyte.graphics as graphics

if TYPE_CHECKING:
    from machinen_tui.terminal_cells import Style

Change = tuple[str, str | bool | int]
"""Which field of `Style` takes which value."""

NAMES_16 = [
    name.replace("bfight", "bright")
    for name in [*[*graphics.FG_ANSI.values()][:8], *graphics.FG_AIXTERM.values()]
]
"""The first 16 colours of the palette by name, so that a theme may choose them."""
_INDEX_OF_NAME = {name: index for index, name in enumerate(NAMES_16)}

_FLAGS: dict[int, tuple[Change, ...]] = {
    1: (("bold", True),), 2: (("dim", True),), 3: (("italics", True),), 4: (("underline", 1),),
    5: (("blink", True),), 6: (("blink", True),), 7: (("reverse", True),),
    8: (("conceal", True),), 9: (("strikethrough", True),), 21: (("underline", 2),),
    22: (("bold", False), ("dim", False)), 23: (("italics", False),), 24: (("underline", 0),),
    25: (("blink", False),), 27: (("reverse", False),), 28: (("conceal", False),),
    29: (("strikethrough", False),), 39: (("fg", "default"),), 49: (("bg", "default"),),
    53: (("overline", True),), 55: (("overline", False),), 59: (("underline_color", "default"),),
}  # fmt: skip
_COLORED = {38: "fg", 48: "bg", 58: "underline_color"}
_SAID = {
    "bold": "1", "dim": "2", "italics": "3", "blink": "5", "reverse": "7", "conceal": "8",
    "strikethrough": "9", "overline": "53",
}  # fmt: skip


def sgr_changes(params: str) -> tuple[bool, tuple[Change, ...]]:
    """Whether `params` resets first, and the changes that follow the last reset."""
    reset, changes = False, list[Change]()
    groups = params.split(";")
    index = 0
    while index < len(groups):
        head, _, sub = groups[index].partition(":")
        code = number(head)
        index += 1
        if code == 0:
            reset = True
            changes.clear()
        elif code in _COLORED:
            color, used = _color(sub.split(":")) if sub else _color_of_groups(groups[index:])
            index += used
            if color is not None:
                changes.append((_COLORED[code], color))
        elif code == 4 and sub:
            changes.append(("underline", min(number(sub.partition(":")[0]), 5)))
        else:
            changes.extend(_FLAGS.get(code) or _sixteen(code))
    return reset, tuple(changes)


def _sixteen(code: int) -> tuple[Change, ...]:
    """30 to 37, 40 to 47 and the bright 90 to 97, 100 to 107."""
    for first, field, offset in ((30, "fg", 0), (40, "bg", 0), (90, "fg", 8), (100, "bg", 8)):
        if first <= code < first + 8:
            return ((field, NAMES_16[code - first + offset]),)
    return ()


def _color_of_groups(groups: list[str]) -> tuple[str | None, int]:
    """A colour in the semicolon form `5;n` or `2;r;g;b`, and how many groups it took."""
    if groups[:1] == ["5"]:
        return _palette(groups[1]) if len(groups) > 1 else None, 2
    if groups[:1] == ["2"]:
        return _rgb(groups[1:4]), 4
    return None, 1


def _color(sub: list[str]) -> tuple[str | None, int]:
    """A colour in the colon form: `5:n`, `2:r:g:b` or `2:colourspace:r:g:b[:…]`."""
    if sub[0] == "5":
        return _palette(sub[1]) if len(sub) > 1 else None, 0
    if sub[0] == "2":
        return _rgb(sub[1:4] if len(sub) == 4 else sub[2:5]), 0
    return None, 0


def _palette(text: str) -> str | None:
    index = number(text)
    if index < 16:
        return NAMES_16[index]
    return graphics.FG_BG_256[index] if index < 256 else None


def _rgb(parts: list[str]) -> str | None:
    values = [number(part) for part in parts]
    if len(values) != 3 or max(values) > 255:
        return None
    return "{:02x}{:02x}{:02x}".format(*values)


def number(text: str) -> int:
    """A parameter, clamped to what any sequence can mean; an empty one is 0."""
    digits = text.lstrip("0")[:6]
    return min(int(digits), 9999) if digits.isdecimal() else 0


@lru_cache(maxsize=4096)
def sgr_params(style: Style) -> str:
    """The parameters that bring about `style` from any other, as DECRQSS reports them."""
    parts = ["0", *(code for field, code in _SAID.items() if getattr(style, field))]
    if style.underline:
        parts.append("4" if style.underline == 1 else f"4:{style.underline}")
    for code, field in _COLORED.items():
        parts.extend(_color_params(code, getattr(style, field)))
    return ";".join(parts)


def _color_params(code: int, color: str) -> list[str]:
    if color == "default":
        return []
    if (index := _INDEX_OF_NAME.get(color)) is None:
        red, green, blue = bytes.fromhex(color)
        return [f"{code}:2::{red}:{green}:{blue}"]
    if code == 58:
        return [f"58:5:{index}"]
    base = code - 8 if index < 8 else code + 44  # the bright ones have 90 to 97, 100 to 107
    return [str(base + index)]
