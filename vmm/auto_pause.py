"""A VM that sleeps while nothing happens, and wakes when somebody wants something of it.

Asleep its processors stand still, as after `pause`; what is sent to its guest (a key, a command,
a connection to a forwarded port) wakes it first. Nothing happens while no byte crosses the channel
and QEMU uses hardly any processor time. Timers of the guest do not wake it: they stand still too.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import anyio

from vmm.control import Handler
from vmm.errors import VmmError
from vmm.mux import ChannelMux
from vmm.operations import Operations

MIN_IDLE_MS = 1000
MAX_IDLE_MS = 7 * 24 * 3_600_000
BUSY_PERCENT = 5.0
"""Of one core: more than an idle guest needs for its own housekeeping."""
LOOKS = 4
"""How often it is looked, within the time that has to be quiet."""


class AutoPause:
    """The sleep of one VM; `used_s` tells the seconds of processor its QEMU has used."""

    def __init__(
        self, mux: ChannelMux, operations: Operations, used_s: Callable[[], float]
    ) -> None:
        self._mux = mux
        self._operations = operations
        self._used_s = used_s
        self._idle_s: float | None = None
        self._changed = anyio.Event()
        """Set by a new policy."""

    def handlers(self) -> dict[str, Handler]:
        """The verbs by name."""
        return {"auto_pause": self._on_auto_pause}

    async def _on_auto_pause(self, params: dict[str, Any]) -> dict[str, Any]:
        """Sleep after `idle_ms` in which nothing happened; null: never, which wakes it as well."""
        idle_ms = params.get("idle_ms")
        if idle_ms is not None and (
            type(idle_ms) is not int or not MIN_IDLE_MS <= idle_ms <= MAX_IDLE_MS
        ):
            message = f"idle_ms is null or a whole number from {MIN_IDLE_MS} to {MAX_IDLE_MS}"
            raise VmmError("PARAMS_INVALID", message)
        self._idle_s = None if idle_ms is None else idle_ms / 1000
        self._operations.auto_pause_ms = idle_ms
        self._changed.set()
        if idle_ms is None:
            await self._operations.wake()
        return {}

    async def run(self) -> None:
        """Let the VM sleep and wake, as the policy has it, until cancelled."""
        while True:
            self._changed = anyio.Event()
            if self._idle_s is None:
                await self._changed.wait()
            elif await self._is_quiet_for(self._idle_s):
                await self._sleep()

    async def _is_quiet_for(self, idle_s: float) -> bool:
        """Wait until nothing has happened for so long; False if the policy changed meanwhile."""
        before, since = self._look(), time.monotonic()
        while time.monotonic() - since < idle_s:
            with anyio.move_on_after(idle_s / LOOKS):
                await self._changed.wait()
                return False
            now = self._look()
            if now.is_busy_after(before):
                since = time.monotonic()
            before = now
        return True

    def _look(self) -> _Look:
        moved = self._mux.bytes_sent + self._mux.bytes_received
        runs = self._operations.state == "running"
        try:
            used_s = self._used_s()
        except OSError:  # without a descriptor to spare nobody knows, and it stays awake
            used_s, runs = 0.0, False
        return _Look(time.monotonic(), moved, used_s, runs)

    async def _sleep(self) -> None:
        wanted = anyio.Event()
        self._mux.on_post = wanted.set
        try:
            async with anyio.create_task_group() as tasks:

                async def end_with_policy() -> None:
                    await self._changed.wait()
                    wanted.set()

                tasks.start_soon(end_with_policy)
                await self._operations.sleep_until(wanted)
                tasks.cancel_scope.cancel()
        finally:
            self._mux.on_post = None


class _Look:
    """What can be seen of a VM at one time."""

    def __init__(self, at: float, moved_bytes: int, used_s: float, runs: bool) -> None:
        self._at, self._moved, self._used, self._runs = at, moved_bytes, used_s, runs

    def is_busy_after(self, before: _Look) -> bool:
        """Whether something happened in between; what is not running does not fall asleep."""
        if not self._runs or self._moved != before._moved:
            return True
        allowed = (self._at - before._at) * BUSY_PERCENT / 100
        return self._used - before._used > allowed
