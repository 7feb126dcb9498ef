"""`python -m bench` (`make bench`): every measurement in one run, as one table.

Exits with 0 if every goal is met, 1 if one is missed or a measurement failed, 130 if interrupted.
Everything it starts lives in directories of its own and is ended, also after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import anyio
from rich.console import Console

from bench import lifecycle
from bench.curves_svg import curves_svg
from bench.figures import Figure, markdown_table, print_table
from bench.growth import Curve
from bench.machine_facts import machine_facts
from bench.world import own_world
from machinen_runtime.errors import MachinenError, format_machinen_error

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
PERFORMANCE_PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
PICTURE = PERFORMANCE_PAGE.with_suffix(".svg")
TABLE_COLUMNS = 132
"""What the table needs; a narrower terminal wraps whole lines, which reads better than cells."""


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=(__doc__ or "")[:72])
    parser.add_argument("--repeat", type=positive, default=20, help="times for each (default 20)")
    parser.add_argument(
        "--siblings", type=positive, default=100, help="forks in one call (default 100)"
    )
    parser.add_argument("--no-growth", action="store_true", help="leave the curves out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--markdown", action="store_true", help="write them to docs/performance.md")
    return parser.parse_args(argv)


def positive(text: str) -> int:
    """A number of times, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


async def run(arguments: argparse.Namespace, console: Console) -> int:
    """Measure until done or interrupted, then end all of it."""
    facts = machine_facts()
    warn_if_busy(console)
    figures: list[Figure] = []
    curves: list[Curve] = []
    interrupted = False

    async def watch_signals(scope: anyio.CancelScope) -> None:
        nonlocal interrupted
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                interrupted = True
                scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch_signals, tasks.cancel_scope)
        async with own_world(console) as world:
            figures = await lifecycle.measure(world, arguments.repeat, arguments.siblings)
            if not arguments.no_growth:
                curves = await lifecycle.measure_growth(world, figures)
        tasks.cancel_scope.cancel()
    if interrupted:
        return 130
    facts["Load"] += f", after it {os.getloadavg()[0]:.1f}"
    report(figures, facts, arguments)
    if curves and arguments.markdown:
        PICTURE.write_text(curves_svg(curves))
    return int(any(figure.met is False for figure in figures))


def warn_if_busy(console: Console) -> None:
    """Say so if others use the machine: a time measured then is theirs as much as ours."""
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores / 2:
        console.print(f"bench: the load is {load:.1f} on {cores} cores: figures will be worse")


def report(
    figures: list[Figure],
    facts: dict[str, str],
    arguments: argparse.Namespace,
    section: tuple[str, str] = (BEGIN, END),
) -> None:
    """Print the table; write the files that were asked for, the page between two marks."""
    console = Console()
    console.width = max(console.width, TABLE_COLUMNS)
    for title, value in facts.items():
        console.print(f"{title}: {value}", highlight=False)
    print_table(figures, console)
    if arguments.json:
        value = {"machine": facts, "figures": [figure.to_json() for figure in figures]}
        arguments.json.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")
    if arguments.markdown:
        page = PERFORMANCE_PAGE.read_text()
        begin, end = section
        before, _, rest = page.partition(begin)
        _, _, after = rest.partition(end)
        listed = "\n".join(f"- {title}: {value}" for title, value in facts.items())
        text = f"{before}{begin}\n{listed}\n\n{markdown_table(figures)}{end}{after}"
        PERFORMANCE_PAGE.write_text(text)


def main(
    measure_all: Callable[[argparse.Namespace, Console], Awaitable[int]],
    arguments: argparse.Namespace,
) -> int:
    """The edge: run, and print what went wrong."""
    console = Console(stderr=True)
    try:
        return anyio.run(measure_all, arguments, console)
    except* (MachinenError, RuntimeError, OSError) as group:
        for error in _leaves(group):
            text = format_machinen_error(error) if isinstance(error, MachinenError) else str(error)
            console.print(f"bench: {text}", highlight=False, markup=False)
    return 1


def _leaves(group: BaseExceptionGroup[Exception]) -> list[Exception]:
    """The errors in a group, at whatever depth."""
    leaves: list[Exception] = []
    for error in group.exceptions:
        leaves += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return leaves


if __name__ == "__main__":
    sys.exit(main(run, parse_arguments(sys.argv[1:])))
