"""What stands in the frame of a pane: name, title, and what one should know about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machinen_tui import theme
from machinen_tui.clipboard import counted
from machinen_tui.figures import clip, count

if TYPE_CHECKING:
    from machinen_tui.widgets.terminal_pane import TerminalPane


def frame_texts(pane: TerminalPane) -> tuple[str, str]:
    """The upper and the lower border's text, as markup."""
    return _escaped(_title(pane)), _escaped(_subtitle(pane))


def _title(pane: TerminalPane) -> str:
    view, width = pane.view, max(pane.size.width, 8)
    title = view.own_title or (pane.model.terminal.title if pane.model else "")
    room = width - len(view.name) - 6
    shown = f" · {clip(title, room - 3)}" if title and title != view.name and room > 8 else ""
    mark = f"{theme.mark_glyph()} " if view.marked else ""
    mark += "[read-only] " if view.read_only else "[locked] " if view.locked else ""
    return f"{mark}{clip(view.name, width - 4)}{shown}"


def _subtitle(pane: TerminalPane) -> str:
    view = pane.view
    if pane.marks.copy is not None:
        return f"copy mode · ↑ {pane.back}" if pane.back > 0 else "copy mode"
    if pane.back:
        return f"↑ {count(pane.back, 'row')} back"
    if view.gone:
        return f"{view.shown_state} · x dismisses"
    if view.clipboard_offer:
        return f"wants to copy {counted(view.clipboard_offer)}"
    session = view.session
    if session is not None and session.others_size is not None:
        columns, lines = session.others_size
        return f"{columns} x {lines} by another client"
    if session is not None and session.tap is not None:
        return "recording"
    return _state(pane)


def _state(pane: TerminalPane) -> str:
    """Its state if it does not run, else how its shell's last command ended, if badly."""
    if pane.view.state != "running":
        return pane.view.state
    status = pane.model.terminal.exit_status if pane.model is not None else None
    return f"exit {status}" if status else ""


def _escaped(text: str) -> str:
    """Titles come from guests; none of it may be taken for markup."""
    return text.replace("[", "\\[")
