"""`python -m bench.tui_latency`: the application end to end, in a terminal that measures.

Real sandboxes: a key to its echo while another pane floods, Ctrl-C into the flood, the first paint,
what fifty idle panes cost. How fast many panes are drawn is measured with terminals that draw
steadily (`bench.tui_stage`): no two processors emulate sixteen guests that do. Times through the
application stand beside the same thing asked of the guest directly, in turns: the difference is
ours. Exits with 0 if every goal is met, 1 if one is missed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import anyio
from rich.console import Console

from bench.__main__ import main, positive, report, warn_if_busy
from bench.figures import Figure, Goal, Peer
from bench.machine_facts import machine_facts
from bench.tui_stage import letter_of
from bench.tui_terminal import OuterTerminal, running
from bench.world import World, own_world
from machinen_runtime.boot import boot
from machinen_runtime.channel_sessions import Output, ReplayDone, TerminalSession
from machinen_runtime.handle import VmHandle
from machinen_runtime.paths import home_root
from machinen_tui.terminal_history import DEFAULT_BUDGET_BYTES

BEGIN, END = "<!-- tui:begin -->", "<!-- tui:end -->"
FLOODED, QUIET = "flooded", "quiet"
MEMORY_MIB = 512
PROMPT = f"root@{FLOODED}:~#"
SETTLE_S, IDLE_S, DRAW_S, FLOOD_S = 8, 20, 6, 2
RSS_MB, RSS_MB_PER_PANE = 60, 1.5
HISTORY_MB = DEFAULT_BUDGET_BYTES / 1e6
"""What a flooded pane may remember on top."""
FORKS_AT_ONCE = 8
LINE_KEYS = 8
"""So many letters before the line is emptied."""


def parse_arguments() -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(prog="python -m bench.tui_latency")
    parser.add_argument("--keys", type=positive, default=200, help="typed (default 200)")
    parser.add_argument("--repeat", type=positive, default=5, help="of the rest (default 5)")
    parser.add_argument("--idle", type=positive, default=50, help="idle sandboxes (default 50)")
    parser.add_argument("--no-vms", action="store_true", help="only what needs no sandbox")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--markdown", action="store_true", help="write them to docs/performance.md")
    return parser.parse_args()


# -- without sandboxes ----------------------------------------------------------------------------


async def first_paint(environment: Mapping[str, str], repeat: int) -> Figure:
    """From the start of the process to a whole first frame, beside Textual's own import."""
    paints, imports = list[float](), list[float]()
    async with running(["machinen_tui"], environment) as terminal:  # compiles what it imports
        await terminal.shown("NAVIGATE")
    for _ in range(repeat):
        started = time.monotonic()
        async with running(["machinen_tui"], environment) as terminal:
            await terminal.shown("NAVIGATE")
            paints.append((time.monotonic() - started) * 1000)
        started = time.monotonic()
        await anyio.run_process(
            [sys.executable, "-c", "import textual.app, textual.widgets"],
            env={**os.environ, **environment},
        )
        imports.append((time.monotonic() - started) * 1000)
    return Figure(
        title="first paint", unit="ms", values=paints,
        peer=Peer(title="python -c 'import textual'", values=imports), goal=Goal(limit=600),
    )  # fmt: skip


class Drawing(NamedTuple):
    """What a stage draws."""

    title: str
    kind: str
    panes: int
    writes_per_s: int
    goal: float | None = None


DRAWINGS = (
    Drawing("16 panes, one row each", "rows", 16, 75, goal=60),
    Drawing("9 panes, all rows", "full", 9, 36, goal=30),
    Drawing("9 panes, all rows, written 75 times a second", "full", 9, 75),
)
"""Who is to be seen so often writes somewhat oftener, as programs do that draw by a timer."""


async def drawing(environment: Mapping[str, str], what: Drawing) -> tuple[float, float]:
    """Updates a second of the pane that gets fewest, and the processor's milliseconds a frame."""
    panes = what.panes
    size = (240, 70) if panes > 9 else (180, 54)
    stage = ["bench.tui_stage", what.kind, str(panes), str(what.writes_per_s)]
    async with running(stage, environment, size) as terminal:
        for number in range(panes):
            await terminal.shown(letter_of(number))
        await anyio.sleep(2)
        counts = dict.fromkeys(map(letter_of, range(panes)), 0)

        def count(piece: bytes, at: float) -> None:
            text = piece.decode("utf-8", "replace")
            for letter in counts:
                counts[letter] += text.count(letter)

        terminal.tap = count
        frames, cpu, started = terminal.frames, terminal.cpu_s(), time.monotonic()
        await anyio.sleep(DRAW_S)
        elapsed = time.monotonic() - started
        terminal.tap = None
        frames = max(terminal.frames - frames, 1)
        return min(counts.values()) / elapsed, (terminal.cpu_s() - cpu) * 1000 / frames


