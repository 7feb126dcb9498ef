"""Speak with a monitor: requests over control.sock, events from it, its errors in our family."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from machinen_runtime.errors import BootError, ErrorCode, MachinenError, MountError, SnapshotError
from machinen_runtime.unix_stream import connect_unix
from vmm.errors import VmmError
from vmm.records import (
    CommandRecord,
    Histogram,
    OperationRecord,
    OperationTotals,
    VmMetrics,
    VmTrace,
)
from vmm.requests import (
    CONTROL_SOCKET,
    EVENT_KINDS,
    MAX_LINE_BYTES,
    SnapshotReport,
    VmEvent,
    VmStatus,
)

REQUEST_TIMEOUT_S = 30.0

Shape = TypeVar("Shape")

_FAMILY: dict[str, tuple[type[MachinenError], ErrorCode]] = {
    "SPEC_INVALID": (BootError, ErrorCode.BOOT_VMM_PACKAGE_BROKEN),
    "QEMU_START_FAILED": (BootError, ErrorCode.BOOT_VMM_MISSING),
    "LIMITS_UNAVAILABLE": (BootError, ErrorCode.BOOT_LIMIT_UNAVAILABLE),
    "QEMU_DIED": (BootError, ErrorCode.VM_DIED),
    "QEMU_GONE": (BootError, ErrorCode.VM_DIED),
    "GUEST_FAILED": (BootError, ErrorCode.VM_DIED),
    "TERMINATED": (BootError, ErrorCode.VM_DIED),
    "RESTORE_FAILED": (BootError, ErrorCode.BOOT_SNAPSHOT_INVALID),
    "AGENT_UNAVAILABLE": (BootError, ErrorCode.BOOT_TIMEOUT),
    "WORKLOAD_FAILED": (BootError, ErrorCode.BOOT_CMD_FAILED),
    "PORT_IN_USE": (BootError, ErrorCode.BOOT_PORT_FORWARD_IN_USE),
    "PORT_FORBIDDEN": (BootError, ErrorCode.BOOT_PORT_FORWARD_INVALID),
    "FORWARD_UNKNOWN": (BootError, ErrorCode.BOOT_PORT_FORWARD_INVALID),
    "MOUNT_FAILED": (MountError, ErrorCode.MOUNT_SERVER_SPAWN_FAILED),
    "MOUNT_PATH_INVALID": (MountError, ErrorCode.MOUNT_PATH_INVALID),
    "MOUNT_STATE_INVALID": (BootError, ErrorCode.BOOT_SNAPSHOT_INVALID),
    "SNAPSHOT_TARGET_INVALID": (SnapshotError, ErrorCode.SNAPSHOT_DUMP_FAILED),
    "SNAPSHOT_FAILED": (SnapshotError, ErrorCode.SNAPSHOT_DUMP_FAILED),
    "HOST_REFUSED": (BootError, ErrorCode.HOST_REFUSED),
}


def translate(error: VmmError, detail: str = "") -> MachinenError:
    """A monitor's error as one of ours; codes we have no word for become VM_CONTROL_FAILED."""
    family, code = _FAMILY.get(error.code, (BootError, ErrorCode.VM_CONTROL_FAILED))
    message = f"{error}\n{detail}" if detail else str(error)
    return family(code, message, retryable=error.retryable)


