"""Whose life a VM goes on with: its ancestors, as the registry and bundles record them.

Each fork and restore adds one, so a family is known when its elders are long gone. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

MAX_ANCESTORS = 64
"""Of a longer line the first and the last are kept."""
MAX_PID = 1 << 22
MAX_TIME_MS = 1e14


@dataclass(frozen=True, slots=True, kw_only=True)
class Ancestor:
    """A VM that another one goes on from. Times in ms since 1970."""

    pid: int
    """The monitor's. With `started_at` it names that VM for good."""
    started_at: float
    name: str | None = None
    left_at: float
    """When the snapshot was taken: until then both are the same."""
    snapshot: str | None = None
    """The bundle that snapshot is, if it was kept."""


def with_ancestor(line: Sequence[Ancestor], parent: Ancestor) -> tuple[Ancestor, ...]:
    """`line` and the parent it leads to, oldest first."""
    longer = (*line, parent)
    if len(longer) <= MAX_ANCESTORS:
        return longer
    return (longer[0], *longer[-MAX_ANCESTORS + 1 :])


def line_from_object(raw: object) -> tuple[Ancestor, ...]:
    """The ancestors a JSON array describes. What makes no sense is passed over: files are anybody's
    to write."""
    items = cast("list[object]", raw) if isinstance(raw, list) else []
    found = [_ancestor(cast("Mapping[str, Any]", each)) for each in items[: 2 * MAX_ANCESTORS]
             if isinstance(each, dict)]  # fmt: skip
    return tuple(each for each in found if each is not None)[-MAX_ANCESTORS:]


def line_to_object(line: Iterable[Ancestor]) -> list[dict[str, Any]]:
    """The JSON array that `line_from_object` reads."""
    return [
        {"pid": each.pid, "startedAt": each.started_at, "name": each.name, "leftAt": each.left_at,
         "snapshot": each.snapshot}
        for each in line
    ]  # fmt: skip


def _ancestor(raw: Mapping[str, Any]) -> Ancestor | None:
    pid, name, snapshot = raw.get("pid"), raw.get("name"), raw.get("snapshot")
    started_at, left_at = _time(raw.get("startedAt")), _time(raw.get("leftAt"))
    if not isinstance(pid, int) or isinstance(pid, bool) or not 0 < pid <= MAX_PID:
        return None
    if started_at is None or left_at is None:
        return None
    return Ancestor(
        pid=pid,
        started_at=started_at,
        name=_text(name),
        left_at=left_at,
        snapshot=_text(snapshot),
    )


def _time(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return float(value) if 0 <= value < MAX_TIME_MS else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value and value.isprintable() else None
