"""boot_pty(): a program of the host under a pseudo-terminal, in the shape of a VmHandle.

So that `Sandboxes` and `Supervisor` can hold a local shell beside the VMs.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from contextlib import suppress

import anyio
from anyio.abc import ByteReceiveStream, ByteSendStream

from machinen_runtime.channel_format import checked_size
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.handle import ExitStatus
from machinen_runtime.pids import wait_process_gone
from machinen_runtime.stdio import PipeReceiveStream, PipeSendStream

KILL_AFTER_MS = 2000

# Makes the terminal on stdin the controlling one, then becomes the program. As a program of its own
# because a preexec_fn may deadlock in a process with threads.
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    " os.execv(sys.argv[1], sys.argv[1:])"
)


class _TerminalReceiveStream(PipeReceiveStream):
    """The output side of a terminal: its end is EIO, not an empty read (see pty(7))."""

    async def receive(self, max_bytes: int = 65536) -> bytes:
        try:
            return await super().receive(max_bytes)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            self.close()
            raise anyio.EndOfStream from error


class PtyVmHandle:
    """A program on a terminal. Its two output streams are one: a terminal merges them."""

    def __init__(self, process: subprocess.Popen[bytes], master_fd: int) -> None:
        self._process = process
        self._master_fd = master_fd
        self._stdin = PipeSendStream(os.dup(master_fd))
        self._stdout = _TerminalReceiveStream(os.dup(master_fd))
        self._exit: ExitStatus | None = None

    @property
    def pid(self) -> int:
        """The program's process id."""
        return self._process.pid

    @property
    def stdin(self) -> ByteSendStream:
        """What is typed."""
        return self._stdin

    @property
    def stdout(self) -> ByteReceiveStream:
        """What the program writes."""
        return self._stdout

    @property
    def stderr(self) -> ByteReceiveStream:
        """The same stream as stdout."""
        return self._stdout

    def resize(self, cols: int, rows: int) -> None:
        """Give the terminal another size; the program gets SIGWINCH."""
        if self._master_fd >= 0:
            _set_size(self._master_fd, cols, rows)

    async def wait(self) -> ExitStatus:
        """Wait for the program's end."""
        if self._exit is None:
            await wait_process_gone(self.pid)
            code = self._process.wait()
            self._exit = (
                ExitStatus(code=code, signal=None)
                if code >= 0
                else ExitStatus(code=None, signal=signal.Signals(-code).name)
            )
            self._close_input()
        return self._exit

    async def kill(self) -> None:
        """End the program and its process group: HUP, after 2 s KILL. Returns when it is gone."""
        for number in (signal.SIGHUP, signal.SIGKILL):
            if self._exit is not None:  # its number may be another's by now
                break
            with suppress(ProcessLookupError):
                os.killpg(self.pid, number)
            if await wait_process_gone(self.pid, timeout_ms=KILL_AFTER_MS):
                break
        await self.wait()
        self._stdout.close()

    async def output(self) -> str:
        """All that was written until the end; the last 1 MiB of it."""
        await self._stdout.drain()
        return self._stdout.tail.decode("utf-8", "replace")

    async def error_output(self) -> str:
        """The same as `output()`."""
        return await self.output()

    def _close_input(self) -> None:
        self._stdin.close()
        if self._master_fd >= 0:
            os.close(self._master_fd)
            self._master_fd = -1


def boot_pty(
    *,
    binary: str | os.PathLike[str],
    args: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    cols: int = 80,
    rows: int = 24,
    name: str = "xterm-256color",
) -> PtyVmHandle:
    """Start `binary` on a terminal of its own. Kill it, or wait for it, when you are done.

    `env` is added to this process' environment, `name` becomes TERM.

    Raises:
        BootError: BOOT_VMM_MISSING if there is no such program, BOOT_CWD_INVALID.
    """
    program = shutil.which(os.fspath(binary), path=(env or {}).get("PATH"))
    if program is None:
        raise BootError(ErrorCode.BOOT_VMM_MISSING, f"there is no program {os.fspath(binary)}")
    if cwd is not None and not os.path.isdir(cwd):
        raise BootError(ErrorCode.BOOT_CWD_INVALID, f"there is no directory {os.fspath(cwd)}")
    checked_size(cols, rows)
    master_fd, slave_fd = os.openpty()
    try:
        _set_size(master_fd, cols, rows)
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _TAKE_TERMINAL, os.path.abspath(program), *args],
            stdin=slave_fd,
            stdout=slave_fd,
            stderr=slave_fd,
            env={**os.environ, "TERM": name, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
    except BaseException:
        os.close(master_fd)
        raise
    finally:
        os.close(slave_fd)
    return PtyVmHandle(process, master_fd)


def _set_size(descriptor: int, cols: int, rows: int) -> None:
    checked_size(cols, rows)
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
