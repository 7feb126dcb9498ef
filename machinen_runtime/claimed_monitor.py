"""The monitor of a standby that was withdrawn for us: tell it who it is, hear how that goes.

To `launch()` it is a monitor like one we started. It is not our child, so how it ends it says in
its status pipe.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Mapping
from pathlib import Path

import anyio

from machinen_runtime.monitor_process import (
    KILL_AFTER_MS,
    MonitorPipes,
)
from machinen_runtime.pids import end_process
from machinen_runtime.standbys import Standby, give_back
from machinen_runtime.status_pipe import AdoptedMonitor
from vmm.claim import GREETING, NAMES, STDIO, TAKEN_SOCKET, encode_claim
from vmm.peers import require_trusted
from vmm.spec import VmSpec

GREETING_TIMEOUT_S = 0.3
"""A standby that does not say so soon that it lives is none: there is another way to boot."""


class StandbyGoneError(Exception):
    """The standby does not answer; nothing was said to it."""


class ClaimedMonitor(AdoptedMonitor):
    """A standby that is ours. `env` is what its monitor shall find on top of our environment."""

    def __init__(
        self,
        standby: Standby,
        connected: socket.socket,
        *,
        env: Mapping[str, str],
        detached: bool,
        with_stdio: bool,
    ) -> None:
        super().__init__(MonitorPipes(with_stdio), detached=detached)
        self.pid = standby.pid
        self._standby = standby
        self._connected: socket.socket | None = connected
        self._env = env
        self._is_told = False
        for ends in (self._pipes.ours, self._pipes.theirs):
            os.close(ends.pop("spec"))

    async def send_spec(self, spec: VmSpec) -> None:
        """Say who it shall be, and hand our pipes over."""
        assert self._connected is not None
        self._is_told = True
        claim = memoryview(encode_claim(spec, {**os.environ, **self._env}, _umask()))
        directory = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            theirs = {**self._pipes.theirs, "directory": directory}
            names = [*NAMES, *(STDIO if "console" in theirs else ())]
            rights = array.array("i", [theirs[name] for name in names])
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)]
            while claim:
                try:
                    claim = claim[self._connected.sendmsg([claim], ancillary) :]
                    ancillary = []
                except BlockingIOError:
                    await anyio.wait_writable(self._connected)
        except OSError:
            pass  # it has ended: what it had to say is in the status pipe
        finally:
            os.close(directory)
            self._pipes.close_theirs()
            self._hang_up()

    @property
    def vm_id(self) -> str:
        """Which VM it becomes: its directories are there already."""
        return self._standby.id

    @property
    def failed_before_the_agent_answered(self) -> bool:
        """Whether another way to the same VM is worth a try: whatever went wrong, it is."""
        return not self._agent_answered and self._failure != "PORT_IN_USE"

    @property
    def some_pid(self) -> int:
        """Its pid."""
        return self._standby.pid

    async def end(self) -> None:
        """End it, kindly and then not; one that was not told anything is given back."""
        if not self._is_told:
            self._pipes.close()
            self._hang_up()
            give_back(self._standby)
            return
        self._pipes.close()
        await end_process(self._standby.pid, self._standby, kill_after_ms=KILL_AFTER_MS)

    def _hang_up(self) -> None:
        if self._connected is not None:
            self._connected.close()
            self._connected = None


async def connect(standby: Standby) -> socket.socket:
    """A connection to a standby that lives.

    Raises:
        StandbyGoneError: it does not answer at once, or is not ours.
    """
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.setblocking(False)
        connected.connect(str(standby.run_dir / TAKEN_SOCKET))
        require_trusted(connected)
        with anyio.fail_after(GREETING_TIMEOUT_S):
            await anyio.wait_readable(connected)
        if connected.recv(len(GREETING)) != GREETING:
            raise StandbyGoneError("it speaks another language")
    except (OSError, TimeoutError) as error:
        connected.close()
        raise StandbyGoneError(str(error) or "it does not answer") from error
    except BaseException:
        connected.close()
        raise
    return connected


def _umask() -> int:
    """This process' umask, which cannot be asked for without setting it, except here."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8", errors="replace").split("\n"):
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o077
