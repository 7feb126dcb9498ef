"""One sandbox's terminal on screen: draws the rows that changed, turns keys and the mouse into
bytes while attached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region
from textual.strip import Strip
from textual.timer import Timer
from textual.widget import Widget

from machinen_tui import keys, theme
from machinen_tui.copy_mode import CopyMode
from machinen_tui.figures import clip
from machinen_tui.keys_kitty import encode_for
from machinen_tui.messages import PaneClicked, TextTaken
from machinen_tui.pane_marks import PaneMarks
from machinen_tui.pane_paint import color_names, restyled, rich_style, with_cursor
from machinen_tui.pane_text import PaneText
from machinen_tui.roster import SandboxView
from machinen_tui.selection import Selection
from machinen_tui.terminal_model import TerminalModel, runs_of
from machinen_tui.terminal_modes import (
    APPLICATION_CURSOR,
    BRACKETED_PASTE,
    FOCUS_EVENTS,
    SGR_MOUSE,
    SYNCHRONIZED,
)
from machinen_tui.terminal_text import safe_to_draw
from machinen_tui.widgets.pane_mouse import MouseSelection

SYNCHRONIZED_LIMIT_S = 0.15
"""A guest that began an update and does not end it is shown anyway."""
WHEEL_ROWS = 3


class TerminalPane(Widget, can_focus=True):
    """Shows `view`'s terminal. `attached` panes take every key; the application sets it."""

    ALLOW_SELECT = False
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "pane--selection",
        "pane--match",
        "pane--cursor",
    }

    def __init__(
        self,
        view: SandboxView,
        on_input: Callable[[SandboxView, bytes], None],
        paint_rows: Callable[[Widget, Mapping[int, Strip]], bool] = lambda pane, rows: False,
    ) -> None:
        """`paint_rows` draws rows of a pane without delay, if it can (`RowPainter.add`)."""
        super().__init__(id=f"pane-{view.key}", classes="pane")
        self.view = view
        self.attached = False
        self.back = 0
        """Rows scrolled into the past."""
        self._on_input = on_input
        self._paint_rows = paint_rows
        self._strips: dict[int, Strip] = {}
        self._escape_timer: Timer | None = None
        self._escapes = 0
        self._framed_size = (0, 0)
        self._hold_timer: Timer | None = None
        self._place = (0, 0)
        """While scrolled back: the line at the top, and which row of it."""
        self._top = 0
        self.marks = PaneMarks()
        self._mouse = MouseSelection(self)

    # -- drawing ----------------------------------------------------------------------------------

    @property
    def model(self) -> TerminalModel | None:
        return self.view.session.model if self.view.session else None

    def show_changes(self) -> None:
        """Repaint the rows that changed since the last call; called after the terminal was fed."""
        model = self.model
        if model is None:
            return
        if model.terminal.has_mode(SYNCHRONIZED):
            if self._hold_timer is None:
                self._hold_timer = self.set_timer(SYNCHRONIZED_LIMIT_S, self._show_held)
            return
        self._drop_hold_timer()
        self._show_now(model)

    def _show_held(self) -> None:
        self._hold_timer = None
        if self.model is not None:
            self._show_now(self.model)

    def _show_now(self, model: TerminalModel) -> None:
        dirty = model.take_dirty()
        if (model.columns, model.lines) != self._framed_size:
            self._framed_size = (model.columns, model.lines)
            self.update_frame()
        top = self._top_row(model)
        if self.marks:
            self._follow_copy_mode()
            self._top, dirty = top, set(range(self.size.height))
        elif self.back or top != self._top:
            self._follow_history(model)
            self._top, dirty = top, set(range(self.size.height))
        elif top:
            dirty = {y - top for y in dirty if y >= top}
        self._repaint_rows(sorted(y for y in dirty if y < self.size.height))

    def _repaint_rows(self, rows: list[int]) -> None:
        """Draw those of `rows` anew that look different now: at once where nothing is above."""
        width, base = self.size.width, self.rich_style
        changed: dict[int, Strip] = {}
        for y in rows:
            before, after = self._strips.get(y), self._make_strip(y, width, base)
            if after != before:
                self._strips[y] = changed[y] = after
        if changed and not self._paint_rows(self, changed):
            self.refresh(*(Region(0, y, width, 1) for y in changed))

    def _top_row(self, model: TerminalModel) -> int:
        """The first row shown: another client may have made the terminal taller than this pane."""
        surplus = model.lines - self.size.height
        return min(max(model.terminal.cursor.y - self.size.height + 1, 0), max(surplus, 0))

    def _follow_history(self, model: TerminalModel) -> None:
        """Keep the same text in view while new rows arrive below or widths change."""
        if self.back:
            self.back = model.scrollback.back_of(self._place)

    def repaint(self) -> None:
        """Draw everything anew."""
        self._strips.clear()
        self.refresh()

    def render_line(self, y: int) -> Strip:
        strip = self._strips.get(y)
        if strip is None or strip.cell_length != self.size.width:
            strip = self._strips[y] = self._make_strip(y, self.size.width, self.rich_style)
        return strip

    def _make_strip(self, y: int, width: int, base: Style) -> Strip:
        model, y = self.model, y + self._top
        if model is None or y >= model.lines:
            return Strip.blank(width, base)
        cells = model.cells(y, self.back)
        if self._shows_cursor(model) and y == model.terminal.cursor.y:
            cells = with_cursor(cells, model.terminal.column(), self.attached)
        foreground, background = color_names(base)
        segments = [
            Segment(safe_to_draw(text), rich_style(style, foreground, background))
            for text, style in runs_of(cells)
        ]
        strip = Strip(segments).adjust_cell_length(width, base)
        return self._marked(strip, y - self.back, model) if self.marks else strip

    def _marked(self, strip: Strip, row: int, model: TerminalModel) -> Strip:
        """`strip` with the selection, matches and copy mode's cursor."""
        for mark in self.marks.of_row(PaneText(model), row, self.size.width):
            style = self.get_component_rich_style(f"pane--{mark.what}", partial=True)
            parts = strip.divide([mark.start, mark.end, self.size.width])
            parts = [*parts[:1], Strip(restyled(parts[1], style)), *parts[2:]]
            strip = Strip.join(parts)
        return strip

    def _shows_cursor(self, model: TerminalModel) -> bool:
        hidden = model.terminal.cursor.hidden or self.marks.copy is not None
        return not (hidden or self.back or self.view.gone)

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._strips.clear()

    # -- frame ------------------------------------------------------------------------------------

    def update_frame(self) -> None:
        """Name, title and state in the border."""
        view, width = self.view, max(self.size.width, 8)
        title = view.own_title or (self.model.terminal.title if self.model else "")
        room = width - len(view.name) - 6
        shown_title = (
            f" · {clip(title, room - 3)}" if title and title != view.name and room > 8 else ""
        )
        mark = f"{theme.mark_glyph()} " if view.marked else ""
        mark += "[read-only] " if view.read_only else "[locked] " if view.locked else ""
        self.border_title = _escaped(f"{mark}{clip(view.name, width - 4)}{shown_title}")
        self.border_subtitle = _escaped(self._subtitle())

    def _subtitle(self) -> str:
        if self.marks.copy is not None:
            return f"copy mode · ↑ {self.back}" if self.back > 0 else "copy mode"
        if self.back:
            return f"↑ {self.back} rows back"
        if self.view.gone:
            return f"{self.view.shown_state} · x dismisses"
        session = self.view.session
        if session is not None and session.others_size is not None:
            columns, lines = session.others_size
            return f"{columns} x {lines} by another client"
        if session is not None and session.tap is not None:
            return "recording"
        return "" if self.view.state == "running" else self.view.state

    def on_resize(self) -> None:
        self._strips.clear()
        if self.view.session is not None and self.size.width and self.size.height:
            self.view.session.want_size(self.size.width, self.size.height)
        if self.model is not None:
            self._top = self._top_row(self.model)
        self.update_frame()

    # -- scrolling --------------------------------------------------------------------------------

    def scroll_back(self, rows: int) -> None:
        """Move `rows` into the past (negative: towards now)."""
        model = self.model
        if model is None:
            return
        wanted = max(self.back + rows, 0)
        self.back = min(wanted, model.scrollback.rows_since(0, at_most=wanted))
        self._place = model.scrollback.locate(self.back)
        self.repaint()
        self.update_frame()

    def row_at(self, y: int) -> int:
        """Which row of the terminal is shown at `y`: 0 is the top one of its screen."""
        return y + self._top - self.back

    def show_copy_mode(self, mode: CopyMode | None) -> None:
        """Show what copy mode is at; None: back to what is written now."""
        if mode is None:
            self.marks.copy = None
            self.back = 0
        else:
            self.marks = PaneMarks(copy=mode)
            mode.height = max(self.size.height, 1)
            self.back = self._top - mode.top
        self.repaint()
        self.update_frame()

    def select_text(self, selection: Selection | None) -> None:
        """Show what the mouse has selected."""
        if selection != self.marks.selected:
            self.marks.selected = selection
            self.repaint()

    def _follow_copy_mode(self) -> None:
        """Keep the same text in view while more arrives."""
        if (mode := self.marks.copy) is not None:
            mode.follow()
            self.back = self._top - mode.top
        elif self.model is not None:
            self._follow_history(self.model)

    # -- attached: keys ---------------------------------------------------------------------------

    def set_attached(self, attached: bool) -> None:
        """Give the keys to the guest, or take them back."""
        self._flush_escape()
        self.attached = attached
        self.set_class(attached, "-attached")
        if attached and self.view.session is not None:
            self.view.session.reclaim_size()
        if self.model is not None and self.model.terminal.has_mode(FOCUS_EVENTS):
            self._send_alone(b"\x1b[I" if attached else b"\x1b[O")
        self.repaint()

    def take_key(self, event: events.Key) -> bool:
        """A key for the guest. False: it was the escape key for the second time."""
        if event.key == keys.ESCAPE_KEY:
            return self._escape_pressed()
        self._flush_escape()
        if event.key in ("shift+pageup", "shift+pagedown") and not self._takes_all():
            self.scroll_back(self.size.height // 2 * (1 if event.key == "shift+pageup" else -1))
            return True
        if data := self.encoded(event):
            self.select_text(None)
            if self.back:
                self.scroll_back(-self.back)
            self._send(data)
        return True

    def encoded(self, event: events.Key) -> bytes:
        """A key as the guest's modes want it."""
        if self.model is None:
            return keys.encode_key(event.key, event.character)
        terminal = self.model.terminal
        application = terminal.has_mode(APPLICATION_CURSOR)
        return encode_for(
            terminal.keyboard, event.key, event.character, application_cursor=application
        )

    def _takes_all(self) -> bool:
        """Locked, or a full-screen program, which has nothing to scroll back to."""
        return self.view.locked or (self.model is not None and self.model.terminal.alternate)

    def send_key(self, event: events.Key) -> None:
        """A key for the guest, whatever it means to us."""
        self._send(self.encoded(event))

    def take_paste(self, text: str) -> None:
        """Pasted text for the guest, in brackets if it wants them."""
        self._flush_escape()
        self._send(self.encoded_paste(text))

    def encoded_paste(self, text: str) -> bytes:
        """A paste as the guest's modes want it."""
        bracketed = self.model is not None and self.model.terminal.has_mode(BRACKETED_PASTE)
        return keys.encode_paste(text, bracketed=bracketed)

    def _escape_pressed(self) -> bool:
        """The second one within the wait leaves; a lone one goes to the guest after it."""
        self._escapes += 1
        needed = 3 if self.view.locked else 2
        if self._escape_timer is not None:
            self._drop_escape_timer()
            if self._escapes >= needed:
                self._escapes = 0
                return False
        self._escape_timer = self.set_timer(keys.ESCAPE_KEY_WAIT_S, self._flush_escape)
        return True

    def _flush_escape(self) -> None:
        if self._escape_timer is not None:
            self._drop_escape_timer()
            self._send(keys.ESCAPE_KEY_BYTES * self._escapes)
        self._escapes = 0

    def _drop_escape_timer(self) -> None:
        if self._escape_timer is not None:
            self._escape_timer.stop()
            self._escape_timer = None

    def _drop_hold_timer(self) -> None:
        if self._hold_timer is not None:
            self._hold_timer.stop()
            self._hold_timer = None

    def _send_alone(self, data: bytes) -> None:
        """What only this guest is told: its mouse, its focus."""
        if self.view.session is not None and not self.view.read_only:
            self.view.session.type(data)

    def _send(self, data: bytes) -> None:
        self._on_input(self.view, data)

    # -- the mouse --------------------------------------------------------------------------------

    def on_click(self, event: events.Click) -> None:
        event.stop()
        if self._mouse.dragged or self.marks.copy is not None:
            return
        if not self.attached:
            self.post_message(PaneClicked(self.view.key))
        elif not self._guest_has_mouse(event) and (text := self._mouse.click(event)):
            self.post_message(TextTaken(text))

    def on_mouse_down(self, event: events.MouseDown) -> None:
        if self._guest_has_mouse(event):
            self._forward("down", event)
        elif event.get_content_offset(self) is not None:
            event.stop()
            self._mouse.press(event)

    def on_mouse_up(self, event: events.MouseUp) -> None:
        if self._mouse.holds:
            event.stop()
            if text := self._mouse.release():
                self.post_message(TextTaken(text))
        else:
            self._forward("up", event)

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if not self._mouse.move(event):
            self._forward("move", event)

    def _guest_has_mouse(self, event: events.MouseEvent) -> bool:
        """The guest asked for the mouse; with shift it is ours all the same."""
        asked = self.model is not None and self.model.terminal.mouse_mode > 0
        return self.attached and asked and not event.shift

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self._wheel("scroll_up", event, WHEEL_ROWS)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self._wheel("scroll_down", event, -WHEEL_ROWS)

    def _wheel(self, action: str, event: events.MouseEvent, rows: int) -> None:
        event.stop()
        event.prevent_default()
        model = self.model
        if self.marks.copy is not None:
            self.marks.copy.scroll(-rows)
            self.show_copy_mode(self.marks.copy)
            return
        if self._forward(action, event) or model is None:
            return
        if self.attached and model.terminal.alternate:
            key = "up" if rows > 0 else "down"  # what xterm does for programs without a mouse
            application = model.terminal.has_mode(APPLICATION_CURSOR)
            self._send(keys.encode_key(key, None, application_cursor=application) * abs(rows))
        else:
            self.scroll_back(rows)

    def _forward(self, action: str, event: events.MouseEvent) -> bool:
        """Send a mouse event to a guest that asked for it."""
        model, offset = self.model, event.get_content_offset(self)
        if not self.attached or model is None or offset is None:
            return False
        names = [name for name in ("shift", "meta", "ctrl") if getattr(event, name)]
        data = keys.encode_mouse(
            action,
            event.button,
            offset.x,
            offset.y + self._top,
            mode=model.terminal.mouse_mode,
            sgr=model.terminal.has_mode(SGR_MOUSE),
            modifiers=names,
        )
        if data:
            self._send_alone(data)
        return bool(data)


def _escaped(text: str) -> str:
    """Titles come from guests; none of it may be taken for markup."""
    return text.replace("[", "\\[")
