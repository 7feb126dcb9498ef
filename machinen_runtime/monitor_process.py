"""The monitor as a process: start it, hand it its spec, hear how the start goes, end it.

A monitor can be started before its spec is known: it imports what it needs meanwhile. One that
never gets a spec ends when we close its input.
"""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Protocol, Self, cast

import anyio

from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.host_refusals import pass_exhaustion
from machinen_runtime.monitor_client import translate
from machinen_runtime.pids import KnownProcess, end_process
from vmm.errors import VmmError
from vmm.spec import VmSpec
from vmm.status import LET_GO

KILL_AFTER_MS = 2000
MAX_STATUS_BYTES = 1 << 20
CONSOLE_LINES_SHOWN = 15
STDIO_PIPE_BYTES = 1 << 20

MACHINE_FAILURES = frozenset(
    {
        "AGENT_UNAVAILABLE",
        "GUEST_FAILED",
        "QEMU_DIED",
        "QEMU_GONE",
        "QEMU_START_FAILED",
        "RESTORE_FAILED",
    }
)
"""Codes of a monitor whose QEMU or guest did not do what was expected; others are the caller's."""
_TO_MONITOR = frozenset({"spec", "lifeline", "input"})


def vmm_command(binary: Sequence[str] = ()) -> list[str]:
    """The command that runs a monitor: `binary`, or ours with this very Python."""
    return list(binary) or [sys.executable, "-I", "-m", "vmm"]


def start_vmm(
    what: str,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    pass_fds: Iterable[int],
    stdin: int = subprocess.DEVNULL,
    stderr: int = subprocess.DEVNULL,
) -> subprocess.Popen[bytes]:
    """Start `what`, in a session of its own, with `env` on top of our environment.

    Raises:
        BootError: BOOT_VMM_MISSING: there is no such program.
        OSError: the host has no descriptor, process or memory left for it.
    """
    try:
        return subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
            env={**os.environ, **env},
        )
    except OSError as error:
        pass_exhaustion(error)
        message = f"cannot start {what} {argv[0]}: {error.strerror}"
        raise BootError(ErrorCode.BOOT_VMM_MISSING, message) from error


class ExitSource(Protocol):
    """Who tells how a monitor ended."""

    def wait(self) -> int:
        """Its exit status, or the negative number of the signal that killed it.

        Blocks until it has ended.
        """
        ...


