"""`machinen doctor`: what this machine has, what it lacks, and how to fix it. Changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from machinen_runtime.doctor_assets import check_assets
from machinen_runtime.doctor_check import Check
from machinen_runtime.doctor_confinement import check_confinement
from machinen_runtime.doctor_host import check_host
from machinen_runtime.doctor_memory import check_given_back
from machinen_runtime.doctor_tools import check_tools

_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red")}


def run_doctor() -> list[Check]:
    """Look at everything, in the order a boot needs it."""
    confined = [check_confinement(), check_given_back()]
    return [*check_tools(), *confined, *check_assets(), *check_host()]


def sandboxes_can_run(checks: Sequence[Check]) -> bool:
    """Whether nothing that a boot needs is missing."""
    return all(check.status != "failed" for check in checks)


def doctor_json(checks: Sequence[Check]) -> dict[str, Any]:
    """The object `machinen doctor --json` prints."""
    return {
        "schema_version": 1,
        "ok": sandboxes_can_run(checks),
        "checks": [asdict(check) for check in checks],
    }


def print_doctor(checks: Sequence[Check], console: Console) -> None:
    """A table for people, the fixes below it, and the verdict as the last line."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold", ratio=2)
    table.add_column(ratio=1)
    for check in checks:
        mark, style = _MARKS[check.status]
        table.add_row(
            Text(mark, style), Text(check.name), Text(check.found), Text(check.needed_for, "dim")
        )
    console.print(table)
    for check in checks:
        if check.fix is not None:
            style = _MARKS[check.status][1]
            console.print(Text.assemble((f"{check.name}: ", style), check.fix))
    verdict = "Sandboxes can run." if sandboxes_can_run(checks) else "Sandboxes cannot run."
    console.print(Text(verdict, "bold"))
