"""The console log of one sandbox as it grows, over its rotations; of an ended one its boot log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from machinen_runtime.errors import ErrorCode, RegistryError

if TYPE_CHECKING:
    from machinen_runtime.registry_entry import RegistryEntry

MAX_READ_BYTES = 1 << 20
"""More than this is skipped: the newest is what somebody wants to see."""


class ConsoleTail:
    """An open log. Reading never waits."""

    def __init__(self, path: Path, title: str, *, before: Path | None = None) -> None:
        self.title = title
        self._path = path
        self._file: BinaryIO = path.open("rb", buffering=0)
        self._earlier = _tail_of(before) if before is not None else b""

    def read(self) -> bytes:
        """What was written since the last call, at most the newest 1 MiB of it."""
        data, self._earlier = self._earlier + self._rest(), b""
        if self._was_replaced():
            self._file.close()
            self._file = self._path.open("rb", buffering=0)
            data += self._rest()
        return data[-MAX_READ_BYTES:]

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _rest(self) -> bytes:
        size = os.fstat(self._file.fileno()).st_size
        if size - self._file.tell() > MAX_READ_BYTES:
            self._file.seek(size - MAX_READ_BYTES)
        return self._file.read(MAX_READ_BYTES) or b""

    def _was_replaced(self) -> bool:
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return False  # the sandbox is gone; what we hold open is all there will be


def open_console(entry: RegistryEntry) -> ConsoleTail:
    """The console of a sandbox that runs, or else the log its boot left.

    Raises:
        RegistryError: REGISTRY_VM_NOT_FOUND if there is neither.
    """
    from vmm.requests import CONSOLE_LOG

    for directory in entry.cleanup_paths[1:2]:
        console = Path(directory, CONSOLE_LOG)
        before = console.with_name(console.name + ".1")
        try:
            return ConsoleTail(console, "console", before=before if before.is_file() else None)
        except OSError:
            continue  # it ended: its directory went with it
    if entry.boot_log_path:
        try:
            return ConsoleTail(Path(entry.boot_log_path), "console of its boot")
        except OSError:
            pass  # it was removed: there is none, as said below
    name = entry.name or entry.pid
    message = f"{name} left no log: a console ends with its sandbox, what its boot said is kept"
    raise RegistryError(ErrorCode.REGISTRY_VM_NOT_FOUND, message)


def _tail_of(path: Path) -> bytes:
    try:
        return path.read_bytes()[-MAX_READ_BYTES:]
    except OSError:
        return b""  # rotated away just now
