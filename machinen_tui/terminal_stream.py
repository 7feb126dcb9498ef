"""Bytes → calls on a `Terminal`: one regular expression for the common tokens, a small state
machine for everything else.

The state machine is the one of ECMA-48 and DEC: C0 controls act inside a sequence, CAN and SUB
abort it, ESC starts anew, and the payloads of
OSC, DCS, APC, PM and SOS are swallowed (only OSC is read, up to a cap). Nothing raises, nothing of
a payload is ever drawn.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

import pyte

from machinen_tui.terminal_device import Terminal

TEXT = r"[^\x00-\x1f\x7f-\x9f]+"
TOKEN = re.compile(
    rf"({TEXT})|\x1b\[([0-9;:]*)m|([\r\n\b\t\a\x0b\x0c])|\x1b\[([<=>?]?)([0-9;]*)([ -/]*)([@-~])"
)
"""Groups: 1 text, 2 SGR, 3 C0, 4 to 7 any other complete CSI."""
CSI_BODY = re.compile(r"([<=>?]?)([0-9;]*)([ -/]*)")
STRING_END = re.compile(r"[\x07\x18\x1a\x1b]")
C1 = re.compile(r"[\x80-\x9f]")

MAX_CSI = 256
MAX_OSC = 4096
MAX_PARAMETERS = 32

# (prefix + intermediates + final) → method of Terminal, most arguments it takes
CSI: dict[str, tuple[str, int]] = {
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
    "r": ("set_margins", 2), "s": ("save_cursor", 0), "t": ("report_window", 3),
    "u": ("restore_cursor", 0), ">c": ("report_secondary_attributes", 1),
    "?n": ("report_private_status", 1), "?J": ("erase_in_display", 1), "?K": ("erase_in_line", 1),
    "!p": ("soft_reset", 0), " q": ("set_cursor_shape", 1), "?$p": ("report_mode", 1),
    ">q": ("report_version", 1),
}  # fmt: skip

ESCAPES: dict[str, str] = {
    "7": "save_cursor", "8": "restore_cursor", "D": "index",
    "E": "next_line", "H": "set_tab_stop", "M": "reverse_index",
    "c": "reset",
    "#8": "alignment_display",
}  # fmt: skip

CONTROLS: dict[str, str] = {
    "\n": "linefeed", "\x0b": "linefeed", "\x0c": "linefeed", "\r": "carriage_return",
    "\b": "backspace", "\t": "tab", "\a": "bell", "\x0e": "shift_out", "\x0f": "shift_in",
}  # fmt: skip

GROUND, ESCAPE, SEQUENCE, STRING = "ground", "escape", "csi", "string"


class TerminalStream(pyte.ByteStream):
    """Feeds one `Terminal`. Sequences may be cut anywhere between two feeds."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(terminal, strict=False)
        self.terminal = terminal
        self._state = GROUND
        self._collected = ""
        self._string_kind = ""
        self._controls: dict[str, Callable[[], None]] = {
            key: getattr(terminal, name) for key, name in CONTROLS.items()
        }
        self._csi = {key: (getattr(terminal, name), most) for key, (name, most) in CSI.items()}

    @property
    def in_ground(self) -> bool:
        """No sequence is half read: what comes next may take the fast path."""
        return self._state is GROUND

    def decode(self, data: bytes) -> str:
        """UTF-8, malformed parts replaced, characters cut between feeds completed; 8-bit controls
        in their ESC form."""
        text = self.utf8_decoder.decode(data)
        return (
            C1.sub(lambda found: "\x1b" + chr(ord(found[0]) - 0x40), text)
            if C1.search(text)
            else text
        )

    def feed(self, data: bytes) -> None:
        self.feed_text(self.decode(data))

    def feed_text(self, text: str) -> None:
        """Act on `text`, which `decode` made."""
        position, end = 0, len(text)
        while position < end:
            position = (
                self._feed_tokens(text, position)
                if self._state is GROUND
                else self._feed_slowly(text, position)
            )

    def _feed_tokens(self, text: str, position: int) -> int:
        """The fast path, up to the first thing that is not a complete common token."""
        terminal, match = self.terminal, TOKEN.match
        draw, sgr, controls = terminal.draw, terminal.sgr, self._controls
        while found := match(text, position):
            position = found.end()
            group = found.lastindex
            if group == 1:
                draw(found[1])
                if position >= len(text) or text[position] == "\x1b":
                    terminal.last_drawn = found[1][-1]
            elif group == 2:
                sgr(found[2])
            elif group == 3:
                controls[found[3]]()
            else:
                self._dispatch_csi(found[4], found[5], found[6], found[7])
        if position < len(text):
            position = self._step_ground(text, position)
        return position

    # -- the state machine ------------------------------------------------------------------------

    def _step_ground(self, text: str, position: int) -> int:
        if text[position] == "\x1b":
            self._enter(ESCAPE)
        else:
            self._control(text[position])
        return position + 1

    def _feed_slowly(self, text: str, position: int) -> int:
        """One character of a sequence, or a whole stretch of a string's payload."""
        if self._state is STRING:
            return self._feed_string(text, position)
        character = text[position]
        if character == "\x1b":
            self._enter(ESCAPE)
        elif character in "\x18\x1a":
            self._enter(GROUND)
        elif character < " ":
            self._control(character)
        elif character == "\x7f":
            pass  # DEL is nothing, inside a sequence too
        elif self._state is ESCAPE:
            self._escape(character)
        else:
            self._sequence(character)
        return position + 1

    def _enter(self, state: str) -> None:
        self._state, self._collected = state, ""

    def _control(self, character: str) -> None:
        if (action := self._controls.get(character)) is not None:
            action()

    def _escape(self, character: str) -> None:
        if self._collected == "" and character == "[":
            self._enter(SEQUENCE)
        elif self._collected == "" and character in "]PX^_":
            self._enter(STRING)
            self._string_kind = character
        elif " " <= character <= "/":
            self._collected = (self._collected + character)[:4]
        else:
            collected, _ = self._collected, self._enter(GROUND)
            self._dispatch_escape(collected, character)

    def _sequence(self, character: str) -> None:
        if not "@" <= character <= "~":
            if len(self._collected) < MAX_CSI:
                self._collected += character
            return
        body, complete = self._collected, len(self._collected) < MAX_CSI
        self._enter(GROUND)
        if complete and character == "m" and re.fullmatch(r"[0-9;:]*", body):
            self.terminal.sgr(body)
        elif complete and (parts := CSI_BODY.fullmatch(body)):
            self._dispatch_csi(parts[1], parts[2], parts[3], character)

    def _feed_string(self, text: str, position: int) -> int:
        found = STRING_END.search(text, position)
        end = found.start() if found else len(text)
        if self._string_kind == "]" and len(self._collected) <= MAX_OSC:
            self._collected += text[position : min(end, position + MAX_OSC + 1)]
        if found is None:
            return end
        if found[0] == "\x07" and self._string_kind != "]":
            return end + 1  # BEL ends only an OSC
        payload, ended_well = self._collected, found[0] in "\x07\x1b" and self._string_kind == "]"
        self._enter(ESCAPE if found[0] == "\x1b" else GROUND)
        if ended_well and len(payload) <= MAX_OSC:
            self.terminal.operating_system_command(payload)
        return end + 1

    # -- dispatch ---------------------------------------------------------------------------------

    def _dispatch_escape(self, intermediates: str, final: str) -> None:
        if intermediates in ("(", ")"):
            self.terminal.define_charset(final, intermediates)
        elif (action := ESCAPES.get(intermediates + final)) is not None:
            getattr(self.terminal, action)()

    def _dispatch_csi(self, prefix: str, parameters: str, intermediates: str, final: str) -> None:
        if prefix == "?" and final in "hl" and not intermediates:
            switch = self.terminal.set_mode if final == "h" else self.terminal.reset_mode
            switch(*numbers(parameters), private=True)
        elif (action := self._csi.get(prefix + intermediates + final)) is not None:
            action[0](*numbers(parameters)[: action[1]])
        if final != "b":
            self.terminal.last_drawn = ""  # REP repeats only what comes right before it


@lru_cache(maxsize=2048)
def numbers(parameters: str) -> tuple[int, ...]:
    """`12;;5` → (12, 0, 5), each at most 9999. No parameters: none."""
    if not parameters:
        return ()
    return tuple(
        min(int(part[:6] or 0), 9999)
        for part in parameters.split(";", MAX_PARAMETERS)[:MAX_PARAMETERS]
    )
