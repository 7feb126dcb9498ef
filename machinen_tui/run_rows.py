"""What came of one command in many sandboxes, as rows and as a report. Pure.

Output is the guests': what cannot be drawn is spelled out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from machinen_runtime.guest_survey import printable
from machinen_tui.figures import clip

if TYPE_CHECKING:
    from machinen_runtime.run_many import OutcomeGroup, RunOutcome

NAMES_CELLS = 18
HEAD = f"{'n':>3}  {'exit':<6} {'slowest':>8}  {'sandboxes':<{NAMES_CELLS}}  first lines"
FIRST_LINES = 3


def row_of(group: OutcomeGroup, width: int) -> str:
    """How many, how it ended, the slowest, who, and what they said first."""
    first = group.first
    ended = "-" if first.exit_code is None else str(first.exit_code)
    slowest = max(each.elapsed_ms for each in group.outcomes)
    names = clip(", ".join(group.names), NAMES_CELLS)
    left = f"{len(group.outcomes):>3}  {ended:<6} {_time(slowest):>8}  {names:<{NAMES_CELLS}}  "
    said = " ⏎ ".join(_lines(first)[:FIRST_LINES])
    return left + clip(said, max(width - len(left), 8))


def report_of(group: OutcomeGroup) -> str:
    """Everything about a group, line by line."""
    first = group.first
    times = [f"{name}: {_time(each.elapsed_ms)}"
             for name, each in zip(group.names, group.outcomes, strict=True)]  # fmt: skip
    ended = str(first.error) if first.error is not None else f"exit code {first.exit_code}"
    cut = ["… it said more than is kept"] if first.is_cut else []
    return "\n".join([ended, ", ".join(times), "", *_lines(first), *cut])


def _lines(outcome: RunOutcome) -> list[str]:
    if outcome.error is not None:
        return [f"{outcome.error.code}: {printable(str(outcome.error).encode())}"]
    said = outcome.stdout + outcome.stderr
    return [printable(line.expandtabs()) for line in said.splitlines()]


def _time(elapsed_ms: float) -> str:
    return f"{elapsed_ms:.0f} ms" if elapsed_ms < 10_000 else f"{elapsed_ms / 1000:.0f} s"
