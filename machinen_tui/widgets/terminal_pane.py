"""One sandbox's terminal on screen: draws the rows that changed, turns keys and the mouse into
bytes while attached."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from textual import events
from textual.geometry import Size
from textual.strip import Strip
from textual.timer import Timer

from machinen_tui import keys
from machinen_tui.copy_mode import CopyMode
from machinen_tui.keys_kitty import encode_for
from machinen_tui.messages import PaneClicked, PasteWanted, TextTaken, TitleDoubleClicked
from machinen_tui.mouse_grip import holds_mouse
from machinen_tui.pane_marks import PaneMarks
from machinen_tui.pane_paint import terminal_colors
from machinen_tui.pane_text import PaneText, Place
from machinen_tui.roster import SandboxView
from machinen_tui.selection import Selection
from machinen_tui.terminal_model import TerminalModel
from machinen_tui.terminal_modes import (
    APPLICATION_CURSOR,
    BRACKETED_PASTE,
    FOCUS_EVENTS,
    SYNCHRONIZED,
)
from machinen_tui.widgets.guest_mouse import GuestMouse
from machinen_tui.widgets.pane_frame import frame_texts
from machinen_tui.widgets.pane_mouse import MouseSelection
from machinen_tui.widgets.pane_rows import PaneRows
from machinen_tui.widgets.steady_style import SteadyStyle

if TYPE_CHECKING:
    from machinen_tui.row_painter import RowPainter

SYNCHRONIZED_LIMIT_S = 0.15
"""A guest that began an update and does not end it is shown anyway."""
WHEEL_ROWS = 3


class TerminalPane(SteadyStyle, can_focus=True):
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
        painter: RowPainter | None = None,
    ) -> None:
        """`painter` draws rows of a pane without delay, where nothing is above it."""
        super().__init__(id=f"pane-{view.key}", classes="pane")
        self.view = view
        self.attached = False
        self.back = 0
        """Rows scrolled into the past."""
        self._on_input = on_input
        self._rows = PaneRows(self, painter)
        self._escape_timer: Timer | None = None
        self._escapes = 0
        self._frame = ("", "")
        self._framed: tuple[int, int, int | None] = (0, 0, None)
        self._hold_timer: Timer | None = None
        self._place = (0, 0)
        """While scrolled back: the line at the top, and which row of it."""
        self._top = 0
        self.marks = PaneMarks()
        self._mouse = MouseSelection(self)
        self._click_opens = False
        """The first of some clicks came while navigating: the others select no word."""
        self._guest_mouse = GuestMouse(self)

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
            self.model.take_dirty()
            self._show_now(self.model)
            self.repaint()  # no turn follows that would

    def _show_now(self, model: TerminalModel) -> None:
        dirty = model.take_dirty()
        framed = (model.columns, model.lines, model.terminal.exit_status)
        if framed != self._framed:
            self._framed = framed
            self.update_frame()
        width, height = self.size
        top = self._top_row(model, height)
        if self.marks:
            self._follow_copy_mode()
            self._top, dirty = top, set(range(height))
        elif self.back or top != self._top:
            self._follow_history(model)
            self._top, dirty = top, set(range(height))
        elif top:
            dirty = {y - top for y in dirty if y >= top}
        if rows := sorted(y for y in dirty if y < height):
            self._rows.show(model, rows, width)

    def _top_row(self, model: TerminalModel, height: int) -> int:
        """The first row shown: another client may have made the terminal taller than this pane."""
        surplus = model.lines - height
        return min(max(model.terminal.cursor.y - height + 1, 0), max(surplus, 0))

    def _follow_history(self, model: TerminalModel) -> None:
        """Keep the same text in view while new rows arrive below or widths change."""
        if self.back:
            self.back = model.scrollback.back_of(self._place)

    def repaint(self) -> None:
        """Draw everything anew."""
        self._rows.forget()
        self.refresh()

    def render_line(self, y: int) -> Strip:
        return self._rows.strip(y, self.size.width)

    @property
    def shows_cursor(self) -> bool:
        """Not in the past, in copy mode or when it has ended, nor if the guest hides it."""
        model = self.model
        hidden = model is None or model.terminal.cursor.hidden or self.marks.copy is not None
        return not (hidden or self.back or self.view.gone)

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._rows.forget()

    # -- frame ------------------------------------------------------------------------------------

    def update_frame(self) -> None:
        """Name, title and state in the border; nothing if they stand there."""
        texts = frame_texts(self)
        if texts != self._frame:
            self._frame = texts
            self.border_title, self.border_subtitle = texts

    def on_mount(self) -> None:
        if self.view.session is not None:
            self.view.session.colors = lambda: terminal_colors(self.rich_style)

    def _size_updated(
        self, size: Size, virtual_size: Size, container_size: Size, layout: bool = True
    ) -> bool:
        """A layout gives it this size.

        Textual posts no Resize if something else had asked the compositor for the new layout
        meanwhile, as under load while panes come; the guest's terminal would keep its size.
        """
        changed = super()._size_updated(size, virtual_size, container_size, layout)
        if changed:
            self.post_message(events.Resize(size, virtual_size, container_size))
        return changed

    def on_resize(self) -> None:
        self._rows.forget()
        if self.view.session is not None and self.size.width and self.size.height:
            self.view.session.want_size(self.size.width, self.size.height)
        if self.model is not None:
            self._top = self._top_row(self.model, self.size.height)
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

    def step_prompt(self, by: int) -> bool:
        """Scroll to the prompt before (-1) or after (1) the top row; whether there is one."""
        if (model := self.model) is None:
            return False
        text, prompts = PaneText(model), model.prompts
        top = text.place_at(self.row_at(0)).line
        mark = prompts.before(top) if by < 0 else prompts.after(top)
        if mark is None or not text.first <= mark.line <= text.last:
            if by > 0:
                self.scroll_back(-self.back)
            return False
        self.scroll_back(-text.row_of(Place(*mark)) + self._top - self.back)
        return True

    @property
    def top(self) -> int:
        """The terminal's row at the pane's first line, when not scrolled back."""
        return self._top

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
            self.send_alone(b"\x1b[I" if attached else b"\x1b[O")
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
            self.send_bytes(data)
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
        self.send_bytes(self.encoded(event))

    def take_paste(self, text: str) -> None:
        """Pasted text for the guest, in brackets if it wants them."""
        self._flush_escape()
        self.send_bytes(self.encoded_paste(text))

    def encoded_paste(self, text: str) -> bytes:
        """A paste as the guest's modes want it."""
        return keys.encode_paste(text, bracketed=self.brackets_pastes)

    @property
    def brackets_pastes(self) -> bool:
        """The guest's program tells pastes from what is typed: it runs no line of one unasked."""
        return self.model is not None and self.model.terminal.has_mode(BRACKETED_PASTE)

    @property
    def holds_escape(self) -> bool:
        """The escape key was pressed and may still become a pair."""
        return self._escape_timer is not None

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
            self.send_bytes(keys.ESCAPE_KEY_BYTES * self._escapes)
        self._escapes = 0

    def _drop_escape_timer(self) -> None:
        if self._escape_timer is not None:
            self._escape_timer.stop()
            self._escape_timer = None

    def _drop_hold_timer(self) -> None:
        if self._hold_timer is not None:
            self._hold_timer.stop()
            self._hold_timer = None

    def send_alone(self, data: bytes) -> None:
        """What only this guest is told: its mouse, its focus."""
        if self.view.session is not None and not self.view.read_only:
            self.view.session.type(data)

    def send_bytes(self, data: bytes) -> None:
        """Input for the guest, or for all that are typed into."""
        self._on_input(self.view, data)

    # -- the mouse --------------------------------------------------------------------------------

    def on_click(self, event: events.Click) -> None:
        event.stop()
        if event.button != 1 or self._mouse.dragged or self.marks.copy is not None:
            return
        if event.chain == 1:
            self._click_opens = not self.attached
        if not self.attached:
            self.post_message(PaneClicked(self.view.key))
        elif not (self._click_opens or self._guest_mouse.has(event)) and (
            text := self._mouse.click(event)
        ):
            self.post_message(TextTaken(text))
        if event.chain == 2 and event.y == 0:
            self.post_message(TitleDoubleClicked())

    def on_mouse_down(self, event: events.MouseDown) -> None:
        self._mouse.dragged = False  # also on the frame: what was dragged before is no part of it
        if self._guest_mouse.has(event):
            self._guest_mouse.down(event)
        elif event.get_content_offset(self) is not None:
            event.stop()
            if event.button == 2 and self.attached:
                self.post_message(PasteWanted())
            else:
                self._mouse.press(event)

    def on_mouse_up(self, event: events.MouseUp) -> None:
        if self._mouse.holds:
            event.stop()
            if text := self._mouse.release():
                self.post_message(TextTaken(text))
        else:
            self._guest_mouse.up(event)

    def on_mouse_release(self) -> None:
        if not holds_mouse(self):  # or this tells of one before the button went down
            self._mouse.lost()
            self._guest_mouse.lost()

    def on_mouse_move(self, event: events.MouseMove) -> None:
        if not self._mouse.move(event):
            self._guest_mouse.move(event)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        self._wheel("scroll_up", event, WHEEL_ROWS)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        self._wheel("scroll_down", event, -WHEEL_ROWS)

    def _wheel(self, action: str, event: events.MouseEvent, rows: int) -> None:
        event.stop()
        event.prevent_default()
        if self.marks.copy is not None:
            self.marks.copy.scroll(-rows)
            self.show_copy_mode(self.marks.copy)
        elif not self._guest_mouse.wheel(action, event, rows):
            self.scroll_back(rows)
