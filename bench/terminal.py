"""`python -m bench.terminal`: the emulator of the panes beside tmux and stock pyte, in one run.

Throughput is fed in pieces of 64 KiB at 80x24, in turns with tmux, and read as a ratio: machines
and their load differ. Then a pane of 50 000 lines: its bytes, a resize, and a search through fifty
of them to the first hit. Exits with 0 if every goal is met, 1 if one is missed.
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import tracemalloc

from rich.console import Console

from bench.figures import Figure, Goal, Peer, print_table
from bench.terminal_inputs import inputs
from bench.terminal_peers import PIECE_BYTES, Tmux, file_with, stock_pyte_s, tmux_server
from machinen_tui.terminal_model import TerminalModel
from machinen_tui.terminal_search import compiled, search

COLUMNS, LINES = 80, 24
TMUX_GOALS = {"ASCII logs": 1.0, "SGR logs": 1.0, "full screen": 0.2, "Unicode": 2.0}
PYTE_GOALS = {"ASCII logs": 20.0, "SGR logs": 20.0}
PYTE_BYTES = 200_000
"""Stock pyte gets this much of each stream: more of it would only take longer."""
HISTORY_LINES, PANES = 50_000, 50


def parse_arguments() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m bench.terminal")
    parser.add_argument("--repeat", type=int, default=5, help="times for each (default 5)")
    parser.add_argument("--megabytes", type=float, default=8, help="of each stream (default 8)")
    return parser.parse_args()


def feed_s(data: bytes) -> float:
    """Seconds our emulator needs for `data`."""
    model = TerminalModel(COLUMNS, LINES)
    started = time.perf_counter()
    for start in range(0, len(data), PIECE_BYTES):
        model.feed(data[start : start + PIECE_BYTES])
    return time.perf_counter() - started


def throughput(title: str, data: bytes, repeat: int, tmux: Tmux) -> list[Figure]:
    """Our rate beside tmux's and stock pyte's, measured in turns."""
    ours, theirs, stock = list[float](), list[float](), list[float]()
    start = data[:PYTE_BYTES]
    with file_with(data) as path:
        for _ in range(repeat):
            ours.append(len(data) / 1e6 / feed_s(data))
            theirs.append(len(data) / 1e6 / tmux.show_s(path))
            if title in PYTE_GOALS:
                stock.append(len(start) / 1e6 / stock_pyte_s(start, COLUMNS, LINES))
    goal = Goal(limit=TMUX_GOALS[title], of="ratio", at_least=True)
    peer = Peer(title="tmux", values=theirs)
    figures = [Figure(title=title, unit="MB/s", values=ours, peer=peer, goal=goal)]
    if stock:
        goal = Goal(limit=PYTE_GOALS[title], of="ratio", at_least=True)
        peer = Peer(title="pyte", values=stock)
        figures.append(
            Figure(title=f"{title} beside pyte", unit="MB/s", values=ours, peer=peer, goal=goal)
        )
    return figures


def pane_of(lines: list[bytes]) -> TerminalModel:
    """A pane that has received `lines`."""
    model = TerminalModel(COLUMNS, LINES)
    for start in range(0, len(lines), 500):
        model.feed(b"".join(lines[start : start + 500]))
    return model


def history(repeat: int) -> list[Figure]:
    """What 50 000 lines cost, and how long a resize and a search take."""
    lines = inputs(5.5)["ASCII logs"].splitlines(keepends=True)
    lines = (lines * (HISTORY_LINES // len(lines) + 1))[:HISTORY_LINES]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    pane = pane_of(lines)
    gc.collect()
    megabytes = (tracemalloc.get_traced_memory()[0] - before) / 1e6
    tracemalloc.stop()
    resizes: list[float] = []
    for turn in range(2 * repeat):
        started = time.perf_counter()
        pane.resize(COLUMNS - 7 * (turn % 2 + 1), LINES)
        pane.text(0, back=100)
        resizes.append((time.perf_counter() - started) * 1000)
    return [
        Figure(
            title=f"{HISTORY_LINES} lines in a pane", unit="MB", values=[megabytes],
            goal=Goal(limit=8),
        ),
        Figure(
            title="resize of such a pane", unit="ms", values=resizes, goal=Goal(limit=30)
        ),
        *searches(lines, repeat),
    ]  # fmt: skip


def searches(lines: list[bytes], repeat: int) -> list[Figure]:
    """A regular expression over fifty panes: to the first hits, and one that hits nothing."""
    panes = [(number, pane_of(lines)) for number in range(PANES)]
    first, all_of_it = list[float](), list[float]()
    for _ in range(repeat):
        started = time.perf_counter()
        next(hits for hits in search(panes, compiled(r"worker-3\d\].* took=99\d\dus")) if hits)
        first.append((time.perf_counter() - started) * 1000)
    started = time.perf_counter()
    assert not any(search(panes, compiled(r"No such line \d+")))
    all_of_it.append((time.perf_counter() - started) * 1000)
    return [
        Figure(
            title=f"search of {PANES} panes, first hits", unit="ms", values=first,
            goal=Goal(limit=200),
        ),
        Figure(title="search of all their text, no hit", unit="ms", values=all_of_it),
    ]  # fmt: skip


def main() -> int:
    """Measure, print."""
    arguments = parse_arguments()
    figures: list[Figure] = []
    with tmux_server(COLUMNS, LINES) as tmux:
        for title, data in inputs(arguments.megabytes, COLUMNS, LINES).items():
            figures += throughput(title, data, arguments.repeat, tmux)
    figures += history(arguments.repeat)
    console = Console()
    console.width = max(console.width, 110)
    print_table(figures, console)
    return int(any(figure.met is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
