"""The terminal this process runs on: raw mode, size, and its descriptors as streams."""

from __future__ import annotations

import os
import re
import select
import termios
import tty
from collections.abc import Generator
from contextlib import contextmanager, suppress

import anyio
import anyio.lowlevel
from anyio.abc import ByteReceiveStream, ByteSendStream

STDIN, STDOUT = 0, 1
READ_BYTES = 65536
FALLBACK_SIZE = (80, 24)

# Leaves what a program has switched on: mouse, paste, application keys, hidden cursor, insert mode,
# charset, colours, scroll region (around which the cursor is saved, because setting it moves it),
# and clears what is below the cursor. No soft reset (DECSTR): tmux clears the screen for it.
# Source: xterm's ctlseqs.
RESET_MODES = (
    b"\x1b[?1000;1002;1003;1004;1006;2004l\x1b[?1l\x1b>\x1b[?7h\x1b[?25h\x1b[4l\x1b(B"
    b"\x1b[0m\x1b7\x1b[r\x1b8\x1b[J"
)
_ALTERNATE_SCREEN = re.compile(rb"\x1b\[\?(?:\d+;)*(?:47|1047|1049)(?:;\d+)*([hl])")
_LONGEST_SPLIT = 24
_QUERIES = re.compile(
    rb"\x1b\[[?>=]?[0-9;]*[cn]"  # device attributes and status, cursor position
    rb"|\x1b\[\??[0-9;]*\$p|\x1b\[>[0-9]*q|\x1b\[\?u"  # modes, version, keyboard protocol
    rb"|\x1b\[(?:1[1-689]|2[01])(?:;[0-9]+)*t"  # window state, size, title
    rb"|\x1b\][^\x07\x1b]*\?(?:\x07|\x1b\\)"  # colours, clipboard
    rb"|\x1bP[+$]q[^\x1b]*\x1b\\|\x1bZ|\x05"  # settings, capabilities, identity
)


def strip_queries(output: bytes) -> bytes:
    """Output without what a terminal answers by typing.

    For old output that is shown again: whoever asked has had its answer, and a second one would be
    typed into the guest. Source: xterm's ctlseqs.
    """
    return _QUERIES.sub(b"", output)


class ScreenWatch:
    """Watches output for switches to the alternate screen, so that it can be left when we leave.

    Leaving it without being in it would move the cursor over what was written.
    """

    def __init__(self) -> None:
        self.alternate = False
        self._tail = b""

    def feed(self, chunk: bytes) -> None:
        """Look at a chunk of output; a sequence may be cut by its end."""
        text = self._tail + chunk
        for switch in _ALTERNATE_SCREEN.finditer(text):
            self.alternate = switch[1] == b"h"
        self._tail = text[-_LONGEST_SPLIT:]

    def reset_sequence(self) -> bytes:
        """What makes the terminal fit for a shell again."""
        return (b"\x1b[?1049l" if self.alternate else b"") + RESET_MODES


class DescriptorReceiveStream(ByteReceiveStream):
    """Reads a descriptor that stays the caller's: a terminal, a pipe, a file, or a closed one."""

    def __init__(self, descriptor: int = STDIN) -> None:
        self.descriptor = descriptor

    async def receive(self, max_bytes: int = READ_BYTES) -> bytes:
        """The next bytes; anyio.EndOfStream at the end, or if there is no such descriptor."""
        await anyio.lowlevel.checkpoint()
        # epoll refuses files and /dev/null with EPERM: they are always ready.
        with suppress(PermissionError):
            try:
                await anyio.wait_readable(self.descriptor)
            except (OSError, ValueError) as error:
                if isinstance(error, PermissionError):
                    raise
                raise anyio.EndOfStream from error
        try:
            data = os.read(self.descriptor, max_bytes)
        except OSError as error:
            raise anyio.EndOfStream from error
        if not data:
            raise anyio.EndOfStream
        return data

    async def aclose(self) -> None:
        """Nothing: the descriptor is not ours."""


class DescriptorSendStream(ByteSendStream):
    """Writes to a descriptor that stays the caller's."""

    def __init__(self, descriptor: int = STDOUT) -> None:
        self.descriptor = descriptor

    async def send(self, item: bytes) -> None:
        """Write all of `item`; blocks the loop as long as the reader does not read."""
        await anyio.lowlevel.checkpoint()
        write_all(self.descriptor, item)

    async def aclose(self) -> None:
        """Nothing: the descriptor is not ours."""


@contextmanager
def raw_terminal() -> Generator[None]:
    """Put the terminal on stdin into raw mode for the length of the block; no terminal, no mode."""
    if not os.isatty(STDIN):
        yield
        return
    before = termios.tcgetattr(STDIN)
    tty.setraw(STDIN, termios.TCSADRAIN)
    try:
        yield
    finally:
        termios.tcsetattr(STDIN, termios.TCSADRAIN, before)


def terminal_size() -> tuple[int, int]:
    """Columns and rows of the terminal on stdout or stdin, else 80 by 24."""
    return own_terminal_size() or FALLBACK_SIZE


def own_terminal_size() -> tuple[int, int] | None:
    """Columns and rows of the terminal on stdout or stdin; None: neither is one."""
    for descriptor in (STDOUT, STDIN):
        with suppress(OSError):
            size = os.get_terminal_size(descriptor)
            if size.columns > 0 and size.lines > 0:
                return size.columns, size.lines
    return None


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte, waiting for the reader where needed."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:  # a descriptor that others have made non-blocking
            select.select([], [descriptor], [])
