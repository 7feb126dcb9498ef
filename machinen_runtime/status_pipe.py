"""A monitor that is not our child, and how it ended, as its status pipe tells."""

from __future__ import annotations

import json
import os
import signal
import weakref
from typing import Any

from machinen_runtime.monitor_process import ExitSource, MonitorLink, MonitorPipes


class AdoptedMonitor(MonitorLink):
    """A monitor that is not our child: how it ends it says in its status pipe."""

    def __init__(self, pipes: MonitorPipes, *, detached: bool) -> None:
        super().__init__(pipes, detached=detached)
        self._exit: ExitSource | None = None

    def hand_over(self) -> dict[str, int]:
        """Our ends of lifeline, console, input and output, which are the caller's to close now."""
        self._exit = StatusPipe(self._pipes.release("status"), self._buffer)
        return super().hand_over()

    @property
    def exit_source(self) -> ExitSource:
        """What it says at its end."""
        assert self._exit is not None
        return self._exit


class StatusPipe:
    """How a monitor ends that is not our child: it says so, or was killed."""

    def __init__(self, descriptor: int, read: bytes) -> None:
        self._descriptor = descriptor
        self._read = read
        self._status: int | None = None
        self._close = weakref.finalize(self, os.close, descriptor)

    def wait(self) -> int:
        """Its exit status; blocks until it has ended. One that says none was killed."""
        if self._status is None:
            os.set_blocking(self._descriptor, True)
            while data := os.read(self._descriptor, 65536):
                self._read = (self._read + data)[-65536:]
            self._close()
            self._status = _exit_status(self._read)
        return self._status


def _exit_status(said: bytes) -> int:
    for line in said.splitlines():
        try:
            message: Any = json.loads(line)
        except (ValueError, RecursionError):
            continue
        match message:
            case {"event": "ended", "status": int(status)} if 0 <= status <= 255:
                return status
            case _:
                continue
    return -signal.SIGKILL
