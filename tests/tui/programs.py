"""Real programs on a pseudo-terminal that our terminal answers, and the same bytes in tmux."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from machinen_tui.terminal_cells import Style
from machinen_tui.terminal_model import TerminalModel
from tests.tui.terminal_oracles import Screen, Tmux, tmux_pane

COLUMNS, LINES = 80, 24


class Shown:
    """A terminal of ours that shows a program; `written` is all the program has written."""

    def __init__(self, on_reply: Callable[[bytes], None]) -> None:
        self.written = b""
        self.model = TerminalModel(COLUMNS, LINES, on_reply=on_reply)

    def take(self, data: bytes) -> None:
        """The program has written `data`."""
        self.written += data
        self.model.feed(data)

    def screen(self) -> Screen:
        """What is seen now."""
        terminal = self.model.terminal
        rows = [self.model.text(y) for y in range(LINES)]
        return Screen(rows, terminal.column(), terminal.cursor.y)


class Program(Shown):
    """A program on a pseudo-terminal of this host."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        super().__init__(self.type)
        self._process = process
        self._descriptor = descriptor

    def type(self, data: bytes) -> None:
        os.write(self._descriptor, data)

    def until(self, text: str, seconds: float = 30) -> None:
        """Read until `text` is on the screen."""
        deadline = time.monotonic() + seconds
        while text not in self.model.screen_text():
            self.read(deadline - time.monotonic(), f"for {text!r}")

    def until_coloured(self) -> None:
        """Read until some ink has a colour."""
        while not any(style.fg != "default" for _, style in inked(self.model).values()):
            self.read(what="for a colour")

    def read(self, seconds: float = 30, what: str = "for output") -> None:
        """Take what it writes next."""
        ready = select.select([self._descriptor], [], [], max(seconds, 0))[0]
        assert ready, f"waited {what} in:\n{self.model.screen_text()}"
        self.take(os.read(self._descriptor, 65536))


@contextmanager
def running(argv: Sequence[str], directory: Path) -> Generator[Program]:
    """`argv` on a terminal for the length of the block."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "LC_ALL": "C.UTF-8"}
    environment |= {"TERM": "xterm-256color", "PS1": "$ "}
    process = subprocess.Popen(  # setsid makes it the terminal of a session of its own
        ["setsid", "-c", *argv], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    try:
        yield Program(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


class Compared:
    """What a program wrote, shown by us and by tmux."""

    def __init__(self, program: Shown, pane: Tmux) -> None:
        self._shown, self.pane = program, pane
        self._fed = 0

    def compare(self) -> None:
        """Give tmux what was written since the last time; text, cursor and the looks of what has
        ink must be the same."""
        program = self._shown
        self.pane.feed(program.written[self._fed :])
        self._fed = len(program.written)
        assert program.screen() == self.pane.screen()
        assert inked(program.model) == inked(self._as_tmux_has_it())

    def _as_tmux_has_it(self) -> TerminalModel:
        model = TerminalModel(COLUMNS, LINES)
        model.feed("\r\n".join(self.pane.styled_rows()).encode())
        return model


class Beside(Compared):
    """A program of this host beside tmux: after each step both must show the same."""

    def __init__(self, program: Program, pane: Tmux) -> None:
        super().__init__(program, pane)
        self.program = program

    def step(self, keys: bytes, shown: str) -> None:
        """Type `keys`, wait for `shown`, compare."""
        self.program.type(keys)
        self.program.until(shown)
        self.compare()


def inked(model: TerminalModel) -> dict[tuple[int, int], tuple[str, Style]]:
    """The cells that are not blank, and their styles. Blanks are left out: tmux does not keep the
    background of erased ones in what it tells, and takes a pending wrap for a column."""
    return {
        (x, y): (cell.data, cell.style)
        for y in range(model.lines)
        for x, cell in enumerate(model.terminal.buffer[y][:COLUMNS])
        if cell.data.strip()
    }


@contextmanager
def beside_tmux(argv: Sequence[str], directory: Path) -> Generator[Beside]:
    """`argv` on a terminal of ours, beside tmux, for the length of the block."""
    with running(argv, directory) as program, tmux_pane(directory, COLUMNS, LINES) as pane:
        yield Beside(program, pane)
