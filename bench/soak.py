"""`python -m bench.soak`: six sandboxes, ten minutes, everything at random; then nothing is left.

Two workers boot, run commands, write and read files and mounts, forward ports, copy, rename, fork,
snapshot by either engine, restore, pause, and end sandboxes, now and then by killing the monitor.
The report says how often each was done, how long it took, and what was left behind.
Exits with 0 if every action did what it should and nothing was left, 1 if not, 130 if interrupted.
The seed is printed: the same one makes the same choices.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import anyio
from rich.console import Console
from rich.table import Table

from bench.leftovers import Leftovers, Places, find_leftovers, open_descriptors
from bench.soak_actions import ACTIONS, Herd
from bench.world import end_all, own_world
from machinen_runtime.paths import remove_tree

WORKERS = 2
"""More only wait for the processors: a boot keeps one busy."""


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description=(__doc__ or "")[:88])
    parser.add_argument("--minutes", type=_positive, default=10.0, help="how long (default 10)")
    parser.add_argument("--vms", type=int, default=6, help="sandboxes at once (default 6)")
    seed = random.SystemRandom().randrange(1 << 32)
    parser.add_argument("--seed", type=int, default=seed, help="an earlier run's, to repeat it")
    return parser.parse_args(argv)


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return value


async def run(arguments: argparse.Namespace, console: Console) -> int:
    """Soak, end everything, look at what is left, report."""
    seed = (
        arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    )
    console.print(f"soak: seed {seed}, {arguments.vms} sandboxes, {arguments.minutes:g} minutes")
    before = open_descriptors()
    temporary = Path(tempfile.mkdtemp(prefix="mns-"))
    os.environ["TMPDIR"], tempfile.tempdir = str(temporary), None
    interrupted = False
    try:
        async with own_world(console) as world:
            places = places_of(temporary)
            herd = Herd(world, random.Random(seed), limit=arguments.vms)
            interrupted = await _soak(herd, arguments.minutes * 60)
            await herd.end()
            await end_all()
            left = find_leftovers(places, before)
    finally:
        remove_tree(temporary)
    report(herd, left, console)
    if interrupted:
        return 130
    return int(bool(herd.failures) or not left.clean)


def places_of(temporary: Path) -> Places:
    """The world's directories; the bundles of the soak lie below the temporary one."""
    return Places(
        registry=Path(os.environ["MACHINEN_REGISTRY_DIR"]),
        machines=Path(os.environ["MACHINEN_STATE_DIR"]),
        sockets=Path(os.environ["MACHINEN_RUNTIME_DIR"]),
        temporary=temporary,
    )


async def _soak(herd: Herd, seconds: float) -> bool:
    """Let the workers work until the time is over; True if a signal ended it before."""
    interrupted = False
    async with anyio.create_task_group() as tasks:

        async def watch_signals() -> None:
            nonlocal interrupted
            with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
                async for _ in signals:
                    interrupted = True
                    tasks.cancel_scope.cancel()

        tasks.start_soon(watch_signals)
        with anyio.move_on_after(seconds):
            async with anyio.create_task_group() as workers:
                for _ in range(WORKERS):
                    workers.start_soon(_work, herd)
        tasks.cancel_scope.cancel()
    return interrupted


async def _work(herd: Herd) -> None:
    while True:
        await herd.act()


def report(herd: Herd, left: Leftovers, console: Console) -> None:
    """What was done, what failed, what is left."""
    table = Table("action", "done", "median", "worst", box=None, pad_edge=False)
    for name in ACTIONS:
        if times := sorted(herd.times_ms[name]):
            middle, worst = times[len(times) // 2], times[-1]
            table.add_row(name, str(len(times)), f"{middle:.0f} ms", f"{worst:.0f} ms")
    console.print(table)
    for failure in herd.failures:
        console.print(f"FAILED {failure}", markup=False, highlight=False, style="bold red")
    for title, found in left.rows():
        console.print(f"{title}: {len(found)}", highlight=False)
        for item in found:
            console.print(f"    {item}", markup=False, highlight=False, style="red")
    verdict = "nothing is left" if left.clean else "SOMETHING IS LEFT"
    done = sum(len(times) for times in herd.times_ms.values())
    console.print(f"soak: {done} actions, {len(herd.failures)} failed, {verdict}")


def main() -> int:
    """The edge."""
    return anyio.run(run, parse_arguments(sys.argv[1:]), Console(highlight=False))


if __name__ == "__main__":
    sys.exit(main())
