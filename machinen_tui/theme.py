"""The looks: one dark theme with one accent, a colour and a glyph per state, and the 16 colours
terminals may use."""

from __future__ import annotations

from textual.theme import Theme

MACHINEN = Theme(
    name="machinen",
    primary="#7aa2f7",
    secondary="#565f89",
    accent="#7aa2f7",
    foreground="#c8ccd8",
    background="#11131a",
    surface="#161922",
    panel="#1d212c",
    success="#8fbf7f",
    warning="#e0af68",
    error="#f7768e",
    dark=True,
    variables={
        "muted": "#7d849b",
        "line": "#2b3040",
        "chosen": "#283457",
        "footer-background": "#161922",
        "block-cursor-background": "#283457",
        "input-selection-background": "#283457",
    },
)

DARK_DEFAULTS = {"muted": "#7d849b", "line": "#2b3040", "chosen": "#283457"}
LIGHT_DEFAULTS = {"muted": "#656c80", "line": "#b4bac8", "chosen": "#c9d6f2"}
"""Our own CSS variables, for themes that do not know them."""

STATE_COLORS = {
    "connecting": "#7d849b",
    "booting": "#e0af68",
    "restoring": "#e0af68",
    "running": "#8fbf7f",
    "paused": "#7dcfff",
    "snapshotting": "#bb9af7",
    "stopping": "#e0af68",
    "exited": "#5c6378",
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
}
SNAPSHOT_GLYPH = "◆"
SNAPSHOT_COLOR = "#bb9af7"

ANSI_COLORS = {
    "black": "#1d212c",
    "red": "#f7768e",
    "green": "#8fbf7f",
    "brown": "#e0af68",
    "blue": "#7aa2f7",
    "magenta": "#bb9af7",
    "cyan": "#7dcfff",
    "white": "#c8ccd8",
    "brightblack": "#5c6378",
    "brightred": "#ff8fa3",
    "brightgreen": "#a8d698",
    "brightbrown": "#f0c987",
    "brightblue": "#9ab8ff",
    "brightmagenta": "#d0b5ff",
    "brightcyan": "#a4dfff",
    "brightwhite": "#f0f2f8",
}
"""pyte's names (its "brown" is yellow)."""
LIGHT_ANSI_COLORS = {
    "black": "#2b3040",
    "red": "#b3261e",
    "green": "#3a7d34",
    "brown": "#8a6100",
    "blue": "#2456b8",
    "magenta": "#7a3fb0",
    "cyan": "#0f6f8c",
    "white": "#d5d9e2",
    "brightblack": "#767d92",
    "brightred": "#d13b32",
    "brightgreen": "#4c9644",
    "brightbrown": "#a67a12",
    "brightblue": "#3a6fd8",
    "brightmagenta": "#9457cc",
    "brightcyan": "#1d87a8",
    "brightwhite": "#f4f6fa",
}
"""The same on a light background."""

SPARK_BLOCKS = " ▁▂▃▄▅▆▇█"


def ansi_colors(background: str) -> dict[str, str]:
    """The 16 colours that can be read on `background` (`#rrggbb`)."""
    red, green, blue = (int(background[at : at + 2], 16) for at in (1, 3, 5))
    bright = 0.299 * red + 0.587 * green + 0.114 * blue > 140  # ITU-R BT.601
    return LIGHT_ANSI_COLORS if bright else ANSI_COLORS


def state_color(state: str) -> str:
    """The colour of a state, also of `exited 3`."""
    return STATE_COLORS.get(state.split()[0], "#c8ccd8")


def state_glyph(state: str) -> str:
    """One cell that stands for a state."""
    return STATE_GLYPHS.get(state.split()[0], "?")


def spark(values: list[float], width: int, top: float | None = None) -> str:
    """The last `width` values as eighth blocks; `top` is full height (default: the largest)."""
    shown = values[-width:]
    highest = max(top if top is not None else max(shown, default=0.0), 1e-9)
    steps = [min(max(round(value / highest * 8), 0), 8) for value in shown]
    return "".join(SPARK_BLOCKS[max(step, 1)] for step in steps).rjust(width)
