"""Answers to what a guest asks its terminal.

Sources: DEC's VT510 manual (DA, DSR, DECRQSS, DECRQCRA), xterm's ctlseqs (XTVERSION, XTWINOPS,
XTGETTCAP, DECRQM). Answers go to `on_reply`; it is None while a replay is fed, so that old
questions stay unanswered. Nothing a guest sent comes back to it but hexadecimal digits and numbers:
an answer is input to whatever reads the terminal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyte.modes as modes

from machinen_tui.terminal_device import Device
from machinen_tui.terminal_modes import mode_state
from machinen_tui.terminal_sgr import sgr_params

ANSWER_DA1, ANSWER_DA2 = "\x1b[?62;22c", "\x1b[>1;100;0c"
"""A VT220 with colours; a terminal of no known make."""
ANSWER_DA3 = "\x1bP!|00000000\x1b\\"
VERSION = "machinen"
CELL_WIDTH, CELL_HEIGHT = 8, 16
"""Pixels a cell claims to have; nobody here can know."""
CAPABILITIES = {"TN": "xterm-256color", "Co": "256", "colors": "256", "RGB": "8/8/8"}
PRIVATE_STATUS = {
    15: "?13n", 25: "?20n", 26: "?27;1;0;0n", 53: "?53n", 55: "?53n", 56: "?57;0n", 62: "0*{",
    75: "?70n", 85: "?83n",
}  # fmt: skip
"""DSR: no printer, keys unlocked, a North American keyboard, no locator, no macros, no session
manager."""


class Reports(Device):
    """A device that answers."""

    def __init__(self, columns: int, lines: int) -> None:
        self.on_reply: Callable[[bytes], None] | None = None
        super().__init__(columns, lines)

    def reply(self, text: str) -> None:
        """Send an answer."""
        if self.on_reply is not None:
            self.on_reply(text.encode())

    def write_process_input(self, data: str) -> None:
        """pyte's name of `reply`."""
        self.reply(data)

    # -- what it is -------------------------------------------------------------------------------

    def report_device_attributes(self, mode: int = 0, **kwargs: bool) -> None:
        """DA1."""
        if mode == 0:
            self.reply(ANSWER_DA1)

    def report_secondary_attributes(self, mode: int = 0) -> None:
        """DA2."""
        if mode == 0:
            self.reply(ANSWER_DA2)

    def report_tertiary_attributes(self, mode: int = 0) -> None:
        """DA3."""
        if mode == 0:
            self.reply(ANSWER_DA3)

    def report_parameters(self, mode: int = 0) -> None:
        """DECREQTPARM: no parity, eight bits, 38400 baud both ways."""
        if mode <= 1:
            self.reply(f"\x1b[{mode + 2};1;1;128;128;1;0x")

    def report_version(self, mode: int = 0) -> None:
        """XTVERSION."""
        if mode == 0:
            self.reply(f"\x1bP>|{VERSION}\x1b\\")

    def report_capabilities(self, payload: str) -> None:
        """XTGETTCAP: names in hexadecimal, each answered by itself."""
        for name in payload.split(";")[:16]:
            try:
                text = bytes.fromhex(name).decode("ascii")
            except ValueError:
                self.reply("\x1bP0+r\x1b\\")
                continue
            value = CAPABILITIES.get(text)
            hexadecimal = text.encode().hex()
            if value is None:
                self.reply(f"\x1bP0+r{hexadecimal}\x1b\\")
            else:
                self.reply(f"\x1bP1+r{hexadecimal}={value.encode().hex()}\x1b\\")

    # -- how it is --------------------------------------------------------------------------------

    def report_device_status(self, mode: int = 0) -> None:
        """DSR: 5 asks for health, 6 for the cursor (CPR)."""
        if mode == 5:
            self.reply("\x1b[0n")
        elif mode == 6:
            self.reply("\x1b[{};{}R".format(*self._reported_position()))

    def report_private_status(self, mode: int = 0, request: int = 0) -> None:
        """DECXCPR and DEC's other states."""
        if mode == 6:
            self.reply("\x1b[?{};{}R".format(*self._reported_position()))
        elif mode == 63:
            self.reply(f"\x1bP{request}!~0000\x1b\\")  # the checksum of no macros
        elif mode in PRIVATE_STATUS:
            self.reply("\x1b[" + PRIVATE_STATUS[mode])

    def report_mode(self, number: int = 0) -> None:
        """DECRQM for a private mode."""
        state = mode_state(number, private=True, on=self.has_mode(number))
        self.reply(f"\x1b[?{number};{state}$y")

    def report_ansi_mode(self, number: int = 0) -> None:
        """DECRQM for one of ECMA-48's."""
        self.reply(f"\x1b[{number};{mode_state(number, private=False, on=number in self.mode)}$y")

    def report_setting(self, name: str) -> None:
        """DECRQSS: one setting, as the sequence that would bring it about."""
        makers: dict[str, Callable[[], str]] = {
            "m": lambda: sgr_params(self.style.style),
            "r": lambda: self._span(self.region()),
            "s": lambda: self._span(self.sides()),
            " q": lambda: str(self.cursor_shape or 1),
            '"q': lambda: str(int(self.style.style.protected)),
            '"p': lambda: "62;1",
            "t": lambda: str(self.lines),
            "$|": lambda: str(self.columns),
            "*|": lambda: str(self.lines),
        }
        make = makers.get(name)
        self.reply(f"\x1bP1$r{make()}{name}\x1b\\" if make else "\x1bP0$r\x1b\\")

    @staticmethod
    def _span(bounds: tuple[int, int]) -> str:
        return f"{bounds[0] + 1};{bounds[1] + 1}"

    def report_checksum(
        self,
        request: int = 0,
        page: int = 0,
        top: int = 0,
        left: int = 0,
        bottom: int = 0,
        right: int = 0,
    ) -> None:
        """DECRQCRA: the negated sum of the characters in a rectangle, and of what emphasises
        them."""
        first_row, first_column = self._origin()
        rows = slice(first_row + (top or 1) - 1, first_row + min(bottom or self.lines, self.lines))
        columns = slice(
            first_column + (left or 1) - 1, first_column + min(right or self.columns, self.columns)
        )
        total = sum(_weight(cell) for row in self.buffer[rows] for cell in row[columns])
        self.reply(f"\x1bP{request}!~{-total & 0xFFFF:04X}\x1b\\")

    def report_window(self, what: int = 0, which: int = 0, *_: int) -> None:
        """XTWINOPS: sizes and states. Nothing moves a window from inside a guest, and titles are
        not told: they come from the guest and would be typed."""
        height, width = self.lines * CELL_HEIGHT, self.columns * CELL_WIDTH
        answers: dict[int, str] = {
            11: "1t", 13: "3;0;0t", 14: f"4;{height};{width}t", 15: f"5;{height};{width}t",
            16: f"6;{CELL_HEIGHT};{CELL_WIDTH}t", 18: f"8;{self.lines};{self.columns}t",
            19: f"9;{self.lines};{self.columns}t",
        }  # fmt: skip
        if what in answers:
            self.reply("\x1b[" + answers[what])
        elif what in (20, 21):
            self.reply(f"\x1b]{'L' if what == 20 else 'l'}\x1b\\")
        elif what in (22, 23):
            self.stack_title(push=what == 22)

    def stack_title(self, *, push: bool) -> None:
        """XTWINOPS 22 and 23."""

    def _origin(self) -> tuple[int, int]:
        """The row and column positions count from."""
        return (self.region()[0], self.sides()[0]) if modes.DECOM in self.mode else (0, 0)

    def _reported_position(self) -> tuple[int, int]:
        top, left = self._origin()
        return self.cursor.y - top + 1, self.column() - left + 1


def _weight(cell: Any) -> int:
    """What a cell adds to a checksum (xterm's bits)."""
    style = cell.style
    return (
        (ord(cell.data[0]) if cell.data else 0)
        + 0x80 * style.bold
        + 0x40 * style.blink
        + 0x20 * style.reverse
        + 0x10 * (style.underline > 0)
        + 0x08 * style.conceal
        + 0x04 * style.protected
    )
