"""`python -m bench.endurance`: 1,000 boots and 1,000 forks in a row, and what they leave.

Boots are warm, one after the other, each asked for an answer and ended; forks are all of one
source, which must answer before and after. Printed: how many so far, the rate, every failure, how
the descriptors and the memory of this process grow, and at the end what is left on the host.
Exits with 0 if nothing failed, grew or was left, 1 if not, 130 if interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import anyio
import psutil
from rich.console import Console

from bench.leftovers import Leftovers, find_leftovers, open_descriptors
from bench.soak import places_of
from bench.world import end_all, own_world
from machinen_runtime.boot import boot
from machinen_runtime.errors import MachinenError
from machinen_runtime.handle import VmHandle
from machinen_runtime.paths import remove_tree

MEMORY_MIB = 512
REPORT_EVERY = 25
ANSWER_TIMEOUT_S = 120
MAX_GROWTH_BYTES = 48 << 20
"""Of this process, after the first round: Python keeps arenas, a leak of ours keeps growing."""


class Run:
    """One row of the same thing, and what became of it."""

    def __init__(self, title: str, count: int, console: Console) -> None:
        self.title = title
        self.count = count
        self.failures: list[str] = []
        self.done = 0
        self._console = console
        self._process = psutil.Process()

    async def repeat(self, once: Callable[[int], Awaitable[None]]) -> None:
        """Do it `count` times; a failure is counted, and the row goes on."""
        begun = time.monotonic()
        for number in range(1, self.count + 1):
            try:
                with anyio.fail_after(ANSWER_TIMEOUT_S):
                    await once(number)
            except (MachinenError, TimeoutError, AssertionError) as error:
                text = str(error) or type(error).__name__
                self.failures.append(f"{self.title} {number}: {text}")
                self._console.print(f"FAILED {self.failures[-1]}", markup=False)
            self.done = number
            if number % REPORT_EVERY == 0 or number == self.count:
                self._report(time.monotonic() - begun)

    def _report(self, elapsed_s: float) -> None:
        memory = self._process.memory_info().rss >> 20
        descriptors = self._process.num_fds()
        self._console.print(
            f"{self.title}: {self.done} of {self.count}, {elapsed_s / self.done:.2f} s each, "
            f"{len(self.failures)} failed, {descriptors} descriptors, {memory} MiB",
            highlight=False,
        )


async def answer(vm: VmHandle, number: int) -> None:
    """The guest must know its own number."""
    said = (await vm.exec(f"echo {number} >/run/number; cat /run/number")).stdout
    assert said == f"{number}\n", said


async def run(arguments: argparse.Namespace, console: Console) -> int:
    """All boots, all forks, then a look around."""
    temporary = Path(tempfile.mkdtemp(prefix="mne-"))
    os.environ["TMPDIR"], tempfile.tempdir = str(temporary), None
    boots = Run("boots", arguments.boots, console)
    forks = Run("forks", arguments.forks, console)
    grown = 0
    try:
        async with own_world(console):
            options = {"memory": MEMORY_MIB, "network": "none"}
            async with await boot(**options) as vm:  # makes the template, imports, opens what lasts
                await answer(vm, 0)
            before, children = (
                open_descriptors(),
                [each.pid for each in psutil.Process().children()],
            )
            rss = psutil.Process().memory_info().rss

            async def boot_once(number: int) -> None:
                async with await boot(name=f"boot-{number}", **options) as vm:
                    await answer(vm, number)

            await boots.repeat(boot_once)
            async with await boot(name="source", **options) as source:
                await source.exec("echo kept >/run/kept")

                async def fork_once(number: int) -> None:
                    async with await source.fork(name=f"fork-{number}") as vm:
                        await answer(vm, number)
                        assert (await vm.exec("cat /run/kept")).stdout == "kept\n"

                await forks.repeat(fork_once)
                assert (await source.exec("cat /run/kept")).stdout == "kept\n"
            await end_all()
            grown = psutil.Process().memory_info().rss - rss
            left = find_leftovers(places_of(temporary), before, children)
    finally:
        remove_tree(temporary)
    return verdict([boots, forks], left, grown, console)


def verdict(runs: Sequence[Run], left: Leftovers, grown_bytes: int, console: Console) -> int:
    """Print what failed, grew and was left; the exit code."""
    for title, found in left.rows():
        console.print(f"{title}: {len(found)}", highlight=False)
        for item in found:
            console.print(f"    {item}", markup=False, highlight=False)
    failed = sum(len(each.failures) for each in runs)
    console.print(f"this process grew by {grown_bytes / (1 << 20):.1f} MiB", highlight=False)
    done = ", ".join(f"{each.done} {each.title}" for each in runs)
    state = "nothing is left" if left.clean else "SOMETHING IS LEFT"
    console.print(f"endurance: {done}, {failed} failed, {state}", highlight=False)
    return int(bool(failed) or not left.clean or grown_bytes > MAX_GROWTH_BYTES)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(prog="python -m bench.endurance")
    parser.add_argument("--boots", type=_count, default=1000, help="how many (default 1000)")
    parser.add_argument("--forks", type=_count, default=1000, help="how many (default 1000)")
    return parser.parse_args(argv)


def _count(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def main() -> int:
    """The edge."""
    try:
        return anyio.run(run, parse_arguments(sys.argv[1:]), Console(highlight=False))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
