"""The looks: four themes with one accent each, a colour and a glyph per state, and the 16 colours
terminals may use.

One look is in force in a process: `use` chooses it, `look` is it. What is drawn is drawn from it,
so that a switch shows at the next repaint.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from textual.theme import BUILTIN_THEMES, Theme

from machinen_tui.palettes import (
    ANSI_COLORS,
    ANSI_STATES,
    DARK_STATES,
    HIGH_STATES,
    LIGHT_ANSI_COLORS,
    LIGHT_STATES,
    OWN_ANSI_COLORS,
    machinen_theme,
)

DARK_DEFAULTS = {"muted": "#7d849b", "line": "#2b3040", "chosen": "#283457",
                 "chosen-line": "#506aa6", "on-chosen": "#c8ccd8", "on-bright": "#11131a",
                 "on-mode": "#f0f2f8"}  # fmt: skip
LIGHT_DEFAULTS = {"muted": "#656c80", "line": "#b4bac8", "chosen": "#c9d6f2",
                  "chosen-line": "#7a98d6", "on-chosen": "#1f2430", "on-bright": "#fafbfd",
                  "on-mode": "#1f2430"}  # fmt: skip
"""Our own CSS variables, for themes that do not know them: quiet text, frames, what is chosen and
its frame, and the text on it, on an accent or a verdict, on the sign of a mode."""
ANSI_DEFAULTS = BUILTIN_THEMES["ansi-dark"].variables
"""Textual's own, which its styles want as soon as colours are the terminal's."""

MACHINEN = machinen_theme("machinen", "#7aa2f7", "#c8ccd8", "#11131a", ("#161922", "#1d212c"),
                          ("#8fbf7f", "#e0af68", "#f7768e"), "#565f89", DARK_DEFAULTS)  # fmt: skip
LIGHT = machinen_theme("machinen-light", "#2456b8", "#1f2430", "#fafbfd", ("#eef1f6", "#e3e7ef"),
                       ("#2f6b2a", "#8a4b00", "#b3261e"), "#c3cbe0", LIGHT_DEFAULTS,
                       dark=False)  # fmt: skip
HIGH_CONTRAST = machinen_theme(
    "machinen-high-contrast", "#ffff00", "#ffffff", "#000000", ("#000000", "#1c1c1c"),
    ("#5cff5c", "#ffc34d", "#ff9d9d"), "#00458b",
    {"muted": "#e0e0e0", "line": "#ffffff", "chosen": "#00458b", "chosen-line": "#ffff00",
     "on-chosen": "#ffffff", "on-bright": "#000000", "on-mode": "#ffffff"},
)  # fmt: skip
ANSI = replace(
    machinen_theme(
        "machinen-ansi", "ansi_blue", "ansi_default", "ansi_default",
        ("ansi_default", "ansi_default"), ("ansi_green", "ansi_yellow", "ansi_red"), "ansi_cyan",
        {"muted": "ansi_bright_black", "line": "ansi_bright_black", "chosen": "ansi_blue",
         "chosen-line": "ansi_blue", "on-chosen": "ansi_bright_white",
         "on-bright": "ansi_bright_white", "on-mode": "ansi_black"},
    ),
    ansi=True,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Look:
    """Everything that is drawn by hand rather than styled."""

    theme: Theme
    states: dict[str, str]
    private: str
    shared: str
    balloon: str
    snapshot: str


DARK_LOOK = Look(MACHINEN, DARK_STATES, "#6385cc", "#36497a", "#e0af68", "#bb9af7")
LOOKS = {
    "dark": DARK_LOOK,
    "light": Look(LIGHT, LIGHT_STATES, "#4a74cf", "#a9bce6", "#8a6100", "#7a3fb0"),
    "ansi": Look(ANSI, ANSI_STATES, "blue", "cyan", "yellow", "magenta"),
    "high-contrast": Look(HIGH_CONTRAST, HIGH_STATES, "#6db3ff", "#00458b", "#ffc34d", "#ff8cff"),
}
"""By the names `tui.toml` has for them."""
THEMES = {look.theme.name: look.theme for look in LOOKS.values()}
"""By the names the application has for them."""


@dataclass(slots=True)
class _InForce:
    look: Look = DARK_LOOK
    plain: bool = False


_now = _InForce()

PLAIN_GLYPHS = {
    "connecting": "c",
    "booting": "b",
    "restoring": "r",
    "running": "R",
    "paused": "P",
    "snapshotting": "S",
    "stopping": "s",
    "exited": "x",
    "disk-full": "F",
}
STATE_GLYPHS = {
    "connecting": "◌",
    "booting": "◌",
    "restoring": "◌",
    "running": "●",
    "paused": "‖",
    "snapshotting": "◉",
    "stopping": "◌",
    "exited": "○",
    "disk-full": "▲",
}
SPARK_BLOCKS = " ▁▂▃▄▅▆▇█"


def use(name: str, *, plain: bool = False) -> None:
    """Draw with the look of that name from now on; `plain` without blocks, frames and signs."""
    _now.look, _now.plain = LOOKS[name], plain


def look() -> Look:
    """The look in force."""
    return _now.look


def is_plain() -> bool:
    """Whether letters and words stand for signs: screen readers speak them."""
    return _now.plain


def ansi_colors(background: str) -> dict[str, str]:
    """The 16 colours that can be read on `background` (`#rrggbb`; `default`: the terminal's)."""
    if background == "default":
        return OWN_ANSI_COLORS
    red, green, blue = (int(background[at : at + 2], 16) for at in (1, 3, 5))
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140  # ITU-R BT.601
    return LIGHT_ANSI_COLORS if bright else ANSI_COLORS


def state_color(state: str) -> str:
    """The colour of a state, also of `exited 3`."""
    return _now.look.states.get(state.split()[0], "default")


def state_glyph(state: str) -> str:
    """One cell that stands for a state."""
    return (PLAIN_GLYPHS if _now.plain else STATE_GLYPHS).get(state.split()[0], "?")


def snapshot_glyph() -> str:
    """One cell that stands for a snapshot."""
    return "=" if _now.plain else "◆"


def mark_glyph() -> str:
    """One cell before the name of what is marked."""
    return "*" if _now.plain else "▪"


def branches(text: str) -> str:
    """The branches of a tree, as blanks if nothing may be drawn."""
    return text.translate(_BLANKS) if _now.plain else text


_BLANKS = str.maketrans("│├└", "   ")


def spark(values: list[float], width: int, top: float | None = None) -> str:
    """The last `width` values as eighth blocks; `top` is full height (default: the largest)."""
    if _now.plain:
        return " " * width
    shown = values[-width:]
    highest = max(top if top is not None else max(shown, default=0.0), 1e-9)
    steps = [min(max(round(value / highest * 8), 0), 8) for value in shown]
    return "".join(SPARK_BLOCKS[max(step, 1)] for step in steps).rjust(width)
