"""Host half of a live mount: FUSE requests from one guest in, answers from one directory out.

A session outlives its streams: the guest keeps its mount when the channel goes away, and `serve`
goes on with all nodes and handles when it is back, or another session does from what `save` wrote.
Requests are served where they arrive, one after the other, for most take microseconds; what may
take long runs in a few threads, and a lock's wait costs nothing. The guest is hostile: a stream
that is no FUSE ends `serve` with the reason in `broken`; nothing a guest sends raises.
"""

from __future__ import annotations

import errno
from collections import deque
from pathlib import Path
from typing import Any, Final, Protocol

import anyio
import anyio.abc
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
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._outbox_changed = anyio.Event()
        self._outbox_drained = anyio.Event()
        self._serving = False
        self._slow = 0
        self._limiter = anyio.CapacityLimiter(THREADS)
        self._slow_done = anyio.Event()
        self._held = anyio.Event()
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

    async def serve(self, stream: ByteStream) -> None:
        """Answer requests until the stream ends, or the guest breaks it (see `broken`)."""
        self._serving, self.broken = True, None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._send_replies, stream, tasks.cancel_scope)
                await self._receive(stream, tasks)
                tasks.cancel_scope.cancel()
        finally:
            self._serving = False
            self._held.set()  # without a stream the relay reads nothing

    async def _receive(self, stream: ByteStream, tasks: anyio.abc.TaskGroup) -> None:
        buffer = MessageBuffer()
        try:
            while True:
                for message in buffer.feed(await stream.receive(RECEIVE_BYTES)):
                    self._take(message, tasks)
                    while self._slow >= MAX_SLOW:
                        self._slow_done = anyio.Event()
                        await self._slow_done.wait()
                while self._outbox_bytes > MAX_OUTBOX_BYTES:
                    self._outbox_drained = anyio.Event()
                    await self._outbox_drained.wait()
        except _ENDS:
            if not buffer.is_empty:
                self.broken = "the stream ended in the middle of a message"
        except FuseStreamError as error:
            self.broken = f"the guest broke the live mount's stream: {error}"

    async def _send_replies(self, stream: ByteStream, scope: anyio.CancelScope) -> None:
        try:
            while True:
                while not self._outbox:
                    self._outbox_changed = anyio.Event()
                    await self._outbox_changed.wait()
                await stream.send(self._next_batch())
                self._outbox_drained.set()
        except _ENDS:
            scope.cancel()

    def _next_batch(self) -> bytes:
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
        self._outbox_changed.set()

    # -- one message ----------------------------------------------------------------------------

    def _take(self, message: memoryview, tasks: anyio.abc.TaskGroup) -> None:
        """Serve one message, or start serving it."""
        if len(message) == wire.CONTROL_BYTES:
            if wire.U32_PAIR.unpack(message)[1] != wire.HELD:
                raise FuseStreamError("a word no relay says")
            self._held.set()
            return
        request = Request._make(wire.IN_HEADER.unpack_from(message))
        slow = self.handle(request, message[wire.IN_HEADER.size :])
        if slow is not None:
            self._slow += 1
            for handle in slow.handles:
                self._tree.handles.pin(handle)
            tasks.start_soon(self._run_slow, request.unique, slow)

    def handle(self, request: Request, body: memoryview) -> Slow | None:
        """Serve a request: its reply is posted, or the work that will make it is returned."""
        tree = self._tree
        try:
            match request.op:
                case Op.FORGET:
                    fuse_names.forget(tree, request, body)
                case Op.BATCH_FORGET:
                    fuse_names.batch_forget(tree, request, body)
                case Op.INTERRUPT:
                    if ended := fuse_locking.interrupt(tree, request, body):
                        self._post(wire.error_reply(ended, errno.EINTR))
                case Op.INIT:
                    self._post(wire.reply(request.unique, init(body)))
                    tree.forget_all()
                case Op.DESTROY:
                    tree.forget_all()
                    self._post(wire.reply(request.unique))
                case _:
                    result = answer(tree, request, body)
                    if isinstance(result, Slow):
                        return result
                    if result is not None:
                        self._post(wire.reply(request.unique, result))
        except OSError as error:
            if request.op not in _WITHOUT_REPLY:
                self._post(wire.error_reply(request.unique, errno_of(error)))
        self._answer_granted()
        return None

    def _answer_granted(self) -> None:
        """Those who waited for a lock have it now."""
        if self._tree.granted:
            for unique in self._tree.granted:
                self._post(wire.reply(unique))
            self._tree.granted.clear()

    async def _run_slow(self, unique: int, slow: Slow) -> None:
        """Do the work in a thread. It ends even when the stream does: others may see its effect."""
        try:
            with anyio.CancelScope(shield=True):
                body = await anyio.to_thread.run_sync(slow.work, limiter=self._limiter)
                self._post(wire.reply(unique, body))
        except OSError as error:
            self._post(wire.error_reply(unique, errno_of(error)))
        finally:
            for handle in slow.handles:
                self._tree.handles.unpin(handle)
            self._slow -= 1
            self._slow_done.set()

    # -- around a snapshot ----------------------------------------------------------------------

    async def hold(self) -> None:
        """Have the relay stop, and wait until every request but waits for locks is answered.

        Returns at once without a stream, and when it ends: the relay reads nothing then.
        """
        if self._serving:
            self._held = anyio.Event()
            self._post(wire.control(wire.Control.HOLD))
            await self._held.wait()

    async def release(self) -> None:
        """Have the relay go on."""
        if self._serving:
            self._post(wire.control(wire.Control.GO))


_WITHOUT_REPLY: Final = frozenset({Op.FORGET, Op.BATCH_FORGET, Op.INTERRUPT})
