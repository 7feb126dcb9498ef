"""What a benchmark reports: figures, beside a peer and a goal where there is one; and how it looks.

Absolute goals are met by the worst value of a run or by the median, as they say; ratios by the
medians.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

HEADER = ("what", "median", "p95", "worst", "peer", "ratio", "goal", "verdict")


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Something else that was measured in the same run, in turns with ours."""

    title: str
    values: list[float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A bound: at most or at least `limit`, of every value, the median or the ratio to the peer."""

    limit: float
    of: Literal["value", "median", "ratio"] = "value"
    at_least: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured thing: all its values, not empty, in `unit`."""

    title: str
    unit: str
    values: list[float]
    peer: Peer | None = None
    goal: Goal | None = None
    phases: dict[str, float] = field(default_factory=dict[str, float])
    """Medians of the parts it consists of, milliseconds."""
    series: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """How it came to be: (x, y), for a curve."""

    @property
    def median(self) -> float:
        """The median value."""
        return statistics.median(self.values)

    @property
    def _best_first(self) -> list[float]:
        """Rates and counts from the largest, all else from the smallest."""
        more_is_better = self.unit in ("MB/s", "files/s") or (
            self.goal is not None and self.goal.at_least
        )
        return sorted(self.values, reverse=more_is_better)

    @property
    def worst(self) -> float:
        """The smallest value where more is better (rates, counts), else the largest."""
        return self._best_first[-1]

    @property
    def p95(self) -> float:
        """The value that 95 of 100 are no worse than."""
        return self._best_first[math.ceil(0.95 * len(self.values)) - 1]

    @property
    def ratio(self) -> float | None:
        """Our median over the peer's."""
        if self.peer is None:
            return None
        return self.median / statistics.median(self.peer.values)

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.goal is None:
            return None
        value = {"value": self.worst, "median": self.median, "ratio": self.ratio}[self.goal.of]
        assert value is not None
        return value >= self.goal.limit if self.goal.at_least else value <= self.goal.limit

    def cells(self) -> tuple[str, ...]:
        """The row below HEADER."""
        peer = ""
        if self.peer is not None:
            peer_median = statistics.median(self.peer.values)
            peer = f"{format_value(peer_median, self.unit)} ({self.peer.title})"
        return (
            self.title,
            format_value(self.median, self.unit),
            format_value(self.p95, self.unit),
            format_value(self.worst, self.unit),
            peer,
            "" if self.ratio is None else f"{self.ratio:.2f}x",
            self._goal_text(),
            {True: "met", False: "MISSED", None: ""}[self.met],
        )

    def to_json(self) -> dict[str, Any]:
        """Everything, for `--json`."""
        return {
            "title": self.title,
            "unit": self.unit,
            "values": [round(value, 3) for value in self.values],
            "median": round(self.median, 3),
            "p95": round(self.p95, 3),
            "worst": round(self.worst, 3),
            "peer": None
            if self.peer is None
            else {"title": self.peer.title, "values": [round(v, 3) for v in self.peer.values]},
            "ratio": None if self.ratio is None else round(self.ratio, 3),
            "goal": self._goal_text() or None,
            "met": self.met,
            "phases_ms": self.phases,
        }

    def _goal_text(self) -> str:
        if self.goal is None:
            return ""
        sign = "≥" if self.goal.at_least else "≤"
        if self.goal.of == "ratio":
            return f"{sign} {self.goal.limit:g}x"
        return f"{sign} {format_value(self.goal.limit, self.unit)}"


def format_value(value: float, unit: str) -> str:
    """A number with its unit, three digits or so: `78 ms`, `1.24 s`, `30`."""
    if unit == "ms" and value >= 1000:
        value, unit = value / 1000, "s"
    digits = f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"
    return f"{digits} {unit}".rstrip()


def median_phases(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each phase over several runs."""
    names = list(dict.fromkeys(name for run in runs for name in run))
    return {name: statistics.median(run.get(name, 0.0) for run in runs) for name in names}


def print_table(figures: Sequence[Figure], console: Console) -> None:
    """The figures as a table for people."""
    table = Table(*HEADER, box=None, pad_edge=False)
    for figure in figures:
        style = "bold red" if figure.met is False else ""
        table.add_row(*figure.cells(), style=style)
    console.print(table)
    for figure in figures:
        if figure.phases:
            console.print(f"{figure.title}: {phases_text(figure)}", style="dim", highlight=False)


def markdown_table(figures: Sequence[Figure]) -> str:
    """The same as a Markdown table, and a list of the phases."""
    lines = ["| " + " | ".join(HEADER) + " |", "|--" * len(HEADER) + "|"]
    lines += ["| " + " | ".join(figure.cells()) + " |" for figure in figures]
    phases = [f"- {figure.title}: {phases_text(figure)}" for figure in figures if figure.phases]
    if phases:
        lines += ["", "Where the time goes (medians, milliseconds):", "", *phases]
    return "\n".join(lines) + "\n"


def phases_text(figure: Figure) -> str:
    """`stop 1.2 · pages 30 · …`, the zeros left out."""
    parts = [f"{name} {ms:.3g}" for name, ms in figure.phases.items() if ms >= 0.05]
    return " · ".join(parts)
