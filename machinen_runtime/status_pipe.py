"""How a monitor ended that is not our child, as its status pipe tells."""

from __future__ import annotations

import json
import os
import signal
import weakref
from typing import Any


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
