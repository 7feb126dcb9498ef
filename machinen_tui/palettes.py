"""Colours by the name of what they stand for: states, and the 16 a terminal has, on each kind of
background. Text on a background keeps WCAG 2.2's contrast: 4.5, in the high-contrast look 7."""

from __future__ import annotations

from textual.theme import Theme

STATES = ("connecting", "booting", "restoring", "running", "paused", "snapshotting", "stopping",
          "exited", "disk-full")  # fmt: skip
ANSI_NAMES: tuple[str, ...] = (
    "black", "red", "green", "brown", "blue", "magenta", "cyan", "white",
    "brightblack", "brightred", "brightgreen", "brightbrown", "brightblue", "brightmagenta",
    "brightcyan", "brightwhite",
)  # fmt: skip
"""pyte's names (its "brown" is yellow)."""


def _states(quiet: str, coming: str, running: str, paused: str, saving: str) -> dict[str, str]:
    stuck = coming  # the colour of what needs care
    colors = (quiet, coming, coming, running, paused, saving, coming, quiet, stuck)
    return dict(zip(STATES, colors, strict=True))


DARK_STATES = _states("#7d849b", "#e0af68", "#8fbf7f", "#7dcfff", "#bb9af7")
LIGHT_STATES = _states("#656c80", "#8a4b00", "#2f6b2a", "#0b5a73", "#7a3fb0")
HIGH_STATES = _states("#e0e0e0", "#ffc34d", "#5cff5c", "#7df9ff", "#ff8cff")
ANSI_STATES = _states("bright_black", "yellow", "green", "cyan", "magenta")

ANSI_COLORS: dict[str, str] = dict(
    zip(ANSI_NAMES, (
        "#1d212c", "#f7768e", "#8fbf7f", "#e0af68", "#7aa2f7", "#bb9af7", "#7dcfff", "#c8ccd8",
        "#5c6378", "#ff8fa3", "#a8d698", "#f0c987", "#9ab8ff", "#d0b5ff", "#a4dfff", "#f0f2f8",
    ), strict=True)
)  # fmt: skip
"""On a dark background."""
LIGHT_ANSI_COLORS: dict[str, str] = dict(
    zip(ANSI_NAMES, (
        "#2b3040", "#b3261e", "#3a7d34", "#8a6100", "#2456b8", "#7a3fb0", "#0f6f8c", "#d5d9e2",
        "#767d92", "#d13b32", "#4c9644", "#a67a12", "#3a6fd8", "#9457cc", "#1d87a8", "#f4f6fa",
    ), strict=True)
)  # fmt: skip
"""On a light one."""
OWN_ANSI_COLORS = {
    name: name.replace("bright", "bright_").replace("brown", "yellow") for name in ANSI_NAMES
}
"""As Rich calls those the user's own terminal has."""


def machinen_theme(
    name: str,
    accent: str,
    foreground: str,
    background: str,
    raised: tuple[str, str],
    verdicts: tuple[str, str, str],
    secondary: str,
    own: dict[str, str],
    dark: bool = True,
) -> Theme:
    """A theme of ours: `raised` are surface and panel, `verdicts` good, careful and bad."""
    variables = {
        **own,
        "footer-background": raised[0],
        "block-cursor-background": own["chosen"],
        "input-selection-background": own["chosen"],
    }
    return Theme(
        name=name, primary=accent, accent=accent, secondary=secondary, foreground=foreground,
        background=background, surface=raised[0], panel=raised[1], success=verdicts[0],
        warning=verdicts[1], error=verdicts[2], dark=dark, variables=variables,
    )  # fmt: skip
