"""Wait until the host has memory to spare for one more VM, in a queue with all others who wait.

The queue is a lock on a file in the cache directory: who has it looks, and holds it until its VM
runs, so that ten who waited do not all start on the same free memory. Processes that do not wait
are not held up.

Two things say how the host does, both only when asked: MemAvailable (proc_meminfo(5)) and the
kernel's pressure figures, `full avg10` of /proc/pressure/memory: the share of the last ten seconds
in which no task went on for want of memory (Documentation/accounting/psi.rst).
"""

from __future__ import annotations

import fcntl
import math
import os
import re
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, suppress

import anyio

from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.memory import (
    DEFAULT_FREE_MEMORY_THRESHOLD,
    check_fork_backpressure,
    read_host_free_bytes,
    read_host_total_bytes,
)
from machinen_runtime.options import ForkOptions, LaunchOptions
from machinen_runtime.paths import cache_root, ensure_private_dir

PRESSURE_FILE = "/proc/pressure/memory"
QUEUE_LOCK = "memory-queue.lock"
STALLED_PERCENT = 10.0
"""From here on the host is not calm, however much memory it calls available."""
LOOK_S = 0.25
_FULL_AVG10 = re.compile(r"^full avg10=(\d+\.\d+)", re.MULTILINE)
_MIB = 1 << 20

OnWait = Callable[[str], None]


def read_memory_stall_percent() -> float:
    """How much of the last ten seconds all tasks waited for memory; 0 if the kernel cannot tell."""
    try:
        with open(PRESSURE_FILE, encoding="ascii") as file:
            found = _FULL_AVG10.search(file.read())
    except OSError:
        return 0.0
    return float(found[1]) if found else 0.0


@asynccontextmanager
async def memory_turn(options: LaunchOptions) -> AsyncGenerator[None]:
    """Enter when the host has memory for the VM that is launched in the block.

    A fork that does not wait is let through or refused at once, any other VM let through.

    Raises:
        BootError: FORK_MEMORY_BACKPRESSURE (retryable): there is too little, or still too little.
    """
    threshold = DEFAULT_FREE_MEMORY_THRESHOLD
    if isinstance(options, ForkOptions):
        threshold = options.free_memory_threshold
    waits = options.wait_for_memory_ms is None or options.wait_for_memory_ms > 0
    if not waits or not math.isfinite(threshold) or threshold <= 0:
        if isinstance(options, ForkOptions):
            await check_fork_backpressure(threshold=threshold)
        yield
        return
    waiting = _Waiting(options.wait_for_memory_ms, options.on_wait)
    with _queue_file() as queue:
        await _until_first(queue, waiting)
        await _until_calm(threshold, waiting)
        yield


class _Waiting:
    """One caller's patience: how much is left, and whom it tells what it waits for."""

    def __init__(self, limit_ms: float | None, on_wait: OnWait | None) -> None:
        self._started = time.monotonic()
        self._limit_s = math.inf if limit_ms is None else limit_ms / 1000
        self._on_wait = on_wait
        self._said = ""

    @property
    def is_over(self) -> bool:
        """Whether the limit has passed."""
        return self.waited_s >= self._limit_s

    @property
    def waited_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._started

    async def look_again(self, why: str) -> None:
        """Say why, if that is new, and give the host a moment: it tells nobody when it is well."""
        if self._on_wait is not None and why != self._said:
            self._on_wait(why)
        self._said = why
        await anyio.sleep(min(LOOK_S, max(0.0, self._limit_s - self.waited_s)))


@contextmanager
def _queue_file() -> Generator[int]:
    path = ensure_private_dir(cache_root()) / QUEUE_LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def _until_first(queue: int, waiting: _Waiting) -> None:
    """Come to the front of the queue, or give up."""
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(queue, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        if waiting.is_over:
            message = f"waited {waiting.waited_s:.0f} s behind others that want memory, too"
            code = ErrorCode.FORK_MEMORY_BACKPRESSURE
            raise BootError(code, f"{message}; wait longer, or stop a VM", retryable=True)
        await waiting.look_again("waits behind other sandboxes that want memory")


async def _until_calm(threshold: float, waiting: _Waiting) -> None:
    """Wait for free memory, then for the end of stalls; these alone refuse nothing."""
    total = read_host_total_bytes()
    required = math.floor(total * min(threshold, 1.0))
    while not waiting.is_over:
        free, stalled = await read_host_free_bytes(), read_memory_stall_percent()
        if free < required:
            why = f"waits for memory: {free // _MIB} MiB are free, it wants {required // _MIB} MiB"
        elif stalled >= STALLED_PERCENT:
            why = f"waits for the host: it stalls for want of memory ({stalled:.0f}% of the time)"
        else:
            return
        await waiting.look_again(why)
    try:
        await check_fork_backpressure(threshold=threshold)
    except BootError as error:
        message = f"waited {waiting.waited_s:.0f} s: {error}"
        raise BootError(error.code, message, retryable=True) from error
