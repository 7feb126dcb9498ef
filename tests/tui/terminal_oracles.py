"""Other terminals to compare with: libvterm in this process, tmux over its control mode."""

from __future__ import annotations

import ctypes
import os
import subprocess
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Screen(NamedTuple):
    """What a terminal shows: rows without their blank ends, and the cursor."""

    rows: list[str]
    x: int
    y: int


class _Rect(ctypes.Structure):
    _fields_ = (
        ("start_row", ctypes.c_int),
        ("end_row", ctypes.c_int),
        ("start_col", ctypes.c_int),
        ("end_col", ctypes.c_int),
    )


class _Position(ctypes.Structure):
    _fields_ = (("row", ctypes.c_int), ("col", ctypes.c_int))


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL("libvterm.so.0")
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    for name in ("vterm_new", "vterm_obtain_screen", "vterm_obtain_state"):
        getattr(library, name).restype = pointer
    library.vterm_obtain_screen.argtypes = library.vterm_obtain_state.argtypes = [pointer]
    library.vterm_free.argtypes = [pointer]
    library.vterm_set_utf8.argtypes = [pointer, ctypes.c_int]
    library.vterm_screen_enable_altscreen.argtypes = [pointer, ctypes.c_int]
    library.vterm_screen_reset.argtypes = [pointer, ctypes.c_int]
    library.vterm_input_write.argtypes = [pointer, ctypes.c_char_p, size]
    library.vterm_input_write.restype = size
    library.vterm_screen_get_text.argtypes = [pointer, ctypes.c_char_p, size, _Rect]
    library.vterm_screen_get_text.restype = size
    library.vterm_state_get_cursorpos.argtypes = [pointer, ctypes.POINTER(_Position)]
    return library


def libvterm_screen(data: bytes, columns: int, lines: int) -> Screen:
    """What libvterm shows after `data`."""
    library = _library()
    terminal = library.vterm_new(lines, columns)
    try:
        library.vterm_set_utf8(terminal, 1)
        screen = library.vterm_obtain_screen(terminal)
        library.vterm_screen_enable_altscreen(screen, 1)
        library.vterm_screen_reset(screen, 1)
        library.vterm_input_write(terminal, data, len(data))
        buffer = ctypes.create_string_buffer(columns * 32)
        rows: list[str] = []
        for y in range(lines):
            area = _Rect(y, y + 1, 0, columns)
            count = library.vterm_screen_get_text(screen, buffer, len(buffer), area)
            rows.append(buffer.raw[:count].decode().rstrip())
        position = _Position()
        state = library.vterm_obtain_state(terminal)
        library.vterm_state_get_cursorpos(state, ctypes.byref(position))
        return Screen(rows, position.col, position.row)
    finally:
        library.vterm_free(terminal)


class Tmux:
    """One pane of a tmux server of its own. What is fed goes to the pane through a pipe."""

    def __init__(self, process: subprocess.Popen[bytes], pipe: int) -> None:
        self._process = process
        self._pipe = pipe
        self._read_until(b"%end")  # of the command that made the session

    def feed(self, data: bytes) -> None:
        """Give the pane `data`; returns when tmux has parsed it."""
        token = uuid.uuid4().hex
        os.write(self._pipe, data + b"\x1b]2;" + token.encode() + b"\x1b\\")
        parsed = b""  # tmux tells what it has parsed in pieces, and may cut the token
        while token.encode() not in parsed:
            line = self._line()
            if line.startswith(b"%output "):
                parsed = parsed[-len(token) :] + line.split(b" ", 2)[2]

    def screen(self) -> Screen:
        """What it shows."""
        rows = self.command("capture-pane -p -t t")
        x, y, width = map(
            int, self.command("display -p '#{cursor_x} #{cursor_y} #{pane_width}'")[0].split()
        )
        return Screen([row.rstrip() for row in rows], min(x, width - 1), y)

    def styled_rows(self) -> list[str]:
        """Its rows with SGR."""
        return self.command("capture-pane -p -e -N -t t")

    def command(self, text: str) -> list[str]:
        """One tmux command and what it printed."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode() + b"\n")
        self._process.stdin.flush()
        self._read_until(b"%begin")
        lines: list[str] = []
        while not (line := self._line()).startswith((b"%end", b"%error")):
            lines.append(line.decode())
        assert line.startswith(b"%end"), lines
        return lines

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "tmux has ended"
        return line.rstrip(b"\n")

    def _read_until(self, wanted: bytes) -> None:
        while wanted not in self._line():
            pass


@contextmanager
def tmux_pane(directory: Path, columns: int, lines: int) -> Generator[Tmux]:
    """A pane for the length of the block."""
    pipe_path = directory / "pane"
    os.mkfifo(pipe_path)
    socket = f"machinen-oracle-{uuid.uuid4().hex[:8]}"
    argv = ["tmux", "-L", socket, "-f", "/dev/null"]
    command = f"stty raw -echo; exec cat {pipe_path}"
    process = subprocess.Popen(
        [*argv, "-C", "new-session", "-x", str(columns), "-y", str(lines), "-s", "t", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    try:
        pipe = os.open(pipe_path, os.O_WRONLY)
        try:
            pane = Tmux(process, pipe)
            pane.command(f"refresh-client -C {columns}x{lines}")
            pane.command("set -g status off")
            yield pane
        finally:
            os.close(pipe)
    finally:
        subprocess.run([*argv, "kill-server"], check=False, capture_output=True)
        process.communicate(timeout=10)