class MonitorClient:
    """Requests to the monitor whose sockets lie in `run_dir`; a connection per request."""

    def __init__(self, run_dir: Path) -> None:
        self._path = str(run_dir / CONTROL_SOCKET)

    async def status(self) -> VmStatus:
        """The VM as it is now.

        Raises:
            BootError: VM_DIED if the VM is gone.
        """
        return _shape(VmStatus, await self._request("status"))

    async def metrics(self) -> VmMetrics:
        """What the VM costs and has done since its monitor started."""
        reply = _fields(await self._request("metrics"))
        for key in ("command_seconds", "first_reply_seconds"):
            reply[key] = _shape(Histogram, reply.get(key))
        totals = _fields(reply.get("operations"))
        reply["operations"] = {kind: _shape(OperationTotals, each) for kind, each in totals.items()}
        return _shape(VmMetrics, reply)

    async def trace(self) -> VmTrace:
        """The last operations and commands of the VM."""
        reply = _fields(await self._request("trace"))
        for key, shape in (("operations", OperationRecord), ("commands", CommandRecord)):
            reply[key] = [_shape(shape, each) for each in reply.get(key, [])]
        reply["states"] = [(int(at), str(state)) for at, state in reply.get("states", [])]
        return _shape(VmTrace, reply)

    async def debug_start(self) -> dict[str, Any]:
        """Have QEMU listen for gdb; {socket, started, held} as in vmm/requests.py."""
        return _fields(await self._request("debug_start"))

    async def debug_stop(self) -> bool:
        """End that, and let the VM run on; False if it was not so."""
        return bool(_fields(await self._request("debug_stop")).get("stopped"))

    async def pause(self) -> VmStatus:
        """Stop the guest's processors; nothing happens if they are stopped."""
        return _shape(VmStatus, await self._request("pause"))

    async def resume(self) -> VmStatus:
        """Let the guest run on, its clock stepped to now."""
        return _shape(VmStatus, await self._request("resume"))

    async def auto_pause(self, idle_ms: int | None) -> None:
        """Stop the processors whenever nothing happened for so long; None: never."""
        await self._request("auto_pause", {"idle_ms": idle_ms})

    async def add_forward(self, params: dict[str, Any]) -> dict[str, Any]:
        """Listen on a host port; `params` and reply as in vmm/requests.py."""
        return await self._request("add_forward", params)

    async def remove_forward(self, params: dict[str, Any]) -> None:
        """Stop listening on a host port."""
        await self._request("remove_forward", params)

    async def rename(self, name: str, hostname: str) -> VmStatus:
        """Have VM and guest take a new name; VM_CONTROL_FAILED (retryable) if it is paused."""
        params = {"name": name, "hostname": hostname}
        return _shape(VmStatus, await self._request("rename", params))

    async def stop(self, grace_ms: int) -> None:
        """Power the guest off, or end it when the grace is over. Harmless if it is gone already."""
        try:
            await self._request("stop", {"grace_ms": grace_ms}, timeout_s=grace_ms / 1000 + 10)
        except BootError as error:
            if error.code is not ErrorCode.VM_DIED:
                raise

    @asynccontextmanager
    async def snapshot(
        self, directory: Path, *, leave_running: bool, durable: bool, timeout_s: float
    ) -> AsyncGenerator[SnapshotReport]:
        """Write the VM's state into `directory` (absent or empty), then run the block.

        Without `leave_running` the guest stands still in the block. It is to call `stop` as soon as
        the files are a bundle; left without that, or if we die, the guest goes on.

        Raises:
            SnapshotError: SNAPSHOT_DUMP_FAILED, SNAPSHOT_TIMEOUT.
        """
        params = {
            "directory": str(directory),
            "leave_running": leave_running,
            "durable": durable,
        }
        async with AsyncExitStack() as connection:
            try:
                reply = await self._ask(connection, "snapshot", params, timeout_s)
            except TimeoutError as error:
                message = f"the snapshot did not end within {timeout_s:g} s; the VM runs on"
                raise SnapshotError(ErrorCode.SNAPSHOT_TIMEOUT, message) from error
            yield _shape(SnapshotReport, reply)

    async def freeze_mount(self, directory: Path, *, durable: bool) -> list[str]:
        """Keep the disks of the VM's mount in `directory` as they are now; its layers' names.

        Raises:
            SnapshotError: SNAPSHOT_DUMP_FAILED.
        """
        params = {"directory": str(directory), "durable": durable}
        layers = (await self._request("freeze_mount", params))["layers"]
        return [str(each) for each in layers]

    @asynccontextmanager
    async def events(self, stats_interval_ms: int = 1000) -> AsyncGenerator[AsyncIterator[VmEvent]]:
        """Subscribe; the iterator ends when the VM is gone. 0: no stats."""
        try:
            stream = connect_unix(self._path)
        except OSError as error:
            raise _unreachable(error, self._path) from error
        async with stream:
            request = {
                "id": 1,
                "method": "subscribe",
                "params": {"stats_interval_ms": stats_interval_ms},
            }
            try:
                await stream.send(json.dumps(request).encode() + b"\n")
            except anyio.BrokenResourceError as error:
                raise _gone(self._path) from error
            yield _Events(BufferedByteReceiveStream(stream))

    async def _request(
        self,
        method: str,
        params: dict[str, Any] | None = None,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> Any:
        try:
            async with AsyncExitStack() as connection:
                return await self._ask(connection, method, params or {}, timeout_s)
        except TimeoutError:
            raise BootError(
                ErrorCode.VM_CONTROL_FAILED,
                f"the VM's monitor did not answer {method} within {timeout_s:g} s",
                retryable=True,
            ) from None

    async def _ask(
        self, connection: AsyncExitStack, method: str, params: dict[str, Any], timeout_s: float
    ) -> Any:
        """The result of one request, on a connection that `connection` closes. TimeoutError."""
        request = json.dumps({"id": 1, "method": method, "params": params})
        try:
            with anyio.fail_after(timeout_s):
                stream = await connection.enter_async_context(connect_unix(self._path))
                await stream.send(request.encode() + b"\n")
                reader = BufferedByteReceiveStream(stream)
                line = await reader.receive_until(b"\n", MAX_LINE_BYTES)
        except TimeoutError:
            raise
        except anyio.DelimiterNotFound as error:
            raise _other_version() from error
        except (
            OSError,
            anyio.EndOfStream,
            anyio.IncompleteRead,
            anyio.BrokenResourceError,
        ) as gone:
            raise _unreachable(gone, self._path) from gone
        match _parse(line):
            case {"error": error}:
                raise translate(VmmError.from_json(error))
            case {"result": result}:
                return result
            case _:
                raise _other_version()


class _Events:
    """The events of one subscription until the VM is gone; an iterator that may be dropped."""

    def __init__(self, reader: BufferedByteReceiveStream) -> None:
        self._reader = reader

    def __aiter__(self) -> _Events:
        return self

    async def __anext__(self) -> VmEvent:
        while True:
            try:
                line = await self._reader.receive_until(b"\n", MAX_LINE_BYTES)
            except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
                raise StopAsyncIteration from None
            message = _parse(line)
            if not isinstance(message, dict):
                raise _other_version()
            fields = cast("dict[str, Any]", message)
            if event := EVENT_KINDS.get(str(fields.get("event"))):
                return _shape(event, fields.get("data"))


def _shape(shape: type[Shape], reply: Any) -> Shape:
    try:
        return shape(**reply)
    except TypeError as error:
        raise _other_version() from error


def _fields(reply: Any) -> dict[str, Any]:
    if not isinstance(reply, dict):
        raise _other_version()
    return cast("dict[str, Any]", reply)


def _parse(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _other_version() from error


def _other_version() -> BootError:
    message = "the monitor is of another version; stop this VM and boot it again"
    return BootError(ErrorCode.VM_CONTROL_FAILED, message)


def _unreachable(error: Exception, control_path: str) -> BootError:
    """Nobody is there, or somebody whom we do not speak with."""
    if isinstance(error, PermissionError):
        message = f"this VM's monitor is not yours to speak with: {error.strerror}"
        return BootError(ErrorCode.VM_CONTROL_FAILED, message)
    return _gone(control_path)


def _gone(control_path: str) -> BootError:
    from machinen_runtime.crashes import crash_hint

    hint = crash_hint(Path(control_path).parent) or "; `machinen ls` shows those that run"
    return BootError(ErrorCode.VM_DIED, f"the VM is gone{hint}")
