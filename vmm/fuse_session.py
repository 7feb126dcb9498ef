"""Host half of a live mount: FUSE requests from one guest in, answers from one directory out.

A session outlives its streams: the guest keeps its mount when the channel goes away, and `serve`
goes on with all nodes and handles when it is back, or another session does from what `save` wrote.
Requests are served where they arrive, one after the other, for most take 20 µs; what may take
long runs in a few threads, so does everything on a root that turns out slow, and a lock's wait
costs nothing. The guest is hostile: a stream
that is no FUSE ends `serve` with the reason in `broken`; nothing a guest sends raises.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import anyio
import anyio.abc
import anyio.lowlevel
import anyio.to_thread

from vmm import fuse_locking, fuse_names, fuse_state
from vmm import fuse_wire as wire
from vmm.fuse_messages import FuseStreamError, MessageBuffer
from vmm.fuse_operations import answer, errno_of, init
from vmm.fuse_tree import FuseTree, Request, Slow
from vmm.fuse_wire import Op
from vmm.mux_stream import StreamResetError

RECEIVE_BYTES: Final = 262144
SEND_BYTES: Final = 262144
"""Small replies leave together, up to this much at once."""
MAX_OUTBOX_BYTES: Final = 8 << 20
"""Above it nothing more is received until the guest has taken its replies."""
MAX_SLOW: Final = 64
THREADS: Final = 4
TURN_MESSAGES: Final = 64
"""Served before anything else in this process has its turn."""
SLOW_TURN_S: Final = 0.1
THREAD_MODE_S: Final = 5.0
"""A root that once kept the monitor waiting (a network's, a spun-down disk's) is served from a
thread for this long: a hand-over costs 0.1 ms, which quick roots need not pay."""
T = TypeVar("T")
_ENDS: Final = (
    anyio.EndOfStream,
    anyio.BrokenResourceError,
    anyio.ClosedResourceError,
    StreamResetError,
)


class ByteStream(Protocol):
    """What a session speaks through."""

    async def receive(self, max_bytes: int, /) -> bytes:
        """Some bytes; raises anyio.EndOfStream at the end."""
        ...

    async def send(self, data: bytes, /) -> None:
        """Send all of it."""
        ...


class DirectStream(Protocol):
    """What a session speaks through at once, where a request arrives, while it waits for one."""

    on_data: Callable[[bytes], bool] | None
    """Called with what arrives; returns False to have it received."""

    def send_now(self, data: bytes, /) -> bool:
        """Send all of it without waiting, or none of it."""
        ...


class FuseSession:
    """One live mount of one guest."""

    def __init__(self, root: Path, *, writable: bool, state: dict[str, Any] | None = None) -> None:
        """Share a directory, or go on sharing one from a saved state.

        Raises:
            VmmError: MOUNT_PATH_INVALID if the root is no directory, MOUNT_STATE_INVALID if the
                state is not one.
        """
        self._tree = FuseTree(root, writable=writable)
        self.broken: str | None = None
        """Why the last stream was given up, if the guest broke it."""
        self._stream: ByteStream | None = None
        self._direct: DirectStream | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._waiting: anyio.CancelScope | None = None
        """While `_converse` waits for a message; cancel it when there is something else to do."""
        self._left: Iterator[memoryview] | None = None
        self._direct_error: FuseStreamError | None = None
        self._buffer = MessageBuffer()
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._grants: deque[bytes] = deque()
        """Replies to requests that waited for locks; they may wait for the next stream, too."""
        self._sending = False
        self._changed = anyio.Event()
        """Set when there is more room for replies or slow work."""
        self._slow = 0
        self._limiter = anyio.CapacityLimiter(THREADS)
        self._in_thread_until = 0.0
        self._word_said = anyio.Event()
        self._held = anyio.Event()
        self._hold_number = 0
        """How many holds were given up: a HELD that answers one of them comes too late."""
        self._heard_held: int | None = None
        if state is not None:
            try:
                fuse_state.load(self._tree, state)
            except BaseException:
                self._tree.close()
                raise

    @property
    def pages_bytes_served(self) -> int:
        """Bytes read so far from files named `pages-<digits>.img` (criu's lazy restore)."""
        return self._tree.pages_bytes_served

    def close(self) -> None:
        """Give back every descriptor. Call it when no `serve` runs; nothing works after it."""
        self._tree.close()

    def save(self) -> dict[str, Any]:
        """Nodes, handles and locks as JSON-able values, for another session of the same guest.

        Call it while the relay holds (`hold`): a request on its way would be lost.
        """
        return fuse_state.save(self._tree)

    # -- the stream -----------------------------------------------------------------------------

    async def serve(self, stream: ByteStream, direct: DirectStream | None = None) -> None:
        """Answer requests until the stream ends, or the guest breaks it (see `broken`).

        Args:
            stream: where they come from.
            direct: the same stream, where it can hand over what arrives without a change of tasks.
        """
        self.broken = None
        self._stream, self._direct = stream, direct
        self._buffer, self._left, self._direct_error = MessageBuffer(), None, None
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                tasks.start_soon(self._send_words)
                if direct is not None:
                    direct.on_data = self._take_directly
                await self._converse(stream)
                tasks.cancel_scope.cancel()
        finally:
            if direct is not None:
                direct.on_data = None
            self._stream = self._direct = self._tasks = self._waiting = None
            self._forget_replies()
            self._held.set()  # without a stream the relay reads nothing

    async def _converse(self, stream: ByteStream) -> None:
        try:
            while True:
                await self._flush()
                messages = await self._next_messages(stream)
                while await self._take_turn(messages):
                    await self._flush()
                    await self._wait_for_room()
        except _ENDS:
            if not self._buffer.is_empty:
                self.broken = "the stream ended in the middle of a message"
        except FuseStreamError as error:
            self.broken = f"the guest broke the live mount's stream: {error}"

    async def _next_messages(self, stream: ByteStream) -> Iterator[memoryview]:
        """What arrived and was not served directly, or what serving directly has left."""
        piece = b""
        with anyio.CancelScope() as self._waiting:
            piece = await stream.receive(RECEIVE_BYTES)
        self._waiting = None
        if self._direct_error is not None:
            raise self._direct_error
        left, self._left = self._left, None
        return self._buffer.feed(piece) if left is None else left

    def _take_directly(self, piece: bytes) -> bool:
        """Serve what has just arrived; False if `_converse` has to, in its turn."""
        if (
            self._waiting is None
            or self._waiting.cancel_called
            or self._sending
            or self._slow >= MAX_SLOW
            or self._outbox_bytes > MAX_OUTBOX_BYTES
            or time.monotonic() < self._in_thread_until
        ):
            return False
        messages = self._buffer.feed(piece)
        try:
            if self._serve_here(messages):
                self._left = messages
                self._waiting.cancel()
        except FuseStreamError as error:
            self._direct_error = error
            self._waiting.cancel()
        self._send_directly()
        return True

    def _send_directly(self) -> None:
        """Send the replies, or have them sent when the guest takes them."""
        while self._outbox and not self._grants and self._direct is not None:
            batch = self._next_batch()
            if not self._direct.send_now(batch):
                self._outbox.appendleft(batch)
                self._outbox_bytes += len(batch)
                break
        if self._outbox or self._grants:
            self._word_said.set()

    async def _take_turn(self, messages: Iterator[memoryview]) -> bool:
        """Serve some messages; False when there are no more. On a slow root, in a thread."""
        if time.monotonic() >= self._in_thread_until:
            return self._serve_here(messages)
        started: list[tuple[int, Slow]] = []
        try:
            return await self._in_thread(lambda: self._serve_some(messages, started))
        finally:
            self._served(started)

    def _serve_here(self, messages: Iterator[memoryview]) -> bool:
        """Serve some messages; False when there are no more."""
        started: list[tuple[int, Slow]] = []
        before = time.monotonic()
        try:
            return self._serve_some(messages, started)
        finally:
            self._served(started)
            if time.monotonic() - before > SLOW_TURN_S:
                self._in_thread_until = before + THREAD_MODE_S

    def _served(self, started: list[tuple[int, Slow]]) -> None:
        """What follows a turn, also when a message broke the stream: descriptors are pinned."""
        if self._heard_held == self._hold_number:
            self._held.set()
        for unique, slow in started:
            self._slow += 1
            if self._tasks is not None:
                self._tasks.start_soon(self._run_slow, unique, slow)

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Run it in a thread, to its end: others may see what it did."""
        result: list[T] = []
        with anyio.CancelScope(shield=True):
            result.append(await anyio.to_thread.run_sync(work, limiter=self._limiter))
        return result[0]

    async def _wait_for_room(self) -> None:
        """A guest that takes no replies, or asks for too much that is slow, is not heard."""
        while self._slow >= MAX_SLOW or self._outbox_bytes > MAX_OUTBOX_BYTES:
            self._changed = anyio.Event()
            await self._changed.wait()
        await anyio.lowlevel.checkpoint()

    async def _flush(self) -> None:
        """Send what is posted, unless someone does already; they see it too."""
        if self._sending:
            return
        self._sending = True
        try:
            while (self._outbox or self._grants) and (stream := self._stream) is not None:
                await stream.send(self._next_batch())
                self._changed.set()
        finally:
            self._sending = False

    def _next_batch(self) -> bytes:
        """The next replies: small ones leave together."""
        if self._grants:
            return self._grants.popleft()
        first = self._outbox.popleft()
        size = len(first)
        if self._outbox and size + len(self._outbox[0]) <= SEND_BYTES:
            batch = [first]
            while self._outbox and size + len(self._outbox[0]) <= SEND_BYTES:
                batch.append(self._outbox.popleft())
                size += len(batch[-1])
            first = b"".join(batch)
        self._outbox_bytes -= size
        return first

    def _post(self, message: bytes) -> None:
        self._outbox.append(message)
        self._outbox_bytes += len(message)

    def _forget_replies(self) -> None:
        """The relay failed what was not answered when its stream ended, waits for locks excepted:
        they hear on the next stream that they have them."""
        self._outbox.clear()
        self._outbox_bytes = 0

    # -- messages -------------------------------------------------------------------------------

    def _serve_some(self, messages: Iterator[memoryview], started: list[tuple[int, Slow]]) -> bool:
        """Serve messages until a turn is full; False when there are no more. May be in a thread."""
        for _ in range(TURN_MESSAGES):
            message = next(messages, None)
            if message is None:
                return False
            if len(message) == wire.CONTROL_BYTES:
                self._take_word(message)
                continue
            request = Request._make(wire.IN_HEADER.unpack_from(message))
            slow = self.handle(request, message[wire.IN_HEADER.size :])
            if slow is not None:
                for handle in slow.handles:
                    self._tree.handles.pin(handle)
                started.append((request.unique, slow))
            if self._outbox_bytes > MAX_OUTBOX_BYTES:
                break
        return True

    def _take_word(self, message: memoryview) -> None:
        number = wire.held_number(message)
        if number is None:
            raise FuseStreamError("a word no relay says")
        self._heard_held = number

    def handle(self, request: Request, body: memoryview) -> Slow | None:
        """Serve a request: its reply is posted, or the work that will make it is returned."""
        self._tree.hints.wanted = bool(request.extensions & wire.HEARS_HINTS)
        try:
            match request.op:
                case Op.FORGET:
                    fuse_names.forget(self._tree, request, body)
                case Op.BATCH_FORGET:
                    fuse_names.batch_forget(self._tree, request, body)
                case Op.INTERRUPT:
                    if ended := fuse_locking.interrupt(self._tree, request, body):
                        self._post(wire.error_reply(ended, errno.EINTR))
                case Op.INIT:
                    self._post(wire.reply(request.unique, init(body)))
                    self._tree.forget_all()
                case Op.DESTROY:
                    self._tree.forget_all()
                    self._post(wire.reply(request.unique))
                case _:
                    return self._answer(request, body)
        except OSError as error:
            self._tree.hints.waiting.clear()  # the change may be half made
            if not _is_one_way(request):
                self._post(wire.error_reply(request.unique, errno_of(error)))
        return None

    def _answer(self, request: Request, body: memoryview) -> Slow | None:
        result = answer(self._tree, request, body)
        if isinstance(result, Slow):
            return result
        if self._tree.notices:
            for notice in self._tree.notices:
                self._post(notice)
            self._tree.notices.clear()
        if result is not None and not _is_one_way(request):
            self._post(wire.reply(request.unique, result))
        if self._tree.hints.waiting:
            for hint in self._tree.hints.waiting:
                self._post(hint)
            self._tree.hints.waiting.clear()
        if self._tree.granted:
            self._answer_granted()
        return None

    def _answer_granted(self) -> None:
        """Those who waited for a lock have it now."""
        for unique in self._tree.granted:
            self._grants.append(wire.reply(unique))
        self._tree.granted.clear()

    async def _run_slow(self, unique: int, slow: Slow) -> None:
        """Do the work in a thread and send its reply."""
        try:
            reply = await self._in_thread(lambda: _worked(unique, slow))
            self._post(reply)
        finally:
            for handle in slow.handles:
                self._tree.handles.unpin(handle)
            self._slow -= 1
            self._changed.set()
        with suppress(*_ENDS):  # `serve` sees the same end
            await self._flush()

    # -- around a snapshot ----------------------------------------------------------------------

    async def hold(self) -> None:
        """Have the relay stop, and wait until every request but waits for locks is answered.

        Returns at once without a stream, and when it ends: the relay reads nothing then.
        """
        if self._stream is None:
            return
        self._held, self._heard_held = anyio.Event(), None
        self._say(wire.control(wire.Control.HOLD, self._hold_number))
        try:
            await self._held.wait()
        except BaseException:
            self._hold_number = (self._hold_number + 1) & wire.MAX_HOLD_NUMBER
            raise

    async def release(self) -> None:
        """Have the relay go on."""
        self._say(wire.control(wire.Control.GO))

    def _say(self, message: bytes) -> None:
        if self._stream is not None:
            self._post(message)
            self._word_said.set()

    async def _send_words(self) -> None:
        """Send words of `hold` and `release`: who waits there may be cancelled, and a message cut
        short would break the stream."""
        with suppress(*_ENDS):  # `serve` sees the same end
            while True:
                self._word_said = anyio.Event()
                await self._flush()
                await self._word_said.wait()


def _worked(unique: int, slow: Slow) -> bytes:
    """The reply to a request that took long; runs in a thread."""
    try:
        return wire.reply(unique, slow.work())
    except OSError as error:
        return wire.error_reply(unique, errno_of(error))
    except (ValueError, OverflowError):
        return wire.error_reply(unique, errno.EINVAL)


def _is_one_way(request: Request) -> bool:
    """Whether nobody waits for a reply: the agent has told the kernel itself that it is closed."""
    if request.extensions & wire.HEARS_HINTS and request.op in (Op.RELEASE, Op.RELEASEDIR):
        return True
    return request.op in _WITHOUT_REPLY


_WITHOUT_REPLY: Final = frozenset({Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT})
