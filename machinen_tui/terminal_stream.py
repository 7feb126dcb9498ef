"""Bytes → calls on a `Terminal`: one regular expression for the common tokens, a small state
machine for everything else.

The state machine is the one of ECMA-48 and DEC (DEC STD 070): C0 controls act inside a sequence,
CAN and SUB abort it, ESC starts anew. The payloads of DCS, APC, PM and SOS are swallowed; of OSC
and of the two DCS that ask something, a capped payload is read. Nothing raises, nothing of a
payload is ever drawn.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import pyte

from machinen_tui.terminal_osc import Terminal
from machinen_tui.terminal_sequences import CONTROLS, CSI, ESCAPES, MAX_OSC, MAX_OSC_52, MAX_PARAMS

TEXT = r"[^\x00-\x1f\x7f-\x9f]+"
SGR_PARAMS, PARAMS = rf"[0-9;:]{{0,{MAX_PARAMS}}}", rf"[0-9;]{{0,{MAX_PARAMS}}}"
"""Bounded, because what a sequence means is remembered by its parameters."""
TOKEN = re.compile(
    rf"({TEXT})|\x1b\[({SGR_PARAMS})m({TEXT})?|(\r\n|[\r\n\b\t\a\x0b\x0c\x0e\x0f])"
    rf"|\x1b\[([<=>?]?{PARAMS}[ -/]{{0,4}}[@-~])|([\x00-\x9f])"
)
"""Groups: 1 text, 2 SGR, 3 text right after it, 4 C0, 5 any other complete CSI, 6 what the state
machine takes."""
CSI_BODY = re.compile(rf"([<=>?]?)({PARAMS})([ -/]{{0,4}})([@-~])")
SGR_BODY = re.compile(rf"{SGR_PARAMS}m")
MAX_CSI = 1 + MAX_PARAMS + 4 + 1
SEQUENCE_PART = re.compile(r"[ -?]*")
STRING_END = re.compile(r"[\x07\x18\x1a\x1b]")
C1 = re.compile(r"[\x80-\x9f]")

MAX_PARAMETERS = 32
MAX_REMEMBERED = 4096
"""CSI sequences whose meaning is kept."""

GROUND, ESCAPE, SEQUENCE, STRING = "ground", "escape", "csi", "string"
Call = tuple[Callable[..., Any], tuple[int, ...]]


class TerminalStream(pyte.ByteStream):
    """Feeds one `Terminal`. Sequences may be cut anywhere between two feeds."""

    def __init__(self, terminal: Terminal) -> None:
        super().__init__(terminal, strict=False)
        self.terminal = terminal
        self._state = GROUND
        self._collected: list[str] = []
        self._collected_size = 0
        self._string_kind = ""
        self._ending: str | None = None
        """The payload of a string whose ST has begun."""
        self._last_text = ""
        self._controls: dict[str, Callable[[], None]] = {
            key: getattr(terminal, name) for key, name in CONTROLS.items()
        }
        self._calls: dict[str, Call] = {}

    @property
    def in_ground(self) -> bool:
        """No sequence is half read: what comes next may take the fast path."""
        return self._state is GROUND

    def decode(self, data: bytes) -> str:
        """UTF-8, malformed parts replaced, characters cut between feeds completed; 8-bit controls
        in their ESC form."""
        text = self.utf8_decoder.decode(data)
        if text.isascii() or not C1.search(text):
            return text
        return C1.sub(lambda found: "\x1b" + chr(ord(found[0]) - 0x40), text)

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
        terminal, controls, calls = self.terminal, self._controls, self._calls
        draw, after_sgr = terminal.draw, terminal.styles.after_sgr
        last: str = self._last_text
        for found in TOKEN.finditer(text, position):
            group = found.lastindex or 0
            token: str = found[group]
            if group == 2 or group == 3:
                params: str = found[2]
                style = terminal.style
                terminal.style = style.next_styles.get(params) or after_sgr(style, params)
                if group == 3:
                    draw(token)
                    last = token
            elif group == 1:
                draw(token)
                last = token
            elif group == 4:
                controls[token]()
                last = ""
            elif group == 5:
                terminal.last_drawn = last
                action, arguments = calls.get(token) or self._learn(token)
                action(*arguments)
                last = ""
            else:
                self._last_text = ""
                self._step_ground(token)
                return found.end()
        self._last_text = last
        return len(text)

    # -- the state machine ------------------------------------------------------------------------

    def _step_ground(self, character: str) -> None:
        if character == "\x1b":
            self._enter(ESCAPE)
        else:
            self._control(character)

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
            return self._sequence(text, position)
        return position + 1

    def _enter(self, state: str) -> None:
        self._state, self._collected, self._collected_size = state, [], 0
        self._ending = None

    def _collect(self, text: str) -> None:
        self._collected.append(text)
        self._collected_size += len(text)

    def _control(self, character: str) -> None:
        if (action := self._controls.get(character)) is not None:
            action()

    def _escape(self, character: str) -> None:
        if not self._collected and character == "[":
            self._enter(SEQUENCE)
        elif not self._collected and character in "]PX^_":
            self._enter(STRING)
            self._string_kind = character
        elif " " <= character <= "/":
            if self._collected_size < 4:
                self._collect(character)
        elif character == "\\" and self._ending is not None:
            payload = self._ending
            self._enter(GROUND)
            self._dispatch_string(payload)
        else:
            collected = "".join(self._collected)
            self._enter(GROUND)
            self._dispatch_escape(collected, character)

    def _sequence(self, text: str, position: int) -> int:
        """A stretch of a control sequence, up to its end. What is too long means nothing, and so
        does a sequence with anything but ASCII in it."""
        end = SEQUENCE_PART.match(text, position).end()  # pyright: ignore[reportOptionalMemberAccess]
        if end == position and not "@" <= text[position] <= "~":
            end += 1
        if self._collected_size < MAX_CSI:
            self._collect(text[position : min(end, position + MAX_CSI - self._collected_size)])
        if end < len(text) and "@" <= text[end] <= "~":
            self._end_sequence(text[end])
            return end + 1
        return end

    def _end_sequence(self, final: str) -> None:
        if self._collected_size < MAX_CSI:
            self._collect(final)
        body = "".join(self._collected)
        self._enter(GROUND)
        if SGR_BODY.fullmatch(body):
            self.terminal.sgr(body[:-1])
        else:
            self.terminal.last_drawn = ""
            action, arguments = self._learn(body)
            action(*arguments)

    def _feed_string(self, text: str, position: int) -> int:
        found = STRING_END.search(text, position)
        end = found.start() if found else len(text)
        if self._collected_size <= self._most():
            self._collect(text[position : min(end, position + MAX_OSC_52 + 1)])
        if found is None:
            return end
        if found[0] == "\x07" and self._string_kind != "]":
            return end + 1  # BEL ends only an OSC
        payload = "".join(self._collected) if self._collected_size <= self._most() else None
        self._enter(ESCAPE if found[0] == "\x1b" else GROUND)
        if found[0] == "\x1b":
            self._ending = payload  # if this is the start of ST; anything else cancels it
        elif found[0] == "\x07" and payload is not None:
            self._dispatch_string(payload)
        return end + 1

    def _most(self) -> int:
        """How much of this string is read: what is longer is swallowed whole."""
        if self._string_kind == "]":
            start = "".join(self._collected[:3])[:3]
            return MAX_OSC_52 if start == "52;" else MAX_OSC
        return MAX_OSC if self._string_kind == "P" else 0

    # -- dispatch ---------------------------------------------------------------------------------

    def _dispatch_escape(self, intermediates: str, final: str) -> None:
        if intermediates in ("(", ")", "*", "+"):
            self.terminal.define_charset(final, intermediates)
        elif (action := ESCAPES.get(intermediates + final)) is not None:
            getattr(self.terminal, action[0])(*action[1:])

    def _dispatch_string(self, payload: str) -> None:
        kind = self._string_kind
        if kind == "]":
            self.terminal.operating_system_command(payload)
        elif kind == "P" and payload.startswith("$q"):
            self.terminal.report_setting(payload[2:])
        elif kind == "P" and payload.startswith("+q"):
            self.terminal.report_capabilities(payload[2:])

    def _learn(self, body: str) -> Call:
        """What `CSI body` calls; an unknown one calls nothing."""
        call = self._call_for(body)
        if len(body) <= 32:
            if len(self._calls) >= MAX_REMEMBERED:
                self._calls.clear()
            self._calls[body] = call
        return call

    def _call_for(self, body: str) -> Call:
        parts = CSI_BODY.fullmatch(body)
        known = CSI.get(parts[1] + parts[3] + parts[4]) if parts else None
        if parts is None or known is None:
            return _nothing, ()
        name, most, *private = known
        action: Callable[..., Any] = getattr(self.terminal, name)
        return partial(action, private=True) if private else action, numbers(parts[2])[:most]


def _nothing() -> None:
    """What an unknown sequence does."""


@lru_cache(maxsize=2048)
def numbers(parameters: str) -> tuple[int, ...]:
    """`12;;5` → (12, 0, 5), each at most 9999. No parameters: none."""
    if not parameters:
        return ()
    return tuple(
        min(int(part.lstrip("0")[:6] or 0), 9999)
        for part in parameters.split(";", MAX_PARAMETERS)[:MAX_PARAMETERS]
    )