class MonitorLink(ABC):
    """A monitor that shall run a VM for us, and our ends of its pipes."""

    def __init__(self, pipes: MonitorPipes, *, detached: bool) -> None:
        self.detached = detached
        self.pid: int | None = None
        """The monitor's own, once it is known: a detached one is not our child."""
        self._known: KnownProcess | None = None
        """Which process that was when it said so: a pid is used again."""
        self.console = ""
        """What the guest's console said, if the VM did not come up."""
        self.template: dict[str, Any] | None = None
        """What it said about the template it was asked for."""
        self._agent_answered = False
        self._failure: str | None = None
        self._buffer = b""
        self._pipes = pipes

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leaving the block before `let_go` or `hand_over` ends the monitor."""
        if self._pipes.ours:
            with anyio.CancelScope(shield=True):
                await self.end()

    async def send_spec(self, spec: VmSpec) -> None:
        """Tell the monitor which VM to run: into the pipe where it reads that, to its end."""
        view = memoryview(self._pipes.named_in(spec).to_json().encode())
        descriptor = self._pipes.ours["spec"]
        while view:
            try:
                view = view[os.write(descriptor, view) :]
            except BlockingIOError:
                await anyio.wait_writable(descriptor)
            except BrokenPipeError:
                break  # it has ended: what it had to say is in the status pipe
        self._pipes.close_ours("spec")

    async def next_event(self, wanted: str) -> dict[str, Any]:
        """The monitor's next `wanted` message; BootError if it failed or ended instead."""
        while True:
            line = await self._next_line()
            if line is None:
                raise self._silent_end()
            message = _parse(line)
            self._note(message)
            if message["event"] == wanted:
                return message
            if message["event"] == "failed":
                self.console = str(message.get("console") or "")
                raise translate(VmmError.from_json(message.get("error")), _last_words(message))

    def _silent_end(self) -> BootError:
        """Why there is no more to hear. Once it has said who it is, it works: somebody ended it."""
        if self.pid is None:
            message = "the monitor ended without a word; run `machinen doctor`"
            return BootError(ErrorCode.BOOT_VMM_PACKAGE_BROKEN, message)
        message = (
            f"the monitor of this VM (pid {self.pid}) was killed while it started: "
            "by somebody, or by a host that is out of memory"
        )
        return BootError(ErrorCode.VM_DIED, message)

    def _note(self, message: dict[str, Any]) -> None:
        """Keep what is asked for later."""
        match message:
            case {"event": "started", "pid": int(pid)} if pid > 0:
                self.pid, self._known = pid, KnownProcess.of(pid)
            case {"event": "agent"}:
                self._agent_answered = True
            case {"event": "template"}:
                self.template = message
            case {"event": "failed"}:
                self._failure = VmmError.from_json(message.get("error")).code
            case _:
                pass

    @property
    def failed_before_the_agent_answered(self) -> bool:
        """Whether the machine itself did not come up, as the monitor sees it."""
        return not self._agent_answered and self._failure in MACHINE_FAILURES

    def let_go(self) -> None:
        """The VM lives on by itself; nothing ties it to us any more."""
        os.write(self._pipes.ours["lifeline"], LET_GO)
        self._pipes.close()

    def hand_over(self) -> dict[str, int]:
        """Our ends of lifeline, console, input and output, which are the caller's to close now."""
        return self._pipes.hand_over()

    @property
    @abstractmethod
    def exit_source(self) -> ExitSource:
        """Tells how it ended, once it was handed over."""

    @property
    @abstractmethod
    def some_pid(self) -> int:
        """Its pid, or that of the process it began as."""

    @abstractmethod
    async def end(self) -> None:
        """End the monitor, kindly and then not, and wait until it is gone."""

    async def _next_line(self) -> bytes | None:
        status = self._pipes.ours["status"]
        while b"\n" not in self._buffer:
            try:
                data = os.read(status, 65536)
            except BlockingIOError:
                await anyio.wait_readable(status)
                continue
            if not data or len(self._buffer) > MAX_STATUS_BYTES:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    async def _hear_who_it_is(self) -> None:
        """Read on until a monitor that is not our child says its pid, or has gone: only it has the
        other end.
        """
        if "status" not in self._pipes.ours:
            return
        try:
            while self.pid is None and (line := await self._next_line()) is not None:
                self._note(_parse(line))
        except BootError:  # a foreign program: nobody knows what it will do
            return


class MonitorProcess(MonitorLink):
    """A monitor we started."""

    def __init__(
        self,
        *,
        command: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        detached: bool = False,
        with_stdio: bool = False,
    ) -> None:
        """Start the process; BootError BOOT_VMM_MISSING if it cannot be, OSError if the host has
        no descriptor, process or memory left for it."""
        super().__init__(MonitorPipes(with_stdio), detached=detached)
        argv = [*vmm_command(command), *(["--detached"] if detached else []), "-"]
        try:
            self.process = start_vmm(
                "the monitor",
                argv,
                env=env or {},
                pass_fds=self._pipes.theirs.values(),
                stdin=self._pipes.theirs["spec"],
                stderr=self._pipes.theirs.get("console", subprocess.DEVNULL),
            )
        except BaseException:
            self._pipes.close()
            raise
        self._pipes.close_theirs()

    @property
    def exit_source(self) -> ExitSource:
        """The process: it is our child, unless it is detached."""
        return self.process

    @property
    def some_pid(self) -> int:
        """Its pid, or that of the process it began as."""
        return self.pid or self.process.pid

    def let_go(self) -> None:
        """The VM lives on by itself; nothing ties it to us any more."""
        super().let_go()
        if self.detached:
            self.process.wait()  # the process that became two; the monitor is not our child

    async def end(self) -> None:
        """End the monitor, kindly and then not, and wait until it is gone."""
        self._pipes.close(but="status")
        if self.detached and self.pid is None:
            with anyio.move_on_after(KILL_AFTER_MS / 1000):
                await self._hear_who_it_is()
        self._pipes.close()
        await end_process(self.some_pid, self._known, kill_after_ms=KILL_AFTER_MS)
        self.process.wait()


