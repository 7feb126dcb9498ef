"""Numbers of modes: those the terminal keeps, and what it answers when asked for one (DECRQM).

Private modes are xterm's (ctlseqs, "DECSET"), kept as pyte keeps them: shifted by five bits.
"""

from __future__ import annotations

APPLICATION_CURSOR, REVERSE_SCREEN, FOCUS_EVENTS, BRACKETED_PASTE, SYNCHRONIZED = (
    1,
    5,
    1004,
    2004,
    2026,
)
SIDE_MARGINS = 69
"""DECLRMM: `CSI … s` sets left and right margins."""
MOUSE_MODES = (9, 1000, 1002, 1003)
"""X10 presses, presses and releases, also drags, also every motion."""
SGR_MOUSE = 1006
ALTERNATE_SCREENS = (47, 1047, 1049)
SAVED_CURSOR = 1048
COLUMNS_132, MAY_SWITCH_COLUMNS = 3, 40
CLUSTERS = 2027
"""Grapheme clusters are always on, as in the proposal's "permanently set"."""

SETTABLE = frozenset(
    {1, 5, 6, 7, 12, 25, 40, 45, 66, 69, 1004, 1006, 1007, 1048, 2004, 2026,
     *MOUSE_MODES, *ALTERNATE_SCREENS}
)  # fmt: skip
PERMANENTLY_SET = frozenset({8, CLUSTERS})
PERMANENTLY_RESET = frozenset({3, 4, 1001, 1005, 1015, 1016, 2031, 2048})
"""Known and never on: column switching, smooth scrolling, highlight tracking, older or pixel mouse
encodings, colour and size notifications."""

INSERT, NEW_LINE = 4, 20
ANSI_SETTABLE = frozenset({INSERT, NEW_LINE})
ANSI_PERMANENTLY_RESET = frozenset({1, 2, 3, 5, 7, 10, 11, 13, 14, 15, 16, 17, 18, 19})
"""ECMA-48's others, which no terminal of today lets be set."""


def mode_state(number: int, *, private: bool, on: bool) -> int:
    """DECRPM's answer: 0 unknown, 1 set, 2 reset, 3 permanently set, 4 permanently reset."""
    settable = SETTABLE if private else ANSI_SETTABLE
    if number in settable:
        return 1 if on else 2
    if private and number in PERMANENTLY_SET:
        return 3
    return 4 if number in (PERMANENTLY_RESET if private else ANSI_PERMANENTLY_RESET) else 0
