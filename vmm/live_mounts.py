"""The live mounts of one VM: a FUSE session each, on a stream that is opened again when it is lost.

The guest's end keeps its mounts (docs/protocol.md, 3.6): its programs wait while there is no
stream. For a snapshot all sessions are held, so that nothing is half done, and their state is
written beside the guest's.
"""

from __future__ import annotations

import errno
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import anyio
from anyio.abc import TaskGroup, TaskStatus

from vmm.errors import VmmError
from vmm.mount_requests import MOUNTS_PORT, attach_live_mount
from vmm.mux import ChannelMux
from vmm.mux_stream import MuxStream, StreamResetError
from vmm.spec import LiveMountSpec

MAX_ATTEMPTS = 5
"""A guest that breaks its mount's stream this often does without."""
HOLD_TIMEOUT_S = 2.0
RELEASE_TIMEOUT_S = 0.5
STATE_FILE = "live-mounts.json"
MAX_STATE_BYTES = 256 << 20
WINDOW_BYTES = 2 << 20
"""A request with the most data, and the next, cross without a wait for credit."""


class MountStream:
    """A channel stream as a FUSE session wants it: `receive(max_bytes)` and EndOfStream."""

    def __init__(self, stream: MuxStream, first: bytes) -> None:
        self._stream = stream
        self._rest = memoryview(first)
        self.reset: StreamResetError | None = None
        """Why the guest ended it, if it did."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """The next bytes, at most `max_bytes`.

        Raises:
            anyio.EndOfStream: the guest ended the stream, in whatever way.
        """
        if not self._rest:
            try:
                self._rest = memoryview(await self._stream.receive())
            except StreamResetError as error:
                self.reset = error
            if not self._rest:
                raise anyio.EndOfStream
        data, self._rest = self._rest[:max_bytes], self._rest[max_bytes:]
        return bytes(data)

    async def send(self, data: bytes) -> None:
        """Send all of `data`; once the guest has ended the stream it goes nowhere."""
        try:
            await self._stream.send(data)
        except StreamResetError as error:
            self.reset = error


class LiveMount:
    """One of them: who serves it, and whether the guest is connected to it now."""

    def __init__(self, spec: LiveMountSpec, state: dict[str, Any] | None) -> None:
        from vmm.fuse_session import FuseSession  # here: most VMs have no live mount

        self.spec = spec
        self.session = FuseSession(Path(spec.host), writable=spec.mode == "rw", state=state)
        self.attached = False


class LiveMounts:
    """All live mounts of one VM.

    Raises:
        VmmError: MOUNT_PATH_INVALID if a host directory has gone, RESTORE_FAILED for a state file
            nobody can read.
    """

    def __init__(
        self, specs: Sequence[LiveMountSpec], mux: ChannelMux, log: Callable[[str], None]
    ) -> None:
        self._mux = mux
        self._log = log
        self._mounts: list[LiveMount] = []
        try:
            for spec in specs:
                self._mounts.append(LiveMount(spec, _read_state(spec)))
        except BaseException:
            self.close()
            raise

    def __bool__(self) -> bool:
        return bool(self._mounts)

    @property
    def pages_bytes_served(self) -> int:
        """Bytes read from files named `pages-<n>.img`, over all mounts."""
        return sum(mount.session.pages_bytes_served for mount in self._mounts)

    def describe(self) -> list[dict[str, str]]:
        """What a bundle remembers of each: guest, host, mode."""
        return [
            {"guest": each.spec.guest, "host": each.spec.host, "mode": each.spec.mode}
            for each in self._mounts
        ]

    def close(self) -> None:
        """Let go of every descriptor."""
        for mount in self._mounts:
            mount.session.close()

    async def attach(self, tasks: TaskGroup) -> None:
        """Mount all in the guest and serve them from now on.

        Raises:
            VmmError: MOUNT_FAILED with the guest's words, AGENT_UNAVAILABLE.
        """
        for mount in self._mounts:
            await tasks.start(self._keep_serving, mount)

    async def _keep_serving(
        self, mount: LiveMount, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Serve until the guest unmounts it, or has lost it too often; the first try must work."""
        unmounted = await self._serve_once(mount, task_status)
        for _ in range(MAX_ATTEMPTS):
            if unmounted:
                self._log(f"the live mount {mount.spec.guest} was unmounted in the guest")
                return
            await self._mux.ready.wait()
            try:
                unmounted = await self._serve_once(mount, anyio.TASK_STATUS_IGNORED)
            except VmmError as error:
                self._log(f"the live mount {mount.spec.guest} is not connected: {error}")
        self._log(f"the live mount {mount.spec.guest} was lost too often; it stays away")

    async def _serve_once(self, mount: LiveMount, task_status: TaskStatus[None]) -> bool:
        """Serve one stream to its end; True if the guest has unmounted it."""
        async with self._mux.open_stream(MOUNTS_PORT) as stream:
            served = MountStream(stream, await attach_live_mount(stream, mount.spec))
            stream.widen(WINDOW_BYTES)
            mount.attached = True
            task_status.started()
            try:
                await mount.session.serve(served, stream)
            finally:
                mount.attached = False
        if mount.session.broken is not None:
            self._log(f"the live mount {mount.spec.guest} begins anew: {mount.session.broken}")
        return served.reset is not None and served.reset.errno_value == errno.ENODEV

    @asynccontextmanager
    async def held(self) -> AsyncGenerator[bool]:
        """In this block no request is half done and none begins.

        Yields False if the guest did not get there in time: then what is half done fails in the
        copies (EIO) and goes on here.
        """
        holding = [mount for mount in self._mounts if mount.attached]
        in_time = False
        try:
            with anyio.move_on_after(HOLD_TIMEOUT_S):
                async with anyio.create_task_group() as tasks:
                    for mount in holding:
                        tasks.start_soon(mount.session.hold)
                in_time = True
            yield in_time
        finally:
            # Shielded, but not for ever: the channel of a VM that is about to end takes nothing.
            with anyio.move_on_after(RELEASE_TIMEOUT_S, shield=True):
                for mount in holding:
                    if mount.attached:
                        await mount.session.release()

    def save(self) -> str:
        """What the guest has open, as JSON for a state file. Call while held."""
        states = {
            mount.spec.guest: mount.session.save() for mount in self._mounts if mount.attached
        }
        return json.dumps({"mounts": states}, separators=(",", ":"))


def _read_state(spec: LiveMountSpec) -> dict[str, Any] | None:
    """The state a snapshot kept of this mount; None if it had none."""
    if spec.state_file is None:
        return None
    path = Path(spec.state_file)
    try:
        if path.stat().st_size > MAX_STATE_BYTES:
            raise ValueError("it is too large")
        states = json.loads(path.read_bytes())["mounts"]
        state = states.get(spec.guest)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        message = f"cannot read what was open in the live mounts ({path.name}): {error}"
        raise VmmError("RESTORE_FAILED", message) from error
    return cast("dict[str, Any]", state) if isinstance(state, dict) else None