class MonitorPipes:
    """The pipes between us and one monitor, both ends by name."""

    def __init__(self, with_stdio: bool) -> None:
        self.ours: dict[str, int] = {}
        self.theirs: dict[str, int] = {}
        names = ["spec", "status", "lifeline", *(["console", "input", "output"] * with_stdio)]
        try:
            for name in names:
                read_fd, write_fd = os.pipe2(os.O_CLOEXEC)
                pair = (write_fd, read_fd) if name in _TO_MONITOR else (read_fd, write_fd)
                self.ours[name], self.theirs[name] = pair
                os.set_blocking(self.ours[name], name == "lifeline")
                if name in ("console", "output"):
                    with suppress(OSError):  # more room than the limit allows is a favour
                        fcntl.fcntl(write_fd, fcntl.F_SETPIPE_SZ, STDIO_PIPE_BYTES)
        except BaseException:
            self.close()
            raise
        self._numbers = dict(self.theirs)

    def named_in(self, spec: VmSpec) -> VmSpec:
        """The spec that tells the monitor which descriptors it inherited."""
        return replace(
            spec,
            status_fd=self._numbers["status"],
            lifeline_fd=self._numbers["lifeline"],
            main_input_fd=self._numbers.get("input"),
            main_output_fd=self._numbers.get("output"),
            console_to_stderr="console" in self._numbers,
        )

    def hand_over(self) -> dict[str, int]:
        """Our lasting ends, no longer ours to close."""
        if "status" in self.ours:
            self.close_ours("status")
        pipes, self.ours = self.ours, {}
        return pipes

    def release(self, name: str) -> int:
        """One of our ends, no longer ours to close."""
        return self.ours.pop(name)

    def close_ours(self, name: str) -> None:
        """Close one of our ends."""
        os.close(self.ours.pop(name))

    def close_theirs(self) -> None:
        """The monitor has its ends: close our copies."""
        while self.theirs:
            os.close(self.theirs.popitem()[1])

    def close(self, *, but: str = "") -> None:
        """Close whatever is still ours; for a monitor not let go this is the order to end."""
        self.close_theirs()
        for name in [name for name in self.ours if name != but]:
            self.close_ours(name)


def foreign_monitor() -> BootError:
    """The error for a program that is no monitor, or one of another version."""
    message = "the program that runs VMs said something nobody can read; check the option `binary`"
    return BootError(ErrorCode.BOOT_VMM_PACKAGE_BROKEN, message)


def _parse(line: bytes) -> dict[str, Any]:
    """A status message; it has an `event`."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise foreign_monitor() from error
    if not isinstance(message, dict) or "event" not in message:
        raise foreign_monitor()
    return cast("dict[str, Any]", message)


def _last_words(message: dict[str, Any]) -> str:
    """The end of the console and of QEMU's complaints, as lines to read below an error."""
    parts: list[str] = []
    for title, text in (("console", message.get("console")), ("QEMU", message.get("qemu"))):
        lines = str(text or "").strip().splitlines()[-CONSOLE_LINES_SHOWN:]
        parts += [f"{title}: {line}" for line in lines]
    if report := message.get("crash_report"):
        parts.append(f"crash report: {report} (`machinen crashes`)")
    return "\n".join(parts)
