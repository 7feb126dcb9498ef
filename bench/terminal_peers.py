"""What the emulator is measured beside: tmux showing a file, and pyte as it comes.

tmux is timed from the `cat` it runs until it answers a question asked after it; a server of its
own, at 80x24, nobody attached.
"""

from __future__ import annotations

import subprocess
import tempfile
import time
import uuid
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pyte

PIECE_BYTES = 64 * 1024
TMUX_TIMEOUT_S = 120


class Tmux:
    """A tmux server of ours; `show` shows a file in its pane."""

    def __init__(self, columns: int, lines: int) -> None:
        self._socket = f"machinen-bench-{uuid.uuid4().hex[:8]}"
        self.run("new-session", "-d", "-x", str(columns), "-y", str(lines), "-s", "t", "cat")

    def run(self, *arguments: str) -> None:
        """One tmux command."""
        command = ["tmux", "-L", self._socket, "-f", "/dev/null", *arguments]
        subprocess.run(command, check=True, capture_output=True, timeout=TMUX_TIMEOUT_S)

    def show_s(self, path: Path) -> float:
        """Seconds from starting `cat` on `path` until tmux has parsed all of it.

        After the file the pane asks for the cursor: tmux answers when it gets there.
        """
        name = uuid.uuid4().hex
        command = (
            f"stty raw -echo; cat {path}; printf '\\033c\\033[6n'; dd bs=1 count=6 of=/dev/null "
            f"2>/dev/null; tmux -L {self._socket} wait-for -S {name}; exec cat"
        )
        started = time.perf_counter()
        self.run("respawn-pane", "-k", "-t", "t", command)
        self.run("wait-for", name)
        return time.perf_counter() - started


@contextmanager
def tmux_server(columns: int = 80, lines: int = 24) -> Generator[Tmux]:
    """A server for the length of the block."""
    server = Tmux(columns, lines)
    try:
        yield server
    finally:
        server.run("kill-server")


@contextmanager
def file_with(data: bytes) -> Generator[Path]:
    """A file holding `data` for the length of the block."""
    with tempfile.NamedTemporaryFile(prefix="mnb-", suffix=".out") as file:
        file.write(data)
        file.flush()
        yield Path(file.name)


def stock_pyte_s(data: bytes, columns: int, lines: int) -> float:
    """Seconds pyte needs for `data`, or until it gives up.

    Raises:
        Exception: what pyte raises for a sequence it does not know.
    """
    stream = pyte.ByteStream(pyte.Screen(columns, lines))
    started = time.perf_counter()
    for start in range(0, len(data), PIECE_BYTES):
        stream.feed(data[start : start + PIECE_BYTES])
    return time.perf_counter() - started
