"""One event loop in a thread of its own, for callers who have none: what `sync` runs on.

It starts with the first call and ends with the program. A call that is interrupted (Ctrl-C) is
cancelled in the loop and undone there before the interrupt goes on, so that a boot that was broken
off leaves nothing.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, TypeVar, cast

import anyio
from anyio.from_thread import BlockingPortal

T = TypeVar("T")
UNDO_SECONDS = 15.0
"""How long an interrupted call may take to undo itself; a second Ctrl-C does not wait."""


class LoopThread:
    """The loop, started when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._portal: BlockingPortal | None = None
        self._thread: threading.Thread | None = None

    @property
    def portal(self) -> BlockingPortal:
        """The way into the loop."""
        with self._lock:
            if self._portal is None:
                ready: Future[BlockingPortal] = Future()
                # A daemon, because Python joins all others before it calls what atexit knows.
                self._thread = threading.Thread(
                    target=anyio.run, args=(_serve, ready), name="machinen-sync", daemon=True
                )
                self._thread.start()
                self._portal = ready.result()
                atexit.register(self.close)
            return self._portal

    def run(self, function: Callable[[], Awaitable[T]]) -> T:
        """Await `function()` in the loop and return its result.

        Raises:
            RuntimeError: called from the loop itself, for instance in a callback such as `on_log`.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("callbacks of machinen_runtime.sync cannot call back into it")
        ended = threading.Event()

        async def call() -> T:
            try:
                return await function()
            finally:
                ended.set()

        future = self.portal.start_task_soon(call)
        try:
            return future.result()
        except BaseException:
            if not future.done():
                future.cancel()
                ended.wait(UNDO_SECONDS)
            raise

    def enter(self, context: AbstractAsyncContextManager[T]) -> AbstractContextManager[T]:
        """An asynchronous block as one of `with`: entered and left by one task of the loop."""
        return self.portal.wrap_async_context_manager(context)

    def close(self) -> None:
        """End the loop and its thread. Called at exit; the next call would start another."""
        with self._lock:
            portal, self._portal = self._portal, None
            thread, self._thread = self._thread, None
        if portal is not None and thread is not None:
            portal.start_task_soon(portal.stop, True)
            thread.join(UNDO_SECONDS)
            atexit.unregister(self.close)

    def forget(self) -> None:
        """In a child of fork(2) there is no thread: start anew."""
        self.__init__()


async def _serve(ready: Future[BlockingPortal]) -> None:
    async with BlockingPortal() as portal:
        ready.set_result(portal)
        await portal.sleep_until_stopped()


def in_loop(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function in the loop, awaiting what it returns if that can be awaited."""

    async def call() -> Any:
        result = function(*args, **options)
        return await cast("Awaitable[Any]", result) if isinstance(result, Awaitable) else result

    return LOOP.run(call)


LOOP = LoopThread()
os.register_at_fork(after_in_child=LOOP.forget)
