"""The colours a terminal tells of itself (OSC 4, 10, 11, 12), and how X11 spells a colour.

A colour is six hexadecimal digits. Sources: XParseColor(3), xterm's ctlseqs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyte.graphics as graphics

PALETTE_16 = (
    "000000", "cd0000", "00cd00", "cdcd00", "0000ee", "cd00cd", "00cdcd", "e5e5e5",
    "7f7f7f", "ff0000", "00ff00", "ffff00", "5c5cff", "ff00ff", "00ffff", "ffffff",
)  # fmt: skip
COLOR = re.compile(r"rgb:([0-9a-fA-F]{1,4})/([0-9a-fA-F]{1,4})/([0-9a-fA-F]{1,4})")
HEX = re.compile(r"#[0-9a-fA-F]{6}")


@dataclass(frozen=True, slots=True)
class TerminalColors:
    """What a terminal is drawn with while its guest has set nothing else."""

    foreground: str = "d7dae0"
    background: str = "101318"
    palette: tuple[str, ...] = PALETTE_16
    """The first sixteen; the rest is xterm's cube and greys."""

    def dynamic(self, number: int) -> str:
        """Of OSC 10 (text), 11 (background) and 12 (cursor)."""
        return self.background if number == 11 else self.foreground

    def indexed(self, index: int) -> str:
        """Of the palette, 0 to 255."""
        return self.palette[index] if index < 16 else graphics.FG_BG_256[index]


def spelled(color: str) -> str:
    """`d7dae0` → `rgb:d7d7/dada/e0e0`."""
    return "rgb:" + "/".join(color[i : i + 2] * 2 for i in (0, 2, 4))


def parsed(text: str) -> str | None:
    """A colour as X11 spells it, `rgb:…` or `#rrggbb`; None for anything else."""
    if HEX.fullmatch(text):
        return text[1:].lower()
    if found := COLOR.fullmatch(text):
        return "".join(
            f"{int(part, 16) * 255 // (16 ** len(part) - 1):02x}" for part in found.groups()
        )
    return None
