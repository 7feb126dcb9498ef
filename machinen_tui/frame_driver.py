"""The terminal is told a frame in one piece.

Textual hands the mark before a frame, the frame and the mark behind it to the thread that writes,
one by one: three times that thread has to get its turn, in the middle of everything else, and the
terminal waits for the last.

A terminal may take frames slower than they are made. Textual lets thirty of them wait, each older
than what one should see, and stops altogether at the next; who makes frames can ask here first.
"""

# pyright: reportPrivateUsage=false
from __future__ import annotations

from typing import TextIO, cast

from textual._ansi_sequences import SYNC_END, SYNC_START
from textual.driver import Driver
from textual.drivers.linux_driver import LinuxDriver


class Counted:
    """The file the thread writes to; knows how much the terminal has taken."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._written = 0
        self.taken = 0
        """So many pieces were written and flushed."""

    def write(self, text: str) -> None:
        self._file.write(text)
        self._written += 1

    def flush(self) -> None:
        self._file.flush()
        self.taken = self._written

    def fileno(self) -> int:
        return self._file.fileno()


class FrameDriver(LinuxDriver):
    """Holds what is written between the marks of a frame (mode 2026) back until the second one."""

    _frame: list[str] | None = None

    _handed = 0
    _counted: Counted | None = None

    def start_application_mode(self) -> None:
        if self._counted is None:
            self._counted = Counted(self._file)
            self._file = cast("TextIO", self._counted)
        super().start_application_mode()

    @property
    def lags(self) -> bool:
        """The terminal has not taken all that was written."""
        if self._writer_thread is None or self._counted is None:
            return False
        return self._handed != self._counted.taken

    def write(self, data: str) -> None:
        if data == SYNC_START:
            self._frame = []
        if self._frame is None:
            self._hand_on(data)
            return
        self._frame.append(data)
        if data == SYNC_END:
            frame, self._frame = "".join(self._frame), None
            self._hand_on(frame)

    def _hand_on(self, data: str) -> None:
        self._handed += 1
        super().write(data)


def lags(driver: Driver | None) -> bool:
    """Whether the terminal takes frames slower than they come; of other drivers it is not known."""
    return isinstance(driver, FrameDriver) and driver.lags


def in_whole_frames(driver: type[Driver]) -> type[Driver]:
    """`driver`, or the one that writes whole frames for a terminal's; browsers have others."""
    return FrameDriver if driver is LinuxDriver else driver
