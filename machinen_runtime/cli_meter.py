"""How much has gone and how fast, on stderr, while a copy runs; nothing if nobody can see it."""

from __future__ import annotations

import sys
import threading
import time
from types import TracebackType
from typing import Self

from machinen_runtime.cli_support import format_bytes

FIRST_AFTER_S = 0.5
STEP_S = 0.2


class Meter:
    """Counts bytes from any thread; as a context manager it draws what it has counted."""

    def __init__(self, text: str, *, visible: bool = True) -> None:
        self._text = text
        self._count = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._draw, daemon=True)
        self._visible = visible and sys.stderr.isatty()

    def add(self, size: int) -> None:
        """Count `size` more bytes."""
        self._count += size

    def __enter__(self) -> Self:
        if self._visible:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        if self._visible:
            self._thread.join()

    def _draw(self) -> None:
        started = time.monotonic()
        if self._done.wait(FIRST_AFTER_S):
            return
        while not self._done.wait(STEP_S):
            rate = self._count / (time.monotonic() - started)
            shown = f"{self._text}  {format_bytes(self._count)}  {format_bytes(rate)}/s"
            sys.stderr.write(f"\r\x1b[K{shown}")
            sys.stderr.flush()
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