async def drawings(environment: Mapping[str, str], repeat: int) -> list[Figure]:
    """How often each of many panes is drawn."""
    figures: list[Figure] = []
    for what in DRAWINGS:
        rates, costs = list[float](), list[float]()
        for _ in range(max(repeat // 2, 1)):
            rate, cost = await drawing(environment, what)
            rates.append(rate)
            costs.append(cost)
        goal = None if what.goal is None else Goal(limit=what.goal, at_least=True)
        figures += [
            Figure(title=what.title, unit="FPS", values=rates, goal=goal),
            Figure(title=f"{what.title}: processor time of a frame", unit="ms", values=costs),
        ]
    return figures


# -- with sandboxes -------------------------------------------------------------------------------


async def attach_to(terminal: OuterTerminal, name: str) -> None:
    """Type into `name` from now on."""
    if "ATTACHED" in terminal.screen():
        terminal.type(b"\x1d\x1d")
        await terminal.shown("NAVIGATE")
    terminal.type(b"/attach " + name.encode() + b"\r")
    await terminal.shown("ATTACHED")


async def type_keys(terminal: OuterTerminal, count: int) -> list[float]:
    """Milliseconds from each of `count` keys to its echo on the screen."""
    chooser = random.Random(4)
    times: list[float] = []
    while len(times) < count:
        letters: list[str] = []
        for _ in range(min(LINE_KEYS, count - len(times))):
            letters.append(terminal.unused_letter())
            letter = letters[-1].encode()
            times.append(await terminal.type_and_time(letter, letter))
            await anyio.sleep(chooser.uniform(0.02, 0.1))
        terminal.type(b"\x15")  # Ctrl-U: an empty line again
        for letter in letters:
            await terminal.gone(letter)
    return times


async def echo_ms(session: TerminalSession, data: bytes, wanted: bytes) -> float:
    """Milliseconds from `data` to `wanted`, asked of the guest directly."""
    started = time.monotonic()
    await session.send(data)
    got = b""
    while wanted not in got:
        event = await session.receive()
        if isinstance(event, Output):
            got = got[-len(wanted) :] + event.data
    return (time.monotonic() - started) * 1000


async def type_directly(vm: VmHandle, count: int) -> list[float]:
    """The same keys over a session of our own, while the application shows both panes."""
    times: list[float] = []
    async with vm.open_session("bench", cols=80, rows=24, create=True) as session:
        while not isinstance(await session.receive(), ReplayDone):
            pass
        await echo_ms(session, b"\r", b"# ")
        for number in range(count):
            letter = bytes([ord("A") + number % 26])
            times.append(await echo_ms(session, letter, letter))
            if number % 8 == 7:
                await session.send(b"\x15")
                await anyio.sleep(0.1)
    return times


async def stop_directly(session: TerminalSession) -> float:
    """A flood that is read as fast as it comes, then Ctrl-C: milliseconds to the prompt."""
    await session.send(b"yes\r")
    with anyio.move_on_after(FLOOD_S):
        while True:
            await session.receive()
    return await echo_ms(session, b"\x03", PROMPT.partition(":")[0].encode())


async def stops(terminal: OuterTerminal, vm: VmHandle, repeat: int) -> Figure:
    """Ctrl-C into a flood through the application, and in turns over a session of our own."""
    through, directly = list[float](), list[float]()
    await attach_to(terminal, FLOODED)
    async with vm.open_session("bench", cols=80, rows=24, create=True) as session:
        while not isinstance(await session.receive(), ReplayDone):
            pass
        await echo_ms(session, b"\r", b"# ")
        for number in range(repeat):
            if number:
                terminal.type(b"yes\r")
                await anyio.sleep(FLOOD_S)
            await terminal.gone(PROMPT)
            through.append(await terminal.type_and_see(b"\x03", PROMPT))
            await anyio.sleep(0.5)
            directly.append(await stop_directly(session))
    return Figure(
        title="Ctrl-C into a flood, to the prompt", unit="ms", values=through,
        peer=Peer(title="the guest alone", values=directly), goal=Goal(limit=150),
    )  # fmt: skip


async def echoes(terminal: OuterTerminal, vms: list[VmHandle], arguments: argparse.Namespace
                 ) -> list[Figure]:  # fmt: skip
    """Keys into one pane while another floods, then Ctrl-C into the flood."""
    await attach_to(terminal, FLOODED)
    terminal.type(b"yes\r")
    await terminal.until(lambda: terminal.screen().count("┃y ") > 5, "the flood")
    await attach_to(terminal, QUIET)
    await anyio.sleep(2)
    half = max(arguments.keys // 2, 1)
    through, directly = list[float](), list[float]()
    for _ in range(2):
        through += await type_keys(terminal, half)
        directly += await type_directly(vms[1], half)
    through.sort()
    p99 = through[min(len(through) * 99 // 100, len(through) - 1)]
    peer = Peer(title="the guest alone", values=directly)
    return [
        Figure(title="key to echo beside a flood: median", unit="ms",
               values=[through[len(through) // 2]], peer=peer, goal=Goal(limit=25)),
        Figure(title=f"key to echo beside a flood: p99 of {len(through)}", unit="ms",
               values=[p99], goal=Goal(limit=80)),
        await stops(terminal, vms[0], arguments.repeat),
    ]  # fmt: skip


async def idle(terminal: OuterTerminal, panes: int) -> Figure:
    """What the application costs while nobody does anything."""
    await anyio.sleep(SETTLE_S)
    cpu, started = terminal.cpu_s(), time.monotonic()
    await anyio.sleep(IDLE_S)
    percent = (terminal.cpu_s() - cpu) / (time.monotonic() - started) * 100
    return Figure(title=f"CPU of the application, {panes} idle sandboxes", unit="%",
                  values=[percent], goal=Goal(limit=2))  # fmt: skip


def resident(terminal: OuterTerminal, panes: int, *, flooded: int = 0) -> Figure:
    """Its memory; `flooded` of its panes remember as much as a pane may."""
    rss = terminal.process.memory_info().rss / 1e6
    title = f"RSS of the application, {panes} sandboxes"
    title += f", {flooded} with a full history" if flooded else ""
    limit = round(RSS_MB + RSS_MB_PER_PANE * panes + HISTORY_MB * flooded)
    return Figure(title=title, unit="MB", values=[rss], goal=Goal(limit=limit))


async def with_sandboxes(world: World, environment: Mapping[str, str], arguments: argparse.Namespace
                         ) -> list[Figure]:  # fmt: skip
    """Boot two, type into them; fork to fifty, leave them alone."""
    vms: list[VmHandle] = []
    for name in (FLOODED, QUIET):
        world.say(f"booting {name}")
        vms.append(await boot(name=name, memory=MEMORY_MIB, detached=True))
    async with running(["machinen_tui"], environment) as terminal:
        await terminal.shown("NAVIGATE")
        await terminal.until(lambda: terminal.screen().count(":~#") >= 2, "both prompts")
        await anyio.sleep(SETTLE_S)
        before = resident(terminal, 2)
        world.say("typing")
        figures = await echoes(terminal, vms, arguments)
        figures += [before, resident(terminal, 2, flooded=1)]
    await vms[0].kill()
    count = 1
    while count < arguments.idle:
        more = min(FORKS_AT_ONCE, arguments.idle - count)
        world.say(f"forking: {count} of {arguments.idle}")
        names = {"name": f"idle-{count}"}
        await vms[1].fork_many(more, detached=True, **names)
        count += more
    async with running(["machinen_tui"], environment) as terminal:
        await terminal.shown("NAVIGATE")
        world.say("watching")
        figures += [await idle(terminal, arguments.idle), resident(terminal, arguments.idle)]
    return figures


def own_home(directory: Path) -> dict[str, str]:
    """Settings and memories of our own for the application, the installed base, and a place for
    bytecode: what pip installs is compiled."""
    home = directory / "home"
    home.mkdir()
    (home / "bases").symlink_to(home_root() / "bases")
    return {
        "MACHINEN_HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "PYTHONDONTWRITEBYTECODE": "",
        "PYTHONPYCACHEPREFIX": str(home / "bytecode"),
    }


async def measure(world: World, arguments: argparse.Namespace) -> list[Figure]:
    """Every figure, in the order of the table."""
    environment = own_home(world.directory)
    figures = [await first_paint(environment, arguments.repeat)]
    world.say("drawing")
    figures += await drawings(environment, arguments.repeat)
    if not arguments.no_vms:
        figures += await with_sandboxes(world, environment, arguments)
    return figures


async def run(arguments: argparse.Namespace, console: Console) -> int:
    """Measure until done or interrupted, then end all of it."""
    facts = machine_facts()
    warn_if_busy(console)
    figures: list[Figure] = []

    async def watch_signals(scope: anyio.CancelScope) -> None:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch_signals, tasks.cancel_scope)
        async with own_world(console) as world:
            figures = await measure(world, arguments)
        tasks.cancel_scope.cancel()
    if not figures:
        return 130
    report(figures, facts, arguments, (BEGIN, END))
    return int(any(figure.met is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main(run, parse_arguments()))
