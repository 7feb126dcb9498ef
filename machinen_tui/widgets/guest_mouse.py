"""The mouse of a pane as its guest sees it: whether it is the guest's, and what it is told.

A guest that asked for the mouse has it while the pane has the keys, shows what is written now, and
shift is up. A button pressed in the pane stays the guest's until it is released, wherever that is,
or until the guest wants the mouse no more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual import events

from machinen_tui import keys
from machinen_tui.terminal_modes import APPLICATION_CURSOR, SGR_MOUSE

if TYPE_CHECKING:
    from machinen_tui.widgets.terminal_pane import TerminalPane


class GuestMouse:
    """Tells the guest of `pane` what the mouse does."""

    def __init__(self, pane: TerminalPane) -> None:
        self._pane = pane
        self._held: events.MouseEvent | None = None
        """What it was told last of a button that is down."""

    def has(self, event: events.MouseEvent) -> bool:
        """Whether what happens to the mouse is the guest's business."""
        pane = self._pane
        return pane.attached and self._asked and not event.shift and not pane.back

    def down(self, event: events.MouseDown) -> None:
        """A button went down on a pane whose guest has the mouse."""
        if self._tell("down", event):
            self._held = event
            self._pane.capture_mouse()

    def up(self, event: events.MouseUp) -> None:
        """A button went up somewhere."""
        if self._held is not None:
            self._let_go(event)
        elif self.has(event):
            self._tell("up", event)

    def move(self, event: events.MouseMove) -> None:
        """The mouse moved, perhaps out of the pane with a button down."""
        if self._held is not None and not self._asked:
            self._let_go(event)
        elif self._held is not None:
            self._tell("move", event, anywhere=True)
            self._held = event
        elif self.has(event):
            self._tell("move", event)

    def lost(self) -> None:
        """The button is up or the pane is gone, and nobody saw it: the guest shall not wait."""
        if self._held is not None:
            self._let_go(self._held)

    @property
    def _asked(self) -> bool:
        model = self._pane.model
        return model is not None and model.terminal.mouse_mode > 0

    def _let_go(self, event: events.MouseEvent) -> None:
        self._held = None
        self._pane.release_mouse()
        self._tell("up", event, anywhere=True)

    def wheel(self, action: str, event: events.MouseEvent, rows: int) -> bool:
        """`scroll_up` or `scroll_down`. Whether it was the guest's: else the pane scrolls back."""
        pane = self._pane
        model = pane.model
        if self.has(event):
            return self._tell(action, event)
        full_screen = model is not None and model.terminal.alternate
        if model is None or not full_screen or not pane.attached or event.shift:
            return False
        key = "up" if rows > 0 else "down"  # what xterm does for programs without a mouse
        application = model.terminal.has_mode(APPLICATION_CURSOR)
        pane.send_bytes(keys.encode_key(key, None, application_cursor=application) * abs(rows))
        return True

    def _tell(self, action: str, event: events.MouseEvent, *, anywhere: bool = False) -> bool:
        model, cell = self._pane.model, self._cell(event, anywhere)
        if model is None or cell is None:
            return False
        data = keys.encode_mouse(
            action,
            event.button,
            *cell,
            mode=model.terminal.mouse_mode,
            sgr=model.terminal.has_mode(SGR_MOUSE),
            modifiers=[name for name in ("shift", "meta", "ctrl") if getattr(event, name)],
        )
        if data:
            self._pane.send_alone(data)
        return bool(data)

    def _cell(self, event: events.MouseEvent, anywhere: bool) -> tuple[int, int] | None:
        """The cell of the terminal below the mouse; `anywhere`: the nearest one."""
        region = self._pane.content_region
        x, y = int(event.screen_x) - region.x, int(event.screen_y) - region.y
        if anywhere:  # a pane that is hidden has none: its first
            x, y = (max(min(x, region.width - 1), 0), max(min(y, region.height - 1), 0))
            return x, y + self._pane.top
        if not (0 <= x < region.width and 0 <= y < region.height):
            return None
        return x, y + self._pane.top
