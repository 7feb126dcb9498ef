"""What stands before the cursor of a terminal: where a prompt would be."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from machinen_tui.terminal_model import TerminalModel


def line_before_cursor(model: TerminalModel) -> str:
    """The text left of the cursor; empty in full-screen programs and where more follows it."""
    terminal = model.terminal
    if terminal.alternate or terminal.cursor.hidden:
        return ""
    text = model.text(min(terminal.cursor.y, model.lines - 1))
    return text if len(text) <= terminal.cursor.x else ""
