"""The terminal is told a frame in one piece.

Textual hands the mark before a frame, the frame and the mark behind it to the thread that writes,
one by one: three times that thread has to get its turn, in the middle of everything else, and the
terminal waits for the last.

A terminal may take frames slower than they are made. Textual lets thirty of them wait, each older
than what one should see, and stops altogether at the next; who makes frames can ask here first.

A terminal may also go away. Who has it as its controlling one gets a SIGHUP; for others Textual
reads its end for ever, and waits for ever until it takes a frame. Here the application ends.
"""

# pyright: reportPrivateUsage=false
from __future__ import annotations

import select
import signal
from asyncio import TimerHandle
from typing import TextIO, cast

from textual._ansi_sequences import SYNC_END, SYNC_START
from textual.driver import Driver
from textual.drivers.linux_driver import LinuxDriver

HUNG_UP = 128 + signal.SIGHUP
"""What an application without a terminal ends with."""
LOOK_S = 1.0


class Counted:
    """The file the thread writes to; knows how much the terminal has taken.

    What is for a terminal that is gone counts as taken: nobody waits for it.
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._written = 0
        self.taken = 0
        """So many pieces were written and flushed."""
        self.gone = False

    def write(self, text: str) -> None:
        if not self.gone:
            try:
                self._file.write(text)
            except OSError:
                self.gone = True
        self._written += 1

    def flush(self) -> None:
        if not self.gone:
            try:
                self._file.flush()
            except OSError:
                self.gone = True
        self.taken = self._written

    def fileno(self) -> int:
        return self._file.fileno()


class FrameDriver(LinuxDriver):
    """Holds what is written between the marks of a frame (mode 2026) back until the second one."""

    _frame: list[str] | None = None

    _handed = 0
    _counted: Counted | None = None
    _next_look: TimerHandle | None = None

    def start_application_mode(self) -> None:
        if self._counted is None:
            self._counted = Counted(self._file)
            self._file = cast("TextIO", self._counted)
        super().start_application_mode()
        self._look()

    def stop_application_mode(self) -> None:
        if self._next_look is not None:
            self._next_look.cancel()
        super().stop_application_mode()

    def _look(self) -> None:
        """Every second: end if there is no terminal any more."""
        gone = self._counted is not None and self._counted.gone
        if gone or _is_hung_up(self.fileno):
            self._app.exit(None, HUNG_UP)
        else:
            self._next_look = self._loop.call_later(LOOK_S, self._look)

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


def _is_hung_up(fd: int) -> bool:
    """Whether the other end of this terminal is closed."""
    poll = select.poll()
    poll.register(fd, 0)
    return any(event & (select.POLLHUP | select.POLLERR) for _, event in poll.poll(0))


def lags(driver: Driver | None) -> bool:
    """Whether the terminal takes frames slower than they come; of other drivers it is not known."""
    return isinstance(driver, FrameDriver) and driver.lags


def in_whole_frames(driver: type[Driver]) -> type[Driver]:
    """`driver`, or the one that writes whole frames for a terminal's; browsers have others."""
    return FrameDriver if driver is LinuxDriver else driver
