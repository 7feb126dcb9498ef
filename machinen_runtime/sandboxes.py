"""Sandboxes: handles by id, each with the last of its output, and listeners for what is new."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self, TypeAlias, TypeVar

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream, TaskGroup

from machinen_runtime.errors import ErrorCode, MachinenError, SandboxError

DEFAULT_SCROLLBACK_BYTES = 8192
DRAIN_MS = 1000
"""How long output may still come after the VM has ended."""

T = TypeVar("T")
OutputSource: TypeAlias = Literal["stdout", "stderr"]
OnOutputListener: TypeAlias = Callable[[bytes, OutputSource], object]
OnEndListener: TypeAlias = Callable[[], object]


class SandboxVm(Protocol):
    """What a sandbox needs of a handle; VmHandle and PtyVmHandle have it."""

    @property
    def stdin(self) -> ByteSendStream:
        """What is typed into it."""
        ...

    @property
    def stdout(self) -> ByteReceiveStream:
        """What it writes."""
        ...

    @property
    def stderr(self) -> ByteReceiveStream:
        """What it writes beside; may be the same stream."""
        ...

    async def wait(self) -> object:
        """Wait for its end."""
        ...


@dataclass(slots=True)
class SandboxEntry:
    """One sandbox."""

    id: str
    vm: SandboxVm
    added_at: float
    """In ms since 1970."""
    scrollback_bytes: int
    recorded: bytearray = field(default_factory=bytearray)
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)

    @property
    def scrollback(self) -> bytes:
        """The last bytes of stdout and stderr, in the order they came."""
        return bytes(self.recorded[-self.scrollback_bytes :]) if self.scrollback_bytes else b""

    def record(self, chunk: bytes) -> None:
        """Add output; the oldest is forgotten."""
        self.recorded += chunk
        if len(self.recorded) > 2 * self.scrollback_bytes:
            del self.recorded[: len(self.recorded) - self.scrollback_bytes]


@dataclass(frozen=True, slots=True)
class SandboxInfo:
    """A line of `Sandboxes.list()`."""

    id: str
    added_at: float


class Sandboxes:
    """Live sandboxes by id. Use it as an async context manager; leaving it ends no VM.

    A sandbox leaves by itself when its VM has ended.
    """

    def __init__(self, *, scrollback_bytes: int = DEFAULT_SCROLLBACK_BYTES) -> None:
        self.scrollback_bytes = scrollback_bytes
        self._entries: dict[str, SandboxEntry] = {}
        self._listeners: dict[str, list[OnOutputListener]] = {}
        self._end_listeners: dict[str, list[OnEndListener]] = {}
        self._tasks: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._tasks = anyio.create_task_group()
        await self._tasks.__aenter__()
        return self

    async def __aexit__(self, *details: object) -> None:
        assert self._tasks is not None
        tasks, self._tasks = self._tasks, None
        for sandbox_id in tuple(self._entries):
            self.remove(sandbox_id)
        tasks.cancel_scope.cancel()
        await tasks.__aexit__(None, None, None)

    def add(self, sandbox_id: str, vm: SandboxVm) -> None:
        """Register `vm` and record its output from here on.

        Raises:
            SandboxError: SANDBOX_ID_DUPLICATE; SANDBOX_ID_UNKNOWN outside of `async with`.
        """
        if self._tasks is None:
            raise SandboxError(
                ErrorCode.SANDBOX_ID_UNKNOWN, "add sandboxes within `async with Sandboxes()`"
            )
        if sandbox_id in self._entries:
            raise SandboxError(
                ErrorCode.SANDBOX_ID_DUPLICATE,
                f"a sandbox {sandbox_id!r} is already registered; choose another id",
            )
        entry = SandboxEntry(sandbox_id, vm, time.time() * 1000, self.scrollback_bytes)
        self._entries[sandbox_id] = entry
        self._tasks.start_soon(self._watch, entry)

    def remove(self, sandbox_id: str) -> None:
        """Forget a sandbox and its listeners. Its VM runs on."""
        entry = self._entries.pop(sandbox_id, None)
        self._listeners.pop(sandbox_id, None)
        if entry is not None:
            entry.scope.cancel()
        for listener in self._end_listeners.pop(sandbox_id, ()):
            listener()

    def list(self) -> tuple[SandboxInfo, ...]:
        """The sandboxes, in the order they were added."""
        return tuple(SandboxInfo(entry.id, entry.added_at) for entry in self._entries.values())

    def get(self, sandbox_id: str) -> SandboxEntry | None:
        """The sandbox of that id, if there is one."""
        return self._entries.get(sandbox_id)

    async def send(self, sandbox_id: str, data: bytes | str) -> bool:
        """Type `data` into a sandbox; False if there is none of that id or it takes nothing."""
        entry = self._entries.get(sandbox_id)
        if entry is None:
            return False
        try:
            await entry.vm.stdin.send(data.encode() if isinstance(data, str) else data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return False
        return True

    def on_output(self, sandbox_id: str, listener: OnOutputListener) -> Callable[[], None]:
        """Call `listener` with what `sandbox_id` writes from now on. Returns the way to stop it.

        The id may be added later; what was written before is in `get(id).scrollback`.
        """
        return _subscribe(self._listeners.setdefault(sandbox_id, []), listener)

    def on_end(self, sandbox_id: str, listener: OnEndListener) -> Callable[[], None]:
        """Call `listener` once `sandbox_id` is no longer registered. Returns the way to stop it."""
        return _subscribe(self._end_listeners.setdefault(sandbox_id, []), listener)

    async def _watch(self, entry: SandboxEntry) -> None:
        with entry.scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._record, entry, "stdout", entry.vm.stdout)
                if entry.vm.stderr is not entry.vm.stdout:
                    tasks.start_soon(self._record, entry, "stderr", entry.vm.stderr)
                await _wait_ended(entry.vm)
                tasks.cancel_scope.deadline = anyio.current_time() + DRAIN_MS / 1000
        if self._entries.get(entry.id) is entry:
            self.remove(entry.id)

    async def _record(
        self, entry: SandboxEntry, source: OutputSource, stream: ByteReceiveStream
    ) -> None:
        try:
            async for chunk in stream:
                entry.record(chunk)
                for listener in tuple(self._listeners.get(entry.id, ())):
                    listener(chunk, source)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            return


def _subscribe(listeners: list[T], listener: T) -> Callable[[], None]:
    listeners.append(listener)

    def unsubscribe() -> None:
        if listener in listeners:
            listeners.remove(listener)

    return unsubscribe


async def _wait_ended(vm: SandboxVm) -> None:
    """Wait for the VM's end. That wait() lost its patience does not mean that the VM has ended."""
    while True:
        try:
            await vm.wait()
        except MachinenError as error:
            if error.code is ErrorCode.BOOT_TIMEOUT:
                continue
        return
