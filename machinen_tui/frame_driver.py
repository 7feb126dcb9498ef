"""The terminal is told a frame in one piece.

Textual hands the mark before a frame, the frame and the mark behind it to the thread that writes,
one by one: three times that thread has to get its turn, in the middle of everything else, and the
terminal waits for the last.
"""

# pyright: reportPrivateUsage=false
from __future__ import annotations

from textual._ansi_sequences import SYNC_END, SYNC_START
from textual.driver import Driver
from textual.drivers.linux_driver import LinuxDriver


class FrameDriver(LinuxDriver):
    """Holds what is written between the marks of a frame (mode 2026) back until the second one."""

    _frame: list[str] | None = None

    def write(self, data: str) -> None:
        if data == SYNC_START:
            self._frame = []
        if self._frame is None:
            super().write(data)
            return
        self._frame.append(data)
        if data == SYNC_END:
            frame, self._frame = "".join(self._frame), None
            super().write(frame)


def in_whole_frames(driver: type[Driver]) -> type[Driver]:
    """`driver`, or the one that writes whole frames for a terminal's; browsers have others."""
    return FrameDriver if driver is LinuxDriver else driver
