"""The monitor's own log: one JSON object a line, kept on disk within a cap, for programs.

`events.jsonl` in the state directory; when it is full it becomes `events.jsonl.1` and a new one
begins. Each line: schema_version, time (UTC, RFC 3339), level, event, vm, id, pid, message, fields.
What came from the guest is text in a JSON string, every control character escaped, of bounded
length.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from vmm.crash_report import MAX_TEXT_CHARS, RECENT_EVENTS, timestamp

CAP_BYTES = 256 << 10


class EventLog:
    """What happened to one VM, newest last; `named` tells what it is called now."""

    def __init__(
        self, path: Path, vm_id: str, named: Callable[[], str | None], cap_bytes: int = CAP_BYTES
    ) -> None:
        self._path = path
        self._id = vm_id
        self._named = named
        self._cap_bytes = cap_bytes
        self._file: BinaryIO = path.open("ab", buffering=0)
        os.fchmod(self._file.fileno(), 0o600)
        self._size = self._file.tell()
        self.recent: deque[dict[str, Any]] = deque(maxlen=RECENT_EVENTS)

    def write(self, event: str, message: str, level: str = "info", **fields: Any) -> None:
        """Append a line. A full disk loses it and harms nobody."""
        record: dict[str, Any] = {
            "schema_version": 1,
            "time": timestamp(time.time()),
            "level": level,
            "event": event,
            "vm": self._named(),
            "id": self._id,
            "pid": os.getpid(),
            "message": message[:MAX_TEXT_CHARS],
            "fields": fields,
        }
        self.recent.append(record)
        line = json.dumps(record, separators=(",", ":")).encode() + b"\n"
        with suppress(OSError):
            if self._size and self._size + len(line) > self._cap_bytes:
                self._rotate()
            self._size += self._file.write(line)

    def close(self) -> None:
        """Close the file; it stays on disk."""
        self._file.close()

    def _rotate(self) -> None:
        with suppress(FileNotFoundError):  # moved before, when no other could be made
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        following = self._path.open("ab", buffering=0)
        self._file.close()
        self._file, self._size = following, 0
        os.fchmod(following.fileno(), 0o600)
