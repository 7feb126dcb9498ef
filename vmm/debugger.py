"""`debug_start`, `debug_stop`: QEMU's gdbstub on a Unix socket in the run directory.

The socket is made here, mode 0600, and handed to QEMU by descriptor: QEMU may make no sockets of
its own. One client at a time; when it connects QEMU stops the machine, and goes on when it says so.
Commands are QEMU's, see qemu-qmp-ref(7) and "GDB usage" in its manual.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
from anyio.abc import TaskGroup

from vmm.errors import VmmError
from vmm.operations import Operations
from vmm.qmp import Qmp
from vmm.requests import GDB_SOCKET
from vmm.spec import VmSpec

DETACH_TIMEOUT_S = 5.0
DETACH, DETACHED = b"$D;1#b0", b"$OK#9a"
"""Packets of GDB's remote protocol: remove the breakpoints, run on, forget the client. QEMU wants
the process named if the client before spoke of several."""


class Debugger:
    """The gdbstub of one VM: off, or on `gdb.sock`."""

    def __init__(self, spec: VmSpec, qmp: Qmp, operations: Operations, tasks: TaskGroup) -> None:
        self._path = os.path.join(spec.run_dir, GDB_SOCKET)
        self._qmp = qmp
        self._operations = operations
        self._tasks = tasks
        self._following: anyio.CancelScope | None = None
        self._lock = anyio.Lock()
        self._count = 0

    def handlers(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        """The verbs of control.sock by name."""
        return {"debug_start": self._on_start, "debug_stop": self._on_stop}

    async def _on_start(self, _params: dict[str, Any]) -> dict[str, Any]:
        async with self._lock:
            started = self._following is None
            if started:
                self._operations.require_up()
                with _listening(self._path) as listener:
                    await self._serve_on(listener, server=True)
                await self._tasks.start(self._follow)
                self._operations.debugger = "listening"
        held = self._operations.debugger == "holding"
        return {"socket": self._path, "started": started, "held": held}

    async def _on_stop(self, _params: dict[str, Any]) -> dict[str, Any]:
        async with self._lock:
            if self._following is None:
                return {"stopped": False}
            was_paused = self._operations.debugger != "holding" and self._operations.is_paused
            with suppress(FileNotFoundError):
                os.unlink(self._path)
            await self._hmp("gdbserver none")
            try:
                await self._remove_breakpoints()
            finally:
                await self._qmp.execute("stop" if was_paused else "cont")
            self._following.cancel()
            self._following = None
            self._operations.debugger = ""
            await self._operations.follow_qemu()
        return {"stopped": True}

    async def _serve_on(self, connection: socket.socket, *, server: bool) -> None:
        """Give QEMU a descriptor, and have its stub speak there."""
        self._count += 1
        name = f"gdb{self._count}"
        await self._qmp.give_descriptor(name, connection.fileno())
        address = {"type": "fd", "data": {"str": name}}
        data: dict[str, Any] = {"addr": address, "server": server}
        if server:
            data["wait"] = False
        backend = {"type": "socket", "data": data}
        await self._qmp.execute("chardev-add", {"id": name, "backend": backend})
        try:
            await self._hmp(f"gdbserver chardev:{name}")
        except VmmError:
            await self._qmp.execute("chardev-remove", {"id": name})
            raise

    async def _remove_breakpoints(self) -> None:
        """A client that did not detach leaves them; QEMU forgets them when one does."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            await self._serve_on(theirs, server=False)
            theirs.close()
            ours.setblocking(False)
            said = b""
            with anyio.move_on_after(DETACH_TIMEOUT_S):
                ours.send(DETACH)
                while DETACHED not in said:
                    await anyio.wait_readable(ours)
                    data = ours.recv(4096)
                    if not data:
                        break
                    said += data
            await self._hmp("gdbserver none")
        if DETACHED not in said:
            raise VmmError("QMP_REFUSED", "QEMU's gdbstub did not let go of the machine")

    async def _hmp(self, command: str) -> None:
        """A command of QEMU's human monitor, which answers errors as text."""
        said = await self._qmp.execute("human-monitor-command", {"command-line": command})
        if any(word in said.lower() for word in ("could not", "error", "unknown")):
            raise VmmError("QMP_REFUSED", f"QEMU refused {command}: {said.strip()[:200]}")

    async def _follow(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        """Tell the VM's state as gdb changes it."""
        with anyio.CancelScope() as self._following:
            with self._qmp.events("STOP", "RESUME") as events:
                task_status.started()
                async for _ in events:
                    with suppress(VmmError):
                        await self._operations.follow_qemu()


def _listening(path: str) -> socket.socket:
    """A listening socket at `path`, for its owner alone."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    previous = os.umask(0o177)
    try:
        with suppress(FileNotFoundError):
            os.unlink(path)
        listener.bind(path)
        listener.listen(1)
    except OSError as error:
        listener.close()
        raise VmmError("QMP_REFUSED", f"cannot listen at {path}: {error.strerror}") from error
    finally:
        os.umask(previous)
    return listener
