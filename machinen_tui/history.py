"""Figures of one sandbox over the last hour, in rings that never grow. Pure.

A ring has a cell per `BUCKET_S`; what comes within one is averaged. 11 rings are 32 KiB.
"""

from __future__ import annotations

from array import array
from math import isnan, nan

BUCKET_S = 5
BUCKETS = 720
"""One hour."""
SET_BACK = 60
"""Buckets: five minutes."""
SERIES = ("cpu", "rss", "private", "shared", "balloon", "lazy", "disk_read", "disk_write",
          "net_in", "net_out", "exec_ms")  # fmt: skip


class Ring:
    """One figure."""

    def __init__(self) -> None:
        self._cells = array("f", [nan]) * BUCKETS
        self._newest = -1
        """The bucket written last, counted from the epoch."""
        self._in_newest = 0

    def add(self, at_s: float, value: float) -> None:
        """Take in a value; one a little older than the newest is dropped: clocks are set.

        When one is set back by more than `SET_BACK`, what was before is forgotten.
        """
        bucket = int(at_s // BUCKET_S)
        if bucket < self._newest - SET_BACK:
            self._newest = -1
        if bucket < self._newest:
            return
        if bucket > self._newest:
            for skipped in range(max(self._newest + 1, bucket - BUCKETS + 1), bucket):
                self._cells[skipped % BUCKETS] = nan
            self._newest, self._in_newest = bucket, 0
            self._cells[bucket % BUCKETS] = 0.0
        self._in_newest += 1
        cell = bucket % BUCKETS
        self._cells[cell] += (value - self._cells[cell]) / self._in_newest

    @property
    def last(self) -> float | None:
        """The newest bucket's mean."""
        return self._cells[self._newest % BUCKETS] if self._newest >= 0 else None

    def values(self, now_s: float, span_s: float, points: int) -> list[float | None]:
        """`points` means over the last `span_s`, oldest first; None where nothing is known."""
        end = int(now_s // BUCKET_S)
        count = min(max(int(span_s // BUCKET_S), 1), BUCKETS)
        cells = [self._cell(end - count + 1 + at) for at in range(count)]
        points = max(points, 1)
        means: list[float | None] = []
        for point in range(points):
            start = point * count // points
            part = [value for value in cells[start : max((point + 1) * count // points, start + 1)]
                    if not isnan(value)]  # fmt: skip
            means.append(sum(part) / len(part) if part else None)
        return means

    def _cell(self, bucket: int) -> float:
        kept = self._newest - BUCKETS < bucket <= self._newest
        return self._cells[bucket % BUCKETS] if kept and bucket >= 0 else nan


class History:
    """All figures of one sandbox, by the names in `SERIES`."""

    def __init__(self) -> None:
        self.rings = {name: Ring() for name in SERIES}

    def add(self, at_s: float, **values: float) -> None:
        """Take in what was measured at one moment."""
        for name, value in values.items():
            self.rings[name].add(at_s, value)

    def last(self, name: str) -> float | None:
        """The newest of one figure."""
        return self.rings[name].last
