"""Real programs in a pane: each runs on a pseudo-terminal that our terminal answers, is typed into,
and what it wrote must show in tmux what it shows in ours."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
import uuid
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from machinen_tui.terminal_model import TerminalModel
from tests.tui.terminal_oracles import Screen, tmux_pane

COLUMNS, LINES = 80, 24
pytestmark = pytest.mark.timeout(120)


class Program:
    """A program on a terminal of ours; `written` is all it has written."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int) -> None:
        self._process = process
        self._descriptor = descriptor
        self.written = b""
        self.model = TerminalModel(COLUMNS, LINES, on_reply=self.type)

    def type(self, data: bytes) -> None:
        os.write(self._descriptor, data)

    def until(self, text: str, seconds: float = 30) -> None:
        """Read until `text` is on the screen."""
        deadline = time.monotonic() + seconds
        while text not in self.model.screen_text():
            left = deadline - time.monotonic()
            ready = select.select([self._descriptor], [], [], max(left, 0))[0]
            assert ready, f"waited for {text!r} in:\n{self.model.screen_text()}"
            data = os.read(self._descriptor, 65536)
            self.written += data
            self.model.feed(data)

    def screen(self) -> Screen:
        terminal = self.model.terminal
        rows = [self.model.text(y) for y in range(LINES)]
        return Screen(rows, terminal.column(), terminal.cursor.y)


@contextmanager
def running(argv: Sequence[str], directory: Path) -> Generator[Program]:
    """`argv` on a terminal for the length of the block."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    environment = {"PATH": os.environ["PATH"], "HOME": str(directory), "LC_ALL": "C.UTF-8"}
    environment |= {"TERM": "xterm-256color", "PS1": "$ "}
    process = subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
    )
    os.close(theirs)
    try:
        yield Program(process, ours)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def assert_as_in_tmux(program: Program, directory: Path) -> None:
    with tmux_pane(directory, COLUMNS, LINES) as pane:
        pane.feed(program.written)
        assert program.screen() == pane.screen()


def test_python_at_its_prompt(tmp_path: Path) -> None:
    with running([sys.executable, "-q"], tmp_path) as program:
        program.until(">>>")
        program.type(b"for n in range(40): print(n, 'line' * n)\n\n")
        program.until("39 line")
        program.until("\n>>>")
        program.type(b"'\xe6\x97\xa5\xe6\x9c\xac' + 'x' * 90\x01\x0b'done', 6 * 7\n")
        program.until("('done', 42)")
        assert_as_in_tmux(program, tmp_path)


def test_a_shell_editing_a_long_line(tmp_path: Path) -> None:
    shell = shutil.which("bash")
    assert shell is not None
    with running([shell, "--norc", "--noprofile"], tmp_path) as program:
        program.until("$")
        program.type(b"echo " + b"0123456789 " * 9 + b"\x01\x1bf\x1bfXY\x05 end")
        program.until("end")
        program.type(b"\x17\x17last")
        program.until("last")
        assert_as_in_tmux(program, tmp_path)


def test_tmux_inside_with_two_panes(tmp_path: Path) -> None:
    socket = f"machinen-inner-{uuid.uuid4().hex[:8]}"
    argv = ["tmux", "-L", socket, "-f", "/dev/null"]
    try:
        start = ["new-session", "-s", "inner", "sh", ";", "set", "-g", "assume-paste-time", "0"]
        with running([*argv, *start], tmp_path) as program:
            program.until("[inner]")
            for keys, shown in (
                (b"\x02%", "\u2502"), (b"seq 50\r", "50"), (b'\x02"', "\u2500"),
                (b"echo third $((1+1))\r", "third 2"),
            ):  # fmt: skip
                program.type(keys)
                program.until(shown)
            assert program.model.terminal.alternate
            assert_as_in_tmux(program, tmp_path)
    finally:
        subprocess.run([*argv, "kill-server"], check=False, capture_output=True)
