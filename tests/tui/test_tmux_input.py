"""Mouse, focus, pastes and the clipboard all the way: a terminal, tmux, the application, a guest.

A client of tmux runs in a pseudo-terminal of ours and is sent what a terminal sends; the guest
shows what reached it.
"""

from __future__ import annotations

import base64
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
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.tui.test_tmux import ROOT, Terminal, leave_pane
from tests.tui.tmux_app import COPIED

COLUMNS, ROWS = 100, 30


class Client:
    """A terminal attached to tmux."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.set_blocking(descriptor, False)

    def send(self, data: bytes) -> None:
        """What a terminal sends when something happens to it."""
        os.write(self._descriptor, data)

    def copies(self, wanted: bytes, seconds: float) -> bool:
        """Read what tmux draws until it puts `wanted` into the clipboard, or the time is over."""
        copied = b"\x1b]52;%s;%s" % (b"c", base64.b64encode(wanted))
        read, deadline = b"", time.monotonic() + seconds
        while copied not in read.replace(b"\x1b]52;;", b"\x1b]52;c;"):
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._descriptor], [], [], left)[0]:
                return False
            read = read[-200:] + os.read(self._descriptor, 65536)
        return True

    def drain(self) -> None:
        """Take what tmux has drawn: it waits for a terminal that does not."""
        with suppress(BlockingIOError):
            while os.read(self._descriptor, 65536):
                pass


@contextmanager
def attached_client(terminal: Terminal, environment: dict[str, str]) -> Generator[Client]:
    """tmux's client in a pseudo-terminal, for the length of the block."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    argv = ["setsid", "-c", "tmux", "-L", terminal.socket, "attach", "-t", "t"]
    process = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    try:
        yield Client(ours)
    finally:
        process.kill()  # a client that ends by itself waits until what it drew is read
        process.wait()
        os.close(ours)


@pytest.fixture
def environment() -> dict[str, str]:
    environment = {**os.environ, "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)}
    environment["LC_ALL"] = "C.UTF-8"
    for variable in ("TMUX", "ESCDELAY", "TEXTUAL_FPS"):
        environment.pop(variable, None)
    return environment


@pytest.fixture
def terminal(environment: dict[str, str]) -> Generator[Terminal]:
    if shutil.which("tmux") is None:
        pytest.fail("tmux is missing; make setup installs it")
    terminal = Terminal(environment, COLUMNS, ROWS)
    try:
        for option, value in (("status", "off"), ("mouse", "on"), ("set-clipboard", "on")):
            terminal.run("set-option", "-g", option, value)
        yield terminal
    finally:
        terminal.close()


def start(terminal: Terminal, settings: Path, policy: str) -> tuple[int, int]:
    """The application with the guest's pane attached; the screen's cell where the guest begins."""
    (settings / "tui.toml").write_text(f'[clipboard]\nguests = "{policy}"\n')
    terminal.type(f"{sys.executable} -m tests.tui.tmux_app {settings}; echo left-$?")
    terminal.keys("Enter")
    terminal.until(lambda: "ready" in terminal.pane("guest"), "the guest", 30)
    terminal.keys("Enter")
    terminal.until(lambda: r"b'\x1b[I'" in terminal.pane("guest"), "the focus", 30)
    lines = terminal.screen().splitlines()
    y = next(y for y, line in enumerate(lines) if "ready" in line)
    return lines[y].index("ready"), y


def leave(terminal: Terminal) -> None:
    """Back to the shell; the guest hears that it has the focus no more."""
    leave_pane(terminal)
    terminal.until(lambda: r"b'\x1b[O'" in terminal.pane("guest"), "the focus to go", 30)
    terminal.keys("q")
    terminal.until(lambda: "left-0" in terminal.screen(), "the end", 30)


@pytest.mark.timeout(120)
def test_mouse_pastes_and_copies_pass_through_tmux(
    terminal: Terminal, environment: dict[str, str], tmp_path: Path
) -> None:
    with attached_client(terminal, environment) as client:
        left, top = start(terminal, tmp_path, "allow")

        def reaches_guest(data: bytes) -> None:
            shown = repr(data)[2:-1]

            def there() -> bool:
                client.drain()
                return shown in terminal.pane("guest")

            terminal.until(there, f"{shown} in the guest", 30)

        x, y = left + 3, top + 1  # the guest's third column, first row; a terminal counts from 1
        for code, end in ((0, "M"), (32, "M"), (0, "m"), (64, "M"), (65, "M")):
            shift = 2 if code == 32 else 0  # a press, a drag, the release, the wheel up and down
            client.send(f"\x1b[<{code};{x + shift};{y}{end}".encode())
            reaches_guest(f"\x1b[<{code};{3 + shift};1{end}".encode())
        terminal.run("set-buffer", "two\nlines")
        terminal.run("paste-buffer", "-p", "-t", "t")
        reaches_guest(b"\x1b[200~two\rlines\x1b[201~")

        copies = 0
        while not copies or not client.copies(COPIED.encode(), 1):
            copies += 1  # tmux passes a copy on only while it redraws nothing: some are lost
            assert copies < 30, "no copy came to the terminal tmux runs in"
            client.send(b"c")
            terminal.until(
                lambda n=copies: terminal.pane("guest").count("b'c'") == n, "the key shown", 30
            )
            terminal.until(
                lambda: terminal.run("show-buffer") == COPIED, "the copy in tmux's buffer", 30
            )
        leave(terminal)


@pytest.mark.timeout(120)
def test_a_copy_that_is_denied_reaches_nobody(
    terminal: Terminal, environment: dict[str, str], tmp_path: Path
) -> None:
    terminal.run("set-buffer", "before")
    start(terminal, tmp_path, "deny")
    terminal.type("c")
    terminal.until(lambda: "b'c'" in terminal.pane("guest"), "the key", 30)
    terminal.type("d")  # shown after what the guest copied was read
    terminal.until(lambda: "b'd'" in terminal.pane("guest"), "the next key", 30)
    leave(terminal)
    assert terminal.run("show-buffer") == "before"
