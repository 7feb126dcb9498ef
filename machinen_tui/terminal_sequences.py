"""Which sequence calls which method of a `Terminal`: the tables of `TerminalStream`.

Names are those of DEC's VT510 manual and xterm's ctlseqs.
"""

from __future__ import annotations

MAX_PARAMS = 256
"""Characters of a control sequence's parameters; one with more is swallowed."""
MAX_OSC = 4096
MAX_OSC_52 = 360_000
"""Base64 of the largest clipboard that is taken."""

CONTROLS: dict[str, str] = {
    "\n": "linefeed", "\x0b": "linefeed", "\x0c": "linefeed", "\r": "carriage_return",
    "\r\n": "new_line", "\b": "backspace", "\t": "tab", "\a": "bell", "\x0e": "shift_out",
    "\x0f": "shift_in",
}  # fmt: skip

ESCAPES: dict[str, tuple[str, *tuple[int | bool, ...]]] = {
    "6": ("back_index",), "7": ("save_cursor",), "8": ("restore_cursor",), "9": ("forward_index",),
    "=": ("set_keypad", True), ">": ("set_keypad", False), "D": ("index",), "E": ("next_line",),
    "H": ("set_tab_stop",), "M": ("reverse_index",), "N": ("shift_once", 2),
    "O": ("shift_once", 3), "Z": ("report_device_attributes",), "c": ("reset",),
    "n": ("lock_shift", 2), "o": ("lock_shift", 3), "#8": ("alignment_display",),
}  # fmt: skip
"""Intermediates and final of `ESC …` → method, arguments."""

CSI: dict[str, tuple[str, int] | tuple[str, int, bool]] = {
    "@": ("insert_characters", 1), "A": ("cursor_up", 1), "B": ("cursor_down", 1),
    "C": ("cursor_forward", 1), "D": ("cursor_back", 1), "E": ("cursor_down1", 1),
    "F": ("cursor_up1", 1), "G": ("cursor_to_column", 1), "H": ("cursor_position", 2),
    "I": ("tab_forward", 1), "J": ("erase_in_display", 1), "K": ("erase_in_line", 1),
    "L": ("insert_lines", 1), "M": ("delete_lines", 1), "P": ("delete_characters", 1),
    "S": ("scroll_up", 1), "T": ("scroll_down", 1), "X": ("erase_characters", 1),
    "Z": ("tab_backward", 1), "`": ("cursor_to_column", 1), "a": ("cursor_forward", 1),
    "b": ("repeat", 1), "c": ("report_device_attributes", 1), "d": ("cursor_to_line", 1),
    "e": ("cursor_down", 1), "f": ("cursor_position", 2), "g": ("clear_tab_stop", 1),
    "h": ("set_mode", 32), "l": ("reset_mode", 32), "n": ("report_device_status", 1),
    "r": ("set_margins", 2), "s": ("margins_or_save", 2), "t": ("report_window", 2),
    "u": ("restore_cursor", 0), "x": ("report_parameters", 1),
    " @": ("scroll_left", 1), " A": ("scroll_right", 1), " q": ("set_cursor_shape", 1),
    "!p": ("soft_reset", 0), '"q': ("set_protection", 1), "$p": ("report_ansi_mode", 1),
    "'}": ("insert_column_here", 1), "'~": ("delete_column_here", 1),
    "*y": ("report_checksum", 6),
    "=c": ("report_tertiary_attributes", 1), "=u": ("set_keyboard", 2),
    ">c": ("report_secondary_attributes", 1), ">m": ("set_modify", 2), ">q": ("report_version", 1),
    ">u": ("push_keyboard", 1), "<u": ("pop_keyboard", 1), "?u": ("report_keyboard", 0),
    "?$p": ("report_mode", 1), "?J": ("selective_erase_in_display", 1),
    "?K": ("selective_erase_in_line", 1), "?h": ("set_mode", 32, True),
    "?l": ("reset_mode", 32, True), "?m": ("report_modify", 1), "?n": ("report_private_status", 2),
    "?r": ("bring_back_modes", 32), "?s": ("keep_modes", 32),
}  # fmt: skip
"""Prefix, intermediates and final of `CSI …` → method, how many arguments it takes, whether they
are private modes."""
