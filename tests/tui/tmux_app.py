"""`python -m tests.tui.tmux_app SETTINGS`: the application with one sandbox that needs no VM.

Its workload (`… SETTINGS guest`) asks for the mouse, for focus and for bracketed pastes, shows each
thing it is sent, and copies to the clipboard when a `c` is typed.
"""

from __future__ import annotations

import base64
import os
import sys
import tty
from pathlib import Path

import anyio

from machinen_tui.app import MachinenApp
from machinen_tui.habits import Habits
from tests.tui.fake_sandboxes import FakeWorld

COPIED = "copied by the guest\n"


def guest() -> None:
    """Show what arrives, one line each, until the terminal closes."""
    tty.setraw(0)
    os.write(1, b"\x1b[?1002;1006;1004;2004h\x1b[2J\x1b[Hready")
    while data := os.read(0, 4096):
        os.write(1, b"\r\n" + repr(data).encode())
        if data == b"c":
            os.write(1, b"\x1b]52;c;%s\x1b\\" % base64.b64encode(COPIED.encode()))


async def main(settings: Path) -> None:
    """The application, until it is left."""
    world = FakeWorld()
    world.add("guest", [sys.executable, "-m", "tests.tui.tmux_app", str(settings), "guest"])
    try:
        await MachinenApp(world, habits=Habits(settings)).run_async()
    finally:
        world.close()


if __name__ == "__main__":
    if sys.argv[2:] == ["guest"]:
        guest()
    else:
        anyio.run(main, Path(sys.argv[1]))
