"""What a terminal is besides its cells: modes, the alternate screen, saved cursors, titles, the
bell, and answers to the guest's questions.

Numbers are xterm's (ctlseqs) and DEC's (VT510). Answers go to `on_reply`; it is None while a replay
is fed, so that old questions stay unanswered.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import pyte.charsets as charsets
import pyte.modes as modes
from pyte.screens import Cursor

from machinen_tui.terminal_cells import PLAIN
from machinen_tui.terminal_screen import CellScreen, Row

APPLICATION_CURSOR, REVERSE_SCREEN, FOCUS_EVENTS, BRACKETED_PASTE, SYNCHRONIZED = (
    1,
    5,
    1004,
    2004,
    2026,
)
MOUSE_MODES = (9, 1000, 1002, 1003)
"""X10 presses, presses and releases, also drags, also every motion."""
SGR_MOUSE = 1006
ALTERNATE_SCREENS = (47, 1047, 1049)
KNOWN_MODES = frozenset(
    {
        1,
        5,
        6,
        7,
        12,
        25,
        1004,
        1005,
        1006,
        1007,
        1015,
        1016,
        1048,
        2004,
        2026,
        *MOUSE_MODES,
        *ALTERNATE_SCREENS,
    }
)

MAX_TITLE = 256
ANSWER_DA1, ANSWER_DA2 = "\x1b[?62;22c", "\x1b[>1;100;0c"
FOREGROUND_REPLY, BACKGROUND_REPLY = "rgb:d7d7/dada/e0e0", "rgb:1010/1313/1818"


@dataclass(slots=True)
class SavedCursor:
    """What DECSC keeps and DECRC brings back."""

    cursor: Cursor
    g0: str
    g1: str
    charset: int
    origin: bool


class Terminal(CellScreen):
    """A whole terminal: `CellScreen` plus everything a stream of escape sequences can set."""

    def __init__(self, columns: int, lines: int) -> None:
        self.on_reply: Callable[[bytes], None] | None = None
        self.on_erase_history: Callable[[], None] | None = None
        self.bells = 0
        self.cursor_shape = 0
        self.last_drawn = ""
        self._saved: SavedCursor | None = None
        self._main: tuple[dict[int, Row], Cursor, SavedCursor | None] | None = None
        self._history_hook: Callable[[Row], None] | None = None
        super().__init__(columns, lines)

    # -- state others ask for ---------------------------------------------------------------------

    def has_mode(self, number: int) -> bool:
        """Whether DEC private mode `number` is set."""
        return number << 5 in self.mode

    @property
    def alternate(self) -> bool:
        """The alternate screen is shown: it has no scrollback."""
        return self._main is not None

    @property
    def mouse_mode(self) -> int:
        """The widest mouse mode the guest asked for; 0: none."""
        return max((number for number in MOUSE_MODES if self.has_mode(number)), default=0)

    # -- resets -----------------------------------------------------------------------------------

    def reset(self) -> None:
        """RIS. The scrollback stays."""
        self._leave_alternate()
        super().reset()
        self.mode = {modes.DECAWM, modes.DECTCEM}
        self._saved = None
        self.cursor_shape, self.last_drawn = 0, ""

    def soft_reset(self) -> None:
        """DECSTR: modes and style, not the text (VT510)."""
        self.mode = (self.mode | {modes.DECAWM, modes.DECTCEM}) - {
            modes.IRM,
            modes.DECOM,
            APPLICATION_CURSOR << 5,
        }
        self.cursor.hidden, self.margins, self._saved = False, None, None
        self.charset, self.g0_charset, self.g1_charset = 0, charsets.LAT1_MAP, charsets.VT100_MAP
        self.cursor.attrs = PLAIN

    # -- modes ------------------------------------------------------------------------------------

    def set_mode(self, *numbers: int, **kwargs: bool) -> None:
        self._switch_modes(numbers, True, kwargs.get("private", False))

    def reset_mode(self, *numbers: int, **kwargs: bool) -> None:
        self._switch_modes(numbers, False, kwargs.get("private", False))

    def _switch_modes(self, numbers: tuple[int, ...], on: bool, private: bool) -> None:
        for number in numbers:
            if private and number in KNOWN_MODES:
                (self.mode.add if on else self.mode.discard)(number << 5)
                self._mode_changed(number, on)
            elif not private and number in (modes.IRM, modes.LNM):
                (self.mode.add if on else self.mode.discard)(number)

    def _mode_changed(self, number: int, on: bool) -> None:
        if number == 25:
            self.cursor.hidden = not on
            self.dirty.add(self.cursor.y)
        elif number == 6:
            self.cursor_position()
        elif number == REVERSE_SCREEN:
            self.dirty.update(range(self.lines))
        elif number == 1048:
            self.save_cursor() if on else self.restore_cursor()
        elif number in ALTERNATE_SCREENS:
            self._switch_screen(number, on)

    def _switch_screen(self, number: int, on: bool) -> None:
        if on == self.alternate:
            return
        if on:
            if number == 1049:
                self.save_cursor()
            self._main = (dict(self.buffer), copy.copy(self.cursor), self._saved)
            self._history_hook, self.on_scroll_out = self.on_scroll_out, None
            self.buffer.clear()
        else:
            self._leave_alternate()
            if number == 1049:
                self.restore_cursor()
        self.margins = None
        self.dirty.update(range(self.lines))

    def _leave_alternate(self) -> None:
        if self._main is None:
            return
        rows, cursor, self._saved = self._main
        self._main = None
        self.on_scroll_out, self._history_hook = self._history_hook, None
        self.buffer.clear()
        self.buffer.update(rows)
        attrs = self.cursor.attrs
        self.cursor.x, self.cursor.y = (
            min(cursor.x, self.columns - 1),
            min(cursor.y, self.lines - 1),
        )
        self.cursor.attrs = attrs

    def resize(self, lines: int | None = None, columns: int | None = None) -> None:
        if self._main is not None and lines is not None and lines < self.lines:
            rows, cursor, saved = self._main
            surplus = max(cursor.y + 1 - lines, 0)
            if self._history_hook is not None:
                for y in range(surplus):
                    if y in rows:
                        self._history_hook(rows[y])
            kept = {y - surplus: row for y, row in rows.items() if surplus <= y < lines + surplus}
            cursor.y -= surplus
            self._main = (kept, cursor, saved)
        super().resize(lines, columns)

    # -- the saved cursor -------------------------------------------------------------------------

    def save_cursor(self) -> None:
        self._saved = SavedCursor(
            copy.copy(self.cursor),
            self.g0_charset,
            self.g1_charset,
            self.charset,
            modes.DECOM in self.mode,
        )

    def restore_cursor(self) -> None:
        """DECRC; with nothing saved, home and plain (VT510)."""
        saved = self._saved
        if saved is None:
            self.mode.discard(modes.DECOM)
            self.cursor.x, self.cursor.y, self.cursor.attrs = 0, 0, PLAIN
            return
        hidden = self.cursor.hidden
        self.cursor = copy.copy(saved.cursor)
        self.cursor.hidden = hidden
        self.cursor.x, self.cursor.y = (
            min(self.cursor.x, self.columns),
            min(self.cursor.y, self.lines - 1),
        )
        self.g0_charset, self.g1_charset, self.charset = saved.g0, saved.g1, saved.charset
        (self.mode.add if saved.origin else self.mode.discard)(modes.DECOM)

    # -- things said once -------------------------------------------------------------------------

    def bell(self, *args: int) -> None:
        self.bells += 1

    def set_cursor_shape(self, shape: int = 0) -> None:
        """DECSCUSR."""
        if shape <= 6:
            self.cursor_shape = shape

    def repeat(self, count: int = 1) -> None:
        """REP: the last character again, at most a screenful."""
        if self.last_drawn:
            self.draw(self.last_drawn * min(count or 1, self.columns * self.lines))

    def erase_in_display(self, how: int = 0, *args: int, **kwargs: bool) -> None:
        if how == 3 and self.on_erase_history is not None:
            self.on_erase_history()
        super().erase_in_display(how)

    def operating_system_command(self, text: str) -> None:
        """OSC 0 and 2 set the title, 10 and 11 ask for colours. The rest (links, clipboard,
        prompts) changes nothing here."""
        number, _, value = text.partition(";")
        if number in ("0", "2"):
            self.title = "".join(c for c in value[:MAX_TITLE] if c.isprintable())
        elif value == "?" and number in ("10", "11"):
            self._reply(
                f"\x1b]{number};{FOREGROUND_REPLY if number == '10' else BACKGROUND_REPLY}\x1b\\"
            )

    # -- questions --------------------------------------------------------------------------------

    def _reply(self, text: str) -> None:
        if self.on_reply is not None:
            self.on_reply(text.encode())

    def write_process_input(self, data: str) -> None:
        self._reply(data)

    def report_device_attributes(self, mode: int = 0, **kwargs: bool) -> None:
        """DA1: a VT220 with colour."""
        if mode == 0:
            self._reply(ANSWER_DA1)

    def report_secondary_attributes(self, mode: int = 0) -> None:
        """DA2."""
        if mode == 0:
            self._reply(ANSWER_DA2)

    def report_device_status(self, mode: int = 0) -> None:
        """DSR: 5 asks for health, 6 for the cursor (CPR)."""
        if mode == 5:
            self._reply("\x1b[0n")
        elif mode == 6:
            self._reply("\x1b[{};{}R".format(*self._reported_position()))

    def report_private_status(self, mode: int = 0) -> None:
        """DECXCPR."""
        if mode == 6:
            self._reply("\x1b[?{};{}R".format(*self._reported_position()))

    def report_mode(self, number: int = 0) -> None:
        """DECRQM: 0 unknown, 1 set, 2 reset."""
        state = 0 if number not in KNOWN_MODES else 1 if self.has_mode(number) else 2
        self._reply(f"\x1b[?{number};{state}$y")

    def report_version(self, mode: int = 0) -> None:
        """XTVERSION."""
        if mode == 0:
            self._reply("\x1bP>|machinen\x1b\\")

    def report_window(self, what: int = 0, *_: int) -> None:
        """XTWINOPS 18: the size in characters. Nothing moves a window from inside a guest."""
        if what == 18:
            self._reply(f"\x1b[8;{self.lines};{self.columns}t")

    def _reported_position(self) -> tuple[int, int]:
        top = self.margins.top if self.margins and modes.DECOM in self.mode else 0
        return self.cursor.y - top + 1, min(self.cursor.x, self.columns - 1) + 1
