"""A nest: a process that imports what monitors need once, and forks as many as one call wants.

Its monitors are processes like those started one by one (vmm/nest.py). The nest ends with the block
it is opened for, and with this process however that ends; its monitors do not notice.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Self

import anyio

from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.monitor_process import (
    KILL_AFTER_MS,
    MonitorPipes,
    start_vmm,
    vmm_command,
)
from machinen_runtime.pids import end_process
from machinen_runtime.status_pipe import AdoptedMonitor
from vmm.status import NEST_ENDS, NEST_STDIO


class Nest:
    """Our end of a nest. `env` is what its monitors shall find on top of our environment."""

    def __init__(self, *, env: Mapping[str, str]) -> None:
        """Start it; it imports while we go on. BootError BOOT_VMM_MISSING if it cannot be."""
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            argv = [*vmm_command(), "--nest", str(theirs.fileno())]
            try:
                self._process = start_vmm(
                    "the monitors' nest", argv, env=env, pass_fds=[theirs.fileno()]
                )
            except BaseException:
                self._requests.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it; blocks for as long as the kernel takes."""
        self._requests.close()
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def hatch(self, *, detached: bool, with_stdio: bool) -> HatchedMonitor:
        """A monitor of this nest, not yet told which VM to run.

        Raises:
            BootError: VM_DIED: somebody ended the nest.
        """
        pipes = MonitorPipes(with_stdio)
        try:
            names = (*NEST_ENDS, *(NEST_STDIO if with_stdio else ()))
            socket.send_fds(self._requests, [b"+"], [pipes.theirs[name] for name in names])
        except OSError as error:
            pipes.close()
            raise self.gone() from error
        except BaseException:
            pipes.close()
            raise
        pipes.close_theirs()
        return HatchedMonitor(self, pipes, detached=detached)

    @property
    def has_ended(self) -> bool:
        """Whether somebody ended it: its end of the socket closes first, before any pipe."""
        try:
            return not self._requests.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except OSError as error:
            return not isinstance(error, BlockingIOError)

    def gone(self) -> BootError:
        """The error for a nest that somebody ended."""
        message = (
            f"the process that starts monitors (pid {self.pid}) was killed: "
            "by somebody, or by a host that is out of memory"
        )
        return BootError(ErrorCode.VM_DIED, message)


class HatchedMonitor(AdoptedMonitor):
    """A monitor out of a nest. It is not our child: how it ends it says in its status pipe."""

    def __init__(self, nest: Nest, pipes: MonitorPipes, *, detached: bool) -> None:
        super().__init__(pipes, detached=detached)
        self._nest = nest

    @property
    def some_pid(self) -> int:
        """Its pid, or that of its nest."""
        return self.pid or self._nest.pid

    def _silent_end(self) -> BootError:
        if self.pid is None and self._nest.has_ended:
            return self._nest.gone()
        return super()._silent_end()

    async def end(self) -> None:
        """End the monitor, kindly and then not, and wait until it is gone."""
        self._pipes.close(but="status")
        if self.pid is None:
            with anyio.move_on_after(KILL_AFTER_MS / 1000):
                await self._hear_who_it_is()
        self._pipes.close()
        if self.pid is not None:
            await end_process(self.pid, self._known, kill_after_ms=KILL_AFTER_MS)
