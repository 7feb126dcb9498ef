"""One attached sandbox: its connection to the session `main`, its terminal, and the bytes between
them.

The reader only queues what arrives and says so; `drain` feeds the terminal when the application has
time. At most `MAX_UNPARSED_BYTES` wait;
then the reader stops and the guest's program feels it. The terminal takes the size the guest's
terminal has at that point of the stream, so
a replay is drawn at the size it was written for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import anyio

from machinen_tui.terminal_colors import TerminalColors
from machinen_tui.terminal_model import TerminalModel

if TYPE_CHECKING:
    from machinen_runtime.channel_sessions import SessionEvent
    from machinen_tui.asciicast import Recorder
    from machinen_tui.gateway import Sandbox, Session

SESSION_NAME = "main"
MAX_UNPARSED_BYTES = 256 * 1024
MIN_PIECE_BYTES, MAX_PIECE_BYTES = 16 * 1024, 256 * 1024
PIECE_S = 0.004
"""How long feeding one piece may take; the piece follows the speed of what the guest writes."""
MAX_UNSENT_BYTES = 1024 * 1024
DEFAULT_SIZE = (80, 24)
OUTPUT, REPLAY, SIZE, NEW = "output", "replay", "size", "new"
"""What waits in the queue: live or earlier output, a change of size, a fresh terminal for a new
connection."""


class PaneSession:
    """The terminal of one sandbox. `on_output` is called when there is something to drain."""

    def __init__(self, on_output: Callable[[PaneSession], None]) -> None:
        self._on_output = on_output
        self.on_clipboard: Callable[[bytes], None] = lambda data: None
        """Takes what the guest writes to the clipboard (OSC 52)."""
        self.clipboard: Callable[[], bytes | None] = lambda: None
        """Says what a guest reads of it; None: no answer."""
        self.colors: Callable[[], TerminalColors] = TerminalColors
        """Says what the terminal is drawn with, when the guest asks."""
        self.model = self._new_model(DEFAULT_SIZE)
        self.connected = False
        self.exit_code: int | None = None
        self.tap: Recorder | None = None
        """Takes down what the terminal is fed."""
        self.rests_until = 0.0
        """When it may be fed again, by the monotonic clock; the drain's."""
        self._queue: deque[tuple[str, bytes, tuple[int, int]]] = deque()
        self._unparsed_bytes = 0
        self._piece_bytes = 4 * MIN_PIECE_BYTES
        self._room = anyio.Event()
        self._unsent = bytearray()
        self._to_send = anyio.Event()
        self._wanted_size: tuple[int, int] | None = None
        self._sent_size: tuple[int, int] | None = None
        self._replaying = False
        self.others_size: tuple[int, int] | None = None
        """The size another client gave the guest's terminal after us."""
        self.asked_size_at = 0.0
        """When we last asked for another size, by the monotonic clock: programs then draw anew."""

    # -- what the pane does -----------------------------------------------------------------------

    def type(self, data: bytes) -> None:
        """Send `data` to the guest as soon as the channel takes it. A guest that reads nothing
        loses the newest."""
        if len(self._unsent) + len(data) <= MAX_UNSENT_BYTES:
            self._unsent += data
            self._to_send.set()

    def want_size(self, columns: int, lines: int) -> None:
        """Ask for another size. The terminal takes it when the guest's has."""
        wanted = (max(columns, 2), max(lines, 1))
        if wanted != self._wanted_size:
            self._wanted_size, self.asked_size_at = wanted, time.monotonic()
            self._to_send.set()

    def reclaim_size(self) -> None:
        """Our size again: who types last decides how large the guest's terminal is."""
        if self.others_size is not None:
            self.others_size, self._sent_size = None, None
            self.asked_size_at = time.monotonic()
            self._to_send.set()

    @property
    def has_output(self) -> bool:
        """Something waits to be drained."""
        return bool(self._queue)

    def drain(self) -> bool:
        """Feed the terminal what takes a few milliseconds. Whether there is more."""
        if self._queue:
            kind, data, size = self._queue.popleft()
            if kind in (OUTPUT, REPLAY):
                self._feed(kind, self._joined(kind, data))
            elif kind == SIZE:
                self.model.resize(*size)
                if self.tap is not None:
                    self.tap.resized(*size)
            else:
                self.model = self._new_model(size)
        return bool(self._queue)

    def _new_model(self, size: tuple[int, int]) -> TerminalModel:
        return TerminalModel(
            *size,
            on_reply=self.type,
            on_clipboard=lambda data: self.on_clipboard(data),
            clipboard=lambda: self.clipboard(),
            colors=lambda: self.colors(),
        )

    def _joined(self, kind: str, data: bytes) -> bytes:
        """`data` and what follows of its kind, up to the piece: guests write in bits, floods are
        cheap in bulk."""
        pieces, size = [data], len(data)
        while self._queue and self._queue[0][0] == kind and size < self._piece_bytes:
            pieces.append(self._queue.popleft()[1])
            size += len(pieces[-1])
        return b"".join(pieces)

    def _feed(self, kind: str, data: bytes) -> None:
        if self.tap is not None and kind == OUTPUT:
            self.tap.output(data)
        started = time.perf_counter()
        self.model.feed(data, live=kind == OUTPUT)
        took = max(time.perf_counter() - started, 1e-6)
        if len(data) >= MIN_PIECE_BYTES:
            fitting = int(len(data) / took * PIECE_S)
            self._piece_bytes = min(max(fitting, MIN_PIECE_BYTES), MAX_PIECE_BYTES)
        self._unparsed_bytes -= len(data)
        if self._unparsed_bytes < MAX_UNPARSED_BYTES:
            self._room.set()

    # -- the connection ---------------------------------------------------------------------------

    async def run(self, sandbox: Sandbox) -> None:
        """Stay attached until the session or the channel ends. May be called again: it starts with
        a replay.

        Raises:
            MachinenError: The sandbox or its session cannot be reached.
        """
        size = await self._guest_size(sandbox)
        async with sandbox.open_session(SESSION_NAME, cols=size[0], rows=size[1]) as channel:
            self._put(NEW, size=size)
            self._sent_size, self._replaying = size, True
            try:
                await self._converse(channel)
            finally:
                self.connected = False

    async def _converse(self, channel: Session) -> None:
        """Receive and send until either side ends. One error, not a group of one."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._send_to, channel)
                await self._receive_from(channel)
                tasks.cancel_scope.cancel()
        except ExceptionGroup as group:
            raise group.exceptions[0] from group

    async def _guest_size(self, sandbox: Sandbox) -> tuple[int, int]:
        """The size the session has: attaching must not change it before the replay."""
        for info in await sandbox.sessions():
            if info.name == SESSION_NAME:
                return info.cols, info.rows
        return self._wanted_size or DEFAULT_SIZE

    async def _receive_from(self, channel: Session) -> None:
        try:
            while self.exit_code is None:
                self._take(await channel.receive())
                if self._unparsed_bytes >= MAX_UNPARSED_BYTES:
                    self._room = anyio.Event()
                    await self._room.wait()
        except anyio.EndOfStream:
            return

    def _take(self, event: SessionEvent) -> None:
        from machinen_runtime.channel_sessions import Exited, Output, ReplayDone, Resized

        match event:
            case Output(data, replay):
                for start in range(0, len(data), MIN_PIECE_BYTES):
                    self._put(REPLAY if replay else OUTPUT, data[start : start + MIN_PIECE_BYTES])
            case Resized(columns, lines):
                self._sent_size = self._sent_size or (columns, lines)
                ours = (columns, lines) == self._sent_size
                self.others_size = None if ours else (columns, lines)
                self._put(SIZE, size=(columns, lines))
            case ReplayDone():
                self.connected, self._replaying = True, False
                self._to_send.set()
            case Exited(code):
                self.exit_code = code
                self._on_output(self)

    def _put(self, kind: str, data: bytes = b"", size: tuple[int, int] = (0, 0)) -> None:
        self._queue.append((kind, data, size))
        self._unparsed_bytes += len(data)
        self._on_output(self)

    async def _send_to(self, channel: Session) -> None:
        """Send what was typed and the size that is wanted, whenever there is some."""
        try:
            while True:
                self._to_send = anyio.Event()
                if not self._replaying:
                    await self._send_size(channel)
                    if self._unsent:
                        data = bytes(self._unsent)
                        self._unsent.clear()
                        await channel.send(data)
                if not self._unsent or self._replaying:
                    await self._to_send.wait()
        except (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
            return  # the reader sees the same end and says why

    async def _send_size(self, channel: Session) -> None:
        wanted = self._wanted_size
        if wanted is not None and wanted != self._sent_size:
            self._sent_size = wanted
            await channel.resize(*wanted)
