"""Recordings of a terminal as asciicast v2: one header line, then `[seconds, "o" | "r", text]`
(docs.asciinema.org/manual/asciicast/v2). Whoever wrote a file is not trusted."""

from __future__ import annotations

import codecs
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

MAX_RECORDED_BYTES = 256 << 20
"""A recording ends here by itself: a flood must not fill the disk."""
MAX_READ_BYTES = 64 << 20
MAX_SIDE = 1000
"""Columns or rows of a recording that is played."""


class CastError(Exception):
    """A file that cannot be played or written; the text says why."""


@dataclass(frozen=True, slots=True)
class CastEvent:
    """Something at `at_s` after the start: `o` output, `r` a new size as `80x24`."""

    at_s: float
    kind: str
    data: str

    @property
    def size(self) -> tuple[int, int] | None:
        """The new size, if this is one that can be drawn."""
        columns, _, rows = self.data.partition("x")
        return _size(columns, rows) if self.kind == "r" else None


@dataclass(frozen=True, slots=True)
class Cast:
    """A whole recording."""

    width: int
    height: int
    title: str
    events: tuple[CastEvent, ...]

    @property
    def length_s(self) -> float:
        """From the start to the last event."""
        return self.events[-1].at_s if self.events else 0.0


class Recorder:
    """Writes what a terminal is fed. The file is made anew, mode 0600; `close` ends it."""

    def __init__(
        self,
        path: Path,
        title: str,
        size: tuple[int, int],
        screen: str,
        clock: Callable[[], float] = time.monotonic,
        cursor: tuple[int, int] | None = None,
    ) -> None:
        """`screen` is what stands there at the start, its rows apart by newlines, with the cursor
        in column and row `cursor`, counted from 0; None: at the end of it.

        Raises:
            CastError: The file is there already, or cannot be made.
        """
        self.path, self._clock, self._started = path, clock, clock()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.fdopen(os.open(path, flags, 0o600), "w", encoding="utf-8")
        except OSError as error:
            raise CastError(f"{path}: {error.strerror}") from error
        self.written_bytes = 0
        header = {"version": 2, "width": size[0], "height": size[1],
                  "timestamp": int(time.time()), "title": title,
                  "env": {"TERM": "xterm-256color"}}  # fmt: skip
        self._write(header)
        there = "" if cursor is None else f"\x1b[{cursor[1] + 1};{cursor[0] + 1}H"
        shown = screen.rstrip("\n").replace("\n", "\r\n")
        self._write([0.0, "o", f"\x1b[2J\x1b[H{shown}{there}"])

    @property
    def closed(self) -> bool:
        """Whether it has ended, by `close`, by its size or by a disk that took no more."""
        return self._file.closed

    def output(self, data: bytes) -> None:
        """What the terminal was fed now."""
        if text := self._decoder.decode(data):
            self._write([self._now(), "o", text])

    def resized(self, columns: int, rows: int) -> None:
        """The size it has from now on."""
        self._write([self._now(), "r", f"{columns}x{rows}"])

    def close(self) -> None:
        """End the file."""
        try:
            self._file.close()
        except OSError:
            return  # the disk is full: what was written before stands

    def _now(self) -> float:
        return round(self._clock() - self._started, 6)

    def _write(self, line: object) -> None:
        if self._file.closed:
            return
        try:
            self.written_bytes += self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
            self._file.flush()
        except OSError:
            self.close()
        if self.written_bytes > MAX_RECORDED_BYTES:
            self.close()


def read_cast(path: Path) -> Cast:
    """A recording of version 2; lines that are no events are passed over, as a torn last one.

    Raises:
        CastError: It cannot be read, or it is none.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_READ_BYTES + 1)
    except OSError as error:
        raise CastError(f"{path}: {error.strerror}") from error
    if len(data) > MAX_READ_BYTES:
        raise CastError(f"{path} is larger than {MAX_READ_BYTES >> 20} MiB")
    first, *rest = data.decode("utf-8", "replace").split("\n")
    header = _json(first)
    if not isinstance(header, dict) or cast("dict[str, Any]", header).get("version") != 2:
        raise CastError(f"{path} is no asciicast of version 2")
    given = cast("dict[str, Any]", header)
    size = _size(given.get("width"), given.get("height"))
    if size is None:
        raise CastError(f"{path} has no size between 1 and {MAX_SIDE}")
    title = given.get("title")
    events = sorted(filter(None, map(_event, rest)), key=lambda event: event.at_s)
    return Cast(*size, title if isinstance(title, str) else "", tuple(events))


def _event(line: str) -> CastEvent | None:
    value = _json(line)
    items = cast("list[object]", value) if isinstance(value, list) else []
    if len(items) != 3:
        return None
    at, kind, data = items
    timed = isinstance(at, int | float) and not isinstance(at, bool) and 0 <= at < math.inf
    if not timed or kind not in ("o", "r") or not isinstance(data, str):
        return None
    return CastEvent(float(cast("float", at)), str(kind), data)


def _json(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _size(columns: object, rows: object) -> tuple[int, int] | None:
    try:
        size = int(str(columns)), int(str(rows))
    except ValueError:
        return None
    return size if all(1 <= side <= MAX_SIDE for side in size) else None
