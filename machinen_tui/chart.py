"""A figure over time as rows of eighth blocks; what it is now, on average and at most. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from machinen_tui.figures import mib
from machinen_tui.theme import SPARK_BLOCKS

Values = Sequence[float | None]


def chart_rows(values: Values, height: int, top: float) -> list[str]:
    """Columns of `values`, `top` full height; rows from above. What is not known stays blank, what
    is zero is a line at the bottom."""
    steps = [None if value is None else round(min(value / top, 1.0) * height * 8) if top else 0
             for value in values]  # fmt: skip
    rows: list[str] = []
    for row in range(height - 1, -1, -1):
        cells = [" " if step is None else SPARK_BLOCKS[min(max(step - row * 8, row == 0), 8)]
                 for step in steps]  # fmt: skip
        rows.append("".join(cells))
    return rows


def summary(values: Values, shown: Callable[[float], str], width: int = 80) -> str:
    """`now 12% · mean 8% · most 40%`, without the mean if that is too wide; nothing is known: says
    so."""
    known = [value for value in values if value is not None]
    if not known:
        return "nothing is known yet"
    mean = sum(known) / len(known)
    now, most = f"now {shown(known[-1])}", f"most {shown(max(known))}"
    full = f"{now} · mean {shown(mean)} · {most}"
    return full if len(full) <= width else f"{now} · {most}"


def percent(value: float) -> str:
    """Of one core."""
    return f"{value:.0f}%"


def milliseconds(value: float) -> str:
    """A latency."""
    return f"{value:.0f} ms"


def per_second(value: float) -> str:
    """Bytes a second."""
    return f"{mib(value)}/s"
