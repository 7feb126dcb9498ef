"""What a terminal is besides its cells: modes, the alternate screen, saved cursors, resets, sizes.

Numbers are xterm's (ctlseqs) and DEC's (VT510).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pyte.modes as modes
from pyte.screens import Cursor
from wcwidth import iter_graphemes_reverse

from machinen_tui.terminal_cells import StyleTable
from machinen_tui.terminal_modes import (
    ALTERNATE_SCREENS,
    ANSI_SETTABLE,
    APPLICATION_CURSOR,
    COLUMNS_132,
    MAY_SWITCH_COLUMNS,
    MOUSE_MODES,
    REVERSE_SCREEN,
    SAVED_CURSOR,
    SETTABLE,
    SIDE_MARGINS,
)
from machinen_tui.terminal_rows import Grid, Row, cropped
from machinen_tui.terminal_screen import CellScreen


@dataclass(slots=True)
class SavedCursor:
    """What DECSC keeps and DECRC brings back."""

    cursor: Cursor
    style: StyleTable
    charset_slots: list[str]
    charset: int
    origin: bool


@dataclass(slots=True)
class HiddenScreen:
    """The main screen while the alternate one is shown."""

    grid: Grid
    saved: SavedCursor | None
    cursor_saved: bool
    """1049 brought the alternate screen: `saved` is where the cursor was, also after a resize."""
    on_scroll_out: Callable[[Row], None] | None


class Device(CellScreen):
    """A screen with modes, an alternate screen and saved cursors."""

    def __init__(self, columns: int, lines: int) -> None:
        self.bells = 0
        self.cursor_shape = 0
        self.last_drawn = ""
        self.keypad_application = False
        self.on_erase_history: Callable[[], None] | None = None
        self.on_resize: Callable[[Grid, int, int], Grid] = cropped
        """How the main screen takes another size: the model puts `reflow` with its history here."""
        self._saved: SavedCursor | None = None
        self._hidden: HiddenScreen | None = None
        self._left: list[Row] | None = None
        """What the alternate screen showed when 47 left it: the next 47 or 1047 brings it back."""
        self._kept_modes: dict[int, bool] = {}
        super().__init__(columns, lines)
        self.mode = {modes.DECAWM, modes.DECTCEM}  # pyte's own __init__ sets others last
        self.mode_changed()

    # -- state others ask for ---------------------------------------------------------------------

    def has_mode(self, number: int) -> bool:
        """Whether DEC private mode `number` is set."""
        return number << 5 in self.mode

    @property
    def alternate(self) -> bool:
        """The alternate screen is shown: it has no scrollback."""
        return self._hidden is not None

    @property
    def mouse_mode(self) -> int:
        """The widest mouse mode the guest asked for; 0: none."""
        return max((number for number in MOUSE_MODES if self.has_mode(number)), default=0)

    # -- resets -----------------------------------------------------------------------------------

    def reset(self) -> None:
        """RIS. The scrollback stays."""
        self._leave_alternate()
        self._left = None
        super().reset()
        self.mode = {modes.DECAWM, modes.DECTCEM}
        self._saved = None
        self.cursor_shape, self.last_drawn, self.keypad_application = 0, "", False
        self.mode_changed()

    def soft_reset(self) -> None:
        """DECSTR: modes and style, not the text (VT510)."""
        self.mode = (self.mode | {modes.DECAWM, modes.DECTCEM}) - {
            modes.IRM,
            modes.DECOM,
            APPLICATION_CURSOR << 5,
            SIDE_MARGINS << 5,
        }
        self.cursor.hidden, self.margins, self.side_margins = False, None, None
        self._saved, self.keypad_application = None, False
        self.reset_charsets()
        self.style = self.styles.plain
        self.mode_changed()

    # -- modes ------------------------------------------------------------------------------------

    def set_mode(self, *numbers: int, **kwargs: bool) -> None:
        """SM, DECSET."""
        self._switch_modes(numbers, True, kwargs.get("private", False))

    def reset_mode(self, *numbers: int, **kwargs: bool) -> None:
        """RM, DECRST."""
        self._switch_modes(numbers, False, kwargs.get("private", False))

    def keep_modes(self, *numbers: int) -> None:
        """XTSAVE."""
        for number in numbers:
            if number in SETTABLE:
                self._kept_modes[number] = self.has_mode(number)

    def bring_back_modes(self, *numbers: int) -> None:
        """XTRESTORE."""
        for number in numbers:
            if number in self._kept_modes:
                self._switch_modes((number,), self._kept_modes[number], private=True)

    def _switch_modes(self, numbers: tuple[int, ...], on: bool, private: bool) -> None:
        for number in numbers:
            if private and number in SETTABLE:
                (self.mode.add if on else self.mode.discard)(number << 5)
                self._mode_switched(number, on)
            elif private and number == COLUMNS_132 and self.has_mode(MAY_SWITCH_COLUMNS):
                self._clear_for_other_columns()
            elif not private and number in ANSI_SETTABLE:
                (self.mode.add if on else self.mode.discard)(number)
        self.mode_changed()

    def _mode_switched(self, number: int, on: bool) -> None:
        if number == 25:
            self.cursor.hidden = not on
            self.dirty.add(self.cursor.y)
        elif number == 6:
            self.cursor_position()
        elif number == REVERSE_SCREEN:
            self.dirty.update(range(self.lines))
        elif number == SAVED_CURSOR:
            self.save_cursor() if on else self.restore_cursor()
        elif number == SIDE_MARGINS:
            self.side_margins = None
        elif number in MOUSE_MODES and on:
            for other in MOUSE_MODES:
                if other != number:
                    self.mode.discard(other << 5)
        elif number in ALTERNATE_SCREENS:
            self._switch_screen(number, on)

    def _clear_for_other_columns(self) -> None:
        """DECCOLM without another width: the pane decides that. The rest of it happens."""
        self.margins = self.side_margins = None
        self.mode.discard(SIDE_MARGINS << 5)
        self.erase_in_display(2)
        self.cursor_position()

    def margins_or_save(self, left: int = 0, right: int = 0) -> None:
        """`CSI … s`: DECSLRM with mode 69, else SCOSC."""
        if self.has_mode(SIDE_MARGINS):
            self.set_side_margins(left, right)
        else:
            self.save_cursor()

    # -- the alternate screen ---------------------------------------------------------------------

    def _switch_screen(self, number: int, on: bool) -> None:
        """As xterm: 1049 saves the cursor and clears the alternate screen when it comes, also when
        that is shown already, and restores the cursor when it goes, also on the main screen; 1047
        clears it when it goes, 47 does neither; both leave the cursor where it is."""
        if on:
            self._show_alternate(number)
        else:
            self._show_main(number)
        for each in ALTERNATE_SCREENS:  # xterm answers DECRQM the same for all three
            (self.mode.add if on else self.mode.discard)(each << 5)

    def _show_alternate(self, number: int) -> None:
        if not self.alternate:
            self._enter_alternate(number)
        elif number == 1049:
            self.save_cursor()
            self.erase_in_display(2)
        self.dirty.update(range(self.lines))

    def _show_main(self, number: int) -> None:
        if self.alternate:
            x, y = self.cursor.x, self.cursor.y
            self._left = self.buffer if number == 47 else None
            self._leave_alternate()
            self.cursor.x, self.cursor.y = x, y
            self.dirty.update(range(self.lines))
        if number == 1049:
            self.restore_cursor()

    def _enter_alternate(self, number: int) -> None:
        clears = number == 1049
        if clears:
            self.save_cursor()
        grid = Grid(self.buffer, self.cursor.x, self.cursor.y)
        self._hidden = HiddenScreen(grid, self._saved, clears, self.on_scroll_out)
        self.on_scroll_out = None
        rows = [] if clears or self._left is None else self._left
        self.buffer = cropped(Grid(rows, 0, 0), self.columns, self.lines).rows
        self._left = None

    def _leave_alternate(self) -> None:
        if self._hidden is None:
            return
        hidden, self._hidden = self._hidden, None
        self.buffer, self.on_scroll_out, self._saved = (
            hidden.grid.rows,
            hidden.on_scroll_out,
            hidden.saved,
        )
        self.cursor.x = min(hidden.grid.x, self.columns)
        self.cursor.y = min(hidden.grid.y, self.lines - 1)

    # -- size -------------------------------------------------------------------------------------

    def resize(self, lines: int | None = None, columns: int | None = None) -> None:
        """Change the size. The main screen's lines wrap anew, also while it is hidden; what no
        longer fits goes to the scrollback. Margins are lost, as in xterm."""
        lines, columns = max(lines or self.lines, 1), max(columns or self.columns, 1)
        if (lines, columns) == (self.lines, self.columns):
            return
        shown = Grid(self.buffer, self.cursor.x, self.cursor.y)
        if self._hidden is not None:
            self._resize_hidden(self._hidden, columns, lines)
            shown = cropped(shown, columns, lines)
        else:
            shown = self.on_resize(shown, columns, lines)
        self.tabstops = {stop for stop in self.tabstops if stop < columns} | {
            stop for stop in range(8, columns, 8) if stop >= self.columns
        }
        self.lines, self.columns = lines, columns
        self.margins = self.side_margins = None
        self.buffer, self.cursor.x, self.cursor.y = shown.rows, shown.x, shown.y
        self._waiting = None
        self.dirty = set(range(lines))
        self.mode_changed()

    def _resize_hidden(self, hidden: HiddenScreen, columns: int, lines: int) -> None:
        hidden.grid = self.on_resize(hidden.grid, columns, lines)
        if hidden.cursor_saved and hidden.saved is not None:
            hidden.saved.cursor.x, hidden.saved.cursor.y = hidden.grid.x, hidden.grid.y

    # -- the saved cursor -------------------------------------------------------------------------

    def save_cursor(self) -> None:
        """DECSC."""
        self._saved = SavedCursor(
            copy.copy(self.cursor),
            self.style,
            list(self.charset_slots),
            self.charset,
            modes.DECOM in self.mode,
        )

    def restore_cursor(self) -> None:
        """DECRC; with nothing saved, home and plain (VT510)."""
        saved, cursor = self._saved, self.cursor
        self._waiting = None
        if saved is None:
            self.mode.discard(modes.DECOM)
            cursor.x = cursor.y = 0
            self.style = self.styles.plain
            self.reset_charsets()
        else:
            cursor.x = min(saved.cursor.x, self.columns)
            cursor.y = min(saved.cursor.y, self.lines - 1)
            self.style = saved.style
            self.charset_slots, self.charset = list(saved.charset_slots), saved.charset
            (self.mode.add if saved.origin else self.mode.discard)(modes.DECOM)
        self.mode_changed()

    # -- things said once -------------------------------------------------------------------------

    def bell(self, *args: int) -> None:
        """BEL."""
        self.bells += 1

    def set_cursor_shape(self, shape: int = 0) -> None:
        """DECSCUSR: 0 default, 1 and 2 block, 3 and 4 underline, 5 and 6 bar; odd ones blink."""
        if shape <= 6:
            self.cursor_shape = shape
            self.dirty.add(self.cursor.y)

    def set_keypad(self, application: bool) -> None:
        """DECKPAM, DECKPNM."""
        self.keypad_application = application

    def set_protection(self, how: int = 0) -> None:
        """DECSCA: 1 protects what is drawn next against selective erase."""
        if how <= 2:
            self.style = self.styles.table(self.style.style._replace(protected=how == 1))

    def repeat(self, count: int = 1) -> None:
        """REP: the last character again, at most a screenful."""
        if self.last_drawn:
            last = next(iter_graphemes_reverse(self.last_drawn))
            self.draw(last * min(count or 1, self.columns * self.lines))

    def erase_in_display(
        self, how: int = 0, *args: int, private: bool = False, **kwargs: bool
    ) -> None:
        """ED; 3 (xterm) empties the scrollback."""
        if how == 3 and not private and self.on_erase_history is not None:
            self.on_erase_history()
        super().erase_in_display(how, private=private)

    def selective_erase_in_display(self, how: int = 0) -> None:
        """DECSED."""
        self.erase_in_display(how, private=True)

    def selective_erase_in_line(self, how: int = 0) -> None:
        """DECSEL."""
        self.erase_in_line(how, private=True)
