"""VmHandle: one VM, each method one call into a file below."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream

from machinen_runtime.channel_exec import (
    VsockExec,
    VsockExecOptions,
    VsockExecResult,
    describe_command,
)
from machinen_runtime.channel_pty import VsockExecPtyHandle
from machinen_runtime.channel_sessions import (
    SessionInfo,
    TerminalSession,
    kill_session,
    list_sessions,
    open_session,
)
from machinen_runtime.errors import BootError, ErrorCode, ExecError, MachinenError
from machinen_runtime.fork import fork_entry
from machinen_runtime.gc import run_gc
from machinen_runtime.launch import Launched
from machinen_runtime.log_events import ChunkLogEvent, OnLog, tell_all
from machinen_runtime.memory import MemoryStats, read_balloon_stats, read_host_rss_bytes
from machinen_runtime.monitor_client import MonitorClient
from machinen_runtime.monitor_process import KILL_AFTER_MS
from machinen_runtime.option_types import PortForward
from machinen_runtime.options import ForkOptions, SnapshotOptions, WriteFileOptions
from machinen_runtime.pids import signal_process, validate_pid, wait_process_gone
from machinen_runtime.port_forwards import add_forward, list_forwards, remove_forward
from machinen_runtime.registry_entry import RegistryEntry
from machinen_runtime.rename import rename_vm
from machinen_runtime.snapshot import SnapshotResult, take_snapshot
from machinen_runtime.stdio import PipeReceiveStream, PipeSendStream
from machinen_runtime.write_file import write_guest_file
from vmm.requests import StatsEvent, VmEvent, VmStatus
from vmm.status import LET_GO

STOP_GRACE_MS = 2000


@dataclass(frozen=True, slots=True)
class ExitStatus:
    """How a VM ended: the monitor's exit code, or the signal that killed it.

    The code is the workload's (128 + signal if one killed it); 123: QEMU died; 124: the guest
    powered off without a word; 143: terminated. Both None: it was not our child, nobody can tell.
    """

    code: int | None
    signal: str | None


class VmHandle:
    """A VM: one that this process booted, restored or forked, or one it attached to.

    As a context manager it kills a VM that is not detached when the block ends.
    """

    def __init__(
        self, launched: Launched, *, timeout_ms: float | None, on_log: OnLog | None
    ) -> None:
        self.entry: RegistryEntry = launched.entry
        self.phases: dict[str, float] = launched.phases
        """Milliseconds per phase of the boot or restore; empty for an attached handle. Ours."""
        self._process = launched.process
        self._lifeline_fd = launched.lifeline_fd
        self._timeout_ms = timeout_ms
        self._on_log = on_log
        self._monitor = MonitorClient(Path(self.entry.socket_path).parent)
        self._stdin = PipeSendStream(launched.input_fd)
        self._stdout = PipeReceiveStream(launched.output_fd)
        self._stderr = PipeReceiveStream(launched.console_fd, self._log_console())
        self._exit: ExitStatus | None = None

    # -- who it is --------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The monitor's process id: what `attach(pid=…)` takes."""
        return self.entry.pid

    @property
    def name(self) -> str | None:
        """The name it was given, if any."""
        return self.entry.name

    @property
    def booted(self) -> str | None:
        """ "warm": it began with a template; "cold": its kernel was booted; None: it is a copy.

        Ours."""
        return self.entry.booted

    @property
    def cold_reason(self) -> str | None:
        """Why its kernel was booted, in words. Ours."""
        return self.entry.cold_reason

    @property
    def vsock_path(self) -> Path:
        """The socket through which every service of the guest is reached."""
        return Path(self.entry.socket_path)

    @property
    def stdin(self) -> ByteSendStream:
        """Typed into session `main`; swallows everything on attached and detached handles."""
        return self._stdin

    @property
    def stdout(self) -> ByteReceiveStream:
        """Output of session `main`; empty on attached and detached handles."""
        return self._stdout

    @property
    def stderr(self) -> ByteReceiveStream:
        """The guest's console; empty on attached and detached handles."""
        return self._stderr

    # -- its life ---------------------------------------------------------------------------------

    async def wait(self) -> ExitStatus:
        """Wait for the VM's end.

        Raises:
            BootError: BOOT_TIMEOUT when the `timeout_ms` of boot() are over; the VM runs on.
        """
        limit = None if self._timeout_ms is None else self._timeout_ms / 1000
        with anyio.move_on_after(limit):
            return await self._wait_gone()
        message = (
            f"the VM still runs after {self._timeout_ms:g} ms; pass timeout_ms=None to wait on"
        )
        raise BootError(ErrorCode.BOOT_TIMEOUT, message)

    async def kill(self) -> None:
        """End the VM at once: TERM to its monitor, KILL after 2 s. Returns when it is gone."""
        signal_process(self.pid, self.entry, signal.SIGTERM)
        if not await wait_process_gone(self.pid, self.entry, timeout_ms=KILL_AFTER_MS):
            signal_process(self.pid, self.entry, signal.SIGKILL)
        await self._wait_gone()
        run_gc(pid=self.pid)

    async def stop(self, *, grace_ms: int = STOP_GRACE_MS) -> ExitStatus:
        """Let the guest end its workload and power off; kill it when the grace is over. Ours."""
        try:
            await self._monitor.stop(grace_ms)
        except MachinenError:
            await self.kill()
        if not await wait_process_gone(self.pid, self.entry, timeout_ms=KILL_AFTER_MS):
            await self.kill()
        status = await self._wait_gone()
        run_gc(pid=self.pid)
        return status

    async def detach(self) -> None:
        """Let the VM live on without this process. The three streams end."""
        if self._lifeline_fd is not None:
            os.write(self._lifeline_fd, LET_GO)
            self._close_lifeline()
        self._close_streams()
        await anyio.lowlevel.checkpoint()

    async def output(self) -> str:
        """All output of session `main` once the VM has ended; the last 1 MiB of it."""
        await self._stdout.drain()
        return self._stdout.tail.decode("utf-8", "replace")

    async def error_output(self) -> str:
        """All console output once the VM has ended; the last 1 MiB of it."""
        await self._stderr.drain()
        return self._stderr.tail.decode("utf-8", "replace")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lifeline_fd is not None:
            with anyio.CancelScope(shield=True):
                await self.kill()
        elif self._process is not None and self._exit is not None:
            run_gc(pid=self.pid)  # it ended by itself, in the block
        self._close_streams()

    # -- commands in it ---------------------------------------------------------------------------

    async def exec(self, cmd: str | Sequence[str], **options: Any) -> VsockExecResult:
        """Run a shell command (or an argv) and wait for it; keywords are `VsockExecOptions`.

        Raises:
            ExecError: EXEC_NONZERO_EXIT, and those of `exec_raw`.
        """
        result = await self.exec_raw(cmd, **options)
        if result.exit_code:
            what = describe_command(cmd)
            message = f"exit code {result.exit_code} from: {what}\n{result.stderr}".rstrip()
            raise ExecError(ErrorCode.EXEC_NONZERO_EXIT, message)
        return result

    async def exec_raw(self, cmd: str | Sequence[str], **options: Any) -> VsockExecResult:
        """As `exec`, but any exit code is a result.

        Raises:
            ExecError: EXEC_AGENT_UNAVAILABLE and EXEC_AGENT_TIMEOUT (retryable), EXEC_PROTOCOL.
        """
        chosen = VsockExecOptions(**options)
        if chosen.on_log is None and self._on_log is not None:
            chosen = replace(chosen, on_log=self._on_log)
        return await VsockExec.run(self.vsock_path, cmd, chosen)

    def exec_pty(
        self,
        cmd: str | Sequence[str] | None,
        *,
        cols: int,
        rows: int,
        stdin: ByteReceiveStream,
        stdout: ByteSendStream,
        connect_timeout_ms: float = 5_000,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
    ) -> VsockExecPtyHandle:
        """Run a command on a terminal of its own; await the handle's `result` to run it."""
        return VsockExec.start_pty(
            self.vsock_path,
            cmd,
            cols=cols,
            rows=rows,
            stdin=stdin,
            stdout=stdout,
            connect_timeout_ms=connect_timeout_ms,
            env=env,
            cwd=cwd,
        )

    async def write_file(
        self,
        guest_path: str,
        contents: bytes | str,
        *,
        mode: int | None = None,
        recursive: bool = True,
        append: bool = False,
    ) -> None:
        """Write a file in the guest, whole or not at all.

        Raises:
            ExecError: EXEC_NONZERO_EXIT with the guest's words, EXEC_REQUEST_INVALID for a bad
                mode, EXEC_VSOCK_UNAVAILABLE, EXEC_AGENT_UNAVAILABLE and EXEC_AGENT_TIMEOUT
                (retryable).
        """
        options = WriteFileOptions(mode=mode, recursive=recursive, append=append)
        await write_guest_file(self.vsock_path, guest_path, contents, options)

    async def add_port_forward(self, forward: PortForward | int) -> PortForward:
        """Lead a host port into the guest, now; a number is a guest port on any free host port.

        Returns the forward as it listens. Ours.

        Raises:
            BootError: BOOT_PORT_FORWARD_IN_USE naming who has it, BOOT_PORT_FORWARD_INVALID,
                VM_DIED.
        """
        return await add_forward(self.entry, forward)

    async def remove_port_forward(self, host_port: int, host_addr: str = "127.0.0.1") -> None:
        """Stop a forward; its connections end. Ours.

        Raises:
            BootError: BOOT_PORT_FORWARD_INVALID if nothing of this VM listens there, VM_DIED.
        """
        await remove_forward(self.entry, host_port, host_addr)

    async def port_forwards(self) -> list[PortForward]:
        """The forwards that listen now. Ours."""
        return await list_forwards(self.entry)

    def open_session(
        self,
        name: str = "main",
        *,
        cols: int | None = None,
        rows: int | None = None,
        cmd: str | Sequence[str] | None = None,
        create: bool = False,
    ) -> AbstractAsyncContextManager[TerminalSession]:
        """Attach to a terminal of the guest, by name; without a size it keeps its own. Ours."""
        return open_session(self.vsock_path, name, cols=cols, rows=rows, cmd=cmd, create=create)

    async def sessions(self) -> list[SessionInfo]:
        """The guest's terminals. Ours."""
        return await list_sessions(self.vsock_path)

    async def kill_session(self, name: str) -> None:
        """End a terminal of the guest. Ours."""
        await kill_session(self.vsock_path, name)

    # -- the whole machine ------------------------------------------------------------------------

    async def snapshot(self, **options: Any) -> SnapshotResult:
        """Write a bundle to `out_dir`; the VM ends unless `leave_running`.

        Keywords are those of `SnapshotOptions`.

        Raises:
            SnapshotError: SNAPSHOT_NO_DISK, SNAPSHOT_DUMP_FAILED, SNAPSHOT_TIMEOUT; the VM runs on
                then.
        """
        chosen = SnapshotOptions(**options)
        return await take_snapshot(
            self.entry, replace(chosen, on_log=tell_all(chosen.on_log, self._on_log))
        )

    async def fork(self, **options: Any) -> VmHandle:
        """A sibling that goes on from this very moment.

        Both run on apart. Keywords: `ForkOptions`. Raises what `fork_many()` raises,
        FORK_MEMORY_BACKPRESSURE (retryable) above all.
        """
        return (await self.fork_many(1, **options))[0]

    async def fork_many(self, count: int, **options: Any) -> list[VmHandle]:
        """`count` siblings from one snapshot: this VM stands still once. Ours.

        Raises:
            BootError: FORK_MEMORY_BACKPRESSURE (retryable) and those of restore().
            SnapshotError: SNAPSHOT_DUMP_FAILED.
        """
        chosen = ForkOptions(**options)
        snapshot, siblings = await fork_entry(self.entry, count, chosen)
        handles = [
            VmHandle(each, timeout_ms=chosen.timeout_ms, on_log=chosen.on_log) for each in siblings
        ]
        for handle in handles:
            handle.forked_by = snapshot
        return handles

    forked_by: SnapshotResult | None = None
    """For a fork: the snapshot it was made from, with the time its source stood still. Ours."""

    async def pause(self) -> None:
        """Stop the guest's processors; it notices nothing but the time. Ours."""
        await self._monitor.pause()

    async def resume(self) -> None:
        """Let a paused guest run on. Ours."""
        await self._monitor.resume()

    async def auto_pause(self, idle_ms: int | None) -> None:
        """Let it sleep after >= 1000 ms without use, until somebody wants it. None: never. Ours."""
        await self._monitor.auto_pause(idle_ms)

    async def rename(self, name: str) -> None:
        """Give the VM another name, and its guest the hostname that goes with it. Ours.

        The old name is free at once; other handles go on under the old one.

        Raises:
            RegistryError: REGISTRY_NAME_INVALID, REGISTRY_NAME_IN_USE; nothing has changed then.
            BootError: VM_CONTROL_FAILED (retryable) if it is paused, its guest does not answer, or
                somebody else renamed it first; VM_DIED.
        """
        self.entry = await rename_vm(self.entry, name)

    async def status(self) -> VmStatus:
        """What the monitor says about the VM. Ours."""
        return await self._monitor.status()

    def events(
        self, stats_interval_ms: int = 1000
    ) -> AbstractAsyncContextManager[AsyncIterator[VmEvent]]:
        """Subscribe to state changes, phases, and stats every `stats_interval_ms` (0.

        None). Ours.
        """
        return self._monitor.events(stats_interval_ms)

    async def memory_stats(self) -> MemoryStats:
        """What the host sees of the VM's memory now."""
        counters = read_balloon_stats(self.entry.stats_path) if self.entry.stats_path else None
        alive = validate_pid(self.pid, self.entry) == "alive"
        return MemoryStats(
            ceiling_mib=self.entry.memory_ceiling_mib,
            host_rss_bytes=read_host_rss_bytes(self.pid) if alive else None,
            balloon_inflated_bytes=counters.bytes_reported if counters else 0,
            lazy_pages_pending=await self._lazy_pages_pending(),
        )

    # -- inside -----------------------------------------------------------------------------------

    async def _lazy_pages_pending(self) -> int:
        if self.entry.forked_from is None:
            return 0
        try:
            async with self._monitor.events(stats_interval_ms=1000) as events:
                async for event in events:
                    if isinstance(event, StatsEvent):
                        return event.lazy_pages_pending
        except BootError:  # the VM is gone: nothing is pending any more
            return 0
        return 0

    async def _wait_gone(self) -> ExitStatus:
        if self._exit is None:
            await wait_process_gone(self.pid, self.entry)
            self._exit = self._collect_exit()
            self._close_lifeline()
        return self._exit

    def _collect_exit(self) -> ExitStatus:
        if self._process is None:
            return ExitStatus(code=None, signal=None)
        code = self._process.wait()
        if code < 0:
            return ExitStatus(code=None, signal=signal.Signals(-code).name)
        return ExitStatus(code=code, signal=None)

    def _log_console(self) -> Callable[[bytes], None] | None:
        on_log = self._on_log
        if on_log is None:
            return None
        return lambda chunk: on_log(ChunkLogEvent(source="guest-console", chunk=chunk))

    def _close_lifeline(self) -> None:
        if self._lifeline_fd is not None:
            os.close(self._lifeline_fd)
            self._lifeline_fd = None

    def _close_streams(self) -> None:
        for stream in (self._stdin, self._stdout, self._stderr):
            stream.close()
