"""`make screenshots`: boot real sandboxes, play the application to a few scenes, at 120 x 40 and
some also at 80 x 24 and 240 x 70, write screenshots/*.png.

The sandboxes live in a registry of their own, so nobody else's appear, and are stopped at the end.
PNGs are drawn by rsvg-convert (Debian: librsvg2-bin) from an SVG in which every character has its
own cell: no renderer's idea of a font's width can shift a column.
"""

from __future__ import annotations

import asyncio
import html
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from textual.pilot import Pilot

from machinen_runtime.option_types import PortForward
from machinen_tui.__main__ import COUNTER
from machinen_tui.app import MachinenApp
from machinen_tui.roster import SandboxView
from machinen_tui.runtime_gateway import RuntimeGateway
from machinen_tui.wanted import NewSandbox

TARGET = Path(__file__).parent.parent / "screenshots"
CELL_WIDTH, CELL_HEIGHT = 12.2, 24.4
"""Rich's, in its SVG export."""
TEXT = re.compile(
    r'<text class="([\w-]+)" x="([\d.]+)" y="([\d.]+)" textLength="([\d.]+)" [^>]*>([^<]*)</text>'
)
PIXELS_PER_COLUMN, MAX_PIXELS = 10, 1680
SMALL, USUAL, LARGE = (80, 24), (120, 40), (240, 70)
STROKES = {
    "│": "M.5 0V1", "─": "M0 .5H1", "╭": "M.5 1V.7Q.5 .5 1 .5", "╮": "M.5 1V.7Q.5 .5 0 .5",
    "╰": "M.5 0V.3Q.5 .5 1 .5", "╯": "M.5 0V.3Q.5 .5 0 .5", "└": "M.5 0V.5H1",
    "├": "M.5 0V1M.5 .5H1",
    "┃": "M.5 0V1", "━": "M0 .5H1", "┏": "M.5 1V.5H1", "┓": "M.5 1V.5H0", "┗": "M.5 0V.5H1",
    "┛": "M.5 0V.5H0",
}  # fmt: skip
"""Frames as lines through the middle of a cell of size 1 x 1, so that they meet."""
HEAVY = "┃━┏┓┗┛"
BLOCKS = " ▁▂▃▄▅▆▇█"


def in_cells(svg: str) -> str:
    """The same picture with each character at the place of its cell, frames and blocks drawn as
    shapes."""
    return TEXT.sub(lambda found: "".join(_cells(*found.groups())), svg)


def _cells(style: str, x: str, y: str, length: str, text: str) -> list[str]:
    characters = html.unescape(text)
    step = float(length) / max(len(characters), 1)
    top = float(y) - 18.5
    cells: list[str] = []
    for index, character in enumerate(characters):
        left = float(x) + index * step
        if character in STROKES:
            width = 2.4 if character in HEAVY else 1.3
            points = _scaled(STROKES[character], left, top)
            cells.append(f'<path class="{style}" d="{points}" style="stroke-width:{width}"/>')
        elif character in BLOCKS[1:]:
            height = CELL_HEIGHT * BLOCKS.index(character) / 8
            y0 = top + CELL_HEIGHT - height
            cells.append(_rect(style, left, y0, height))
        elif character not in " \xa0":
            shown = html.escape(character)
            cells.append(f'<text class="{style}" x="{left:.1f}" y="{y}">{shown}</text>')
    return cells


def _rect(style: str, x: float, y: float, height: float) -> str:
    size = f'width="{CELL_WIDTH + 0.3:.1f}" height="{height + 0.2:.2f}"'
    return f'<rect class="{style}" x="{x:.1f}" y="{y:.2f}" {size} shape-rendering="crispEdges"/>'


def _scaled(path: str, left: float, top: float) -> str:
    """A path in cell units at its place: after H a number is an x, after V a y, after M and Q
    pairs."""
    parts: list[str] = []
    for command, numbers in re.findall(r"([MHVQ])([ .\d]*)", path):
        values = [float(number) for number in re.findall(r"\d*\.?\d+", numbers)]
        for index, value in enumerate(values):
            across = command == "H" or (command in "MQ" and index % 2 == 0)
            place = left + value * CELL_WIDTH if across else top + value * CELL_HEIGHT
            parts.append(f"{command if index == 0 else ''}{place:.1f}")
    return " ".join(parts)


def with_stroke_styles(svg: str) -> str:
    """Give each text style its colour as a stroke too, for the frames drawn as paths.

    Fonts from elsewhere are dropped: a picture in the README fetches nothing.
    """
    svg = re.sub(r"@font-face \{[^}]*\}", "", svg)
    fills = re.findall(r"\.([\w-]+-r\d+) \{ fill: (#\w+)", svg)
    rules = "".join(f"path.{name}{{stroke:{color};fill:none}}" for name, color in fills)
    return svg.replace("</style>", f"{rules}</style>", 1)


class Stage:
    """The application while it is played."""

    def __init__(self, app: MachinenApp, pilot: Pilot[None]) -> None:
        self.app, self.pilot = app, pilot

    def view(self, name: str) -> SandboxView | None:
        return self.app.roster.by_name(name)

    def screen(self, name: str) -> str:
        view = self.view(name)
        return view.session.model.screen_text() if view and view.session else ""

    async def until(self, condition: Callable[[], object], what: str, seconds: float = 90) -> None:
        """Wait for what the guests do."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:g} s for {what}")
            await self.pilot.pause()
            await asyncio.sleep(0.05)

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def type(self, text: str) -> None:
        await self.press(*("space" if c == " " else "enter" if c == "\n" else c for c in text))

    def select(self, name: str) -> None:
        view = self.view(name)
        self.app.select(view.key if view else None)

    async def shoot(self, name: str, *, after: float = 0.4) -> None:
        """Write `name`.png of what is on screen."""
        await asyncio.sleep(after)
        await self.app.poll()
        await self.pilot.pause()
        svg = self.app.export_screenshot(title="machinen-tui")
        await asyncio.to_thread(_write, name, svg, self.app.size.width)
        print(f"screenshots/{name}.png")


def _write(name: str, svg: str, columns: int) -> None:
    TARGET.mkdir(exist_ok=True)
    drawn = with_stroke_styles(in_cells(svg))
    width = str(min(columns * PIXELS_PER_COLUMN, MAX_PIXELS))
    command = ["rsvg-convert", "--width", width, "-o", str(TARGET / f"{name}.png")]
    subprocess.run(command, input=drawn.encode(), check=True)


async def play(stage: Stage) -> None:
    """From three sandboxes to forks and snapshots."""
    await stage.until(lambda: "counter" in stage.screen("counter"), "the counter")
    await stage.until(lambda: "CPU" in stage.screen("htop"), "htop")
    await stage.until(lambda: "#" in stage.screen("shell"), "the shell's prompt")
    stage.select("counter")
    await stage.shoot("overview", after=8)
    stage.select("shell")
    await stage.press("enter")
    await stage.type("uname -sr; ls /\n")
    await stage.until(lambda: "Linux 6" in stage.screen("shell"), "the shell's answer")
    await stage.shoot("attached")
    await stage.press("ctrl+right_square_bracket", "ctrl+right_square_bracket")
    stage.select("counter")
    await stage.press("f")
    await stage.until(lambda: "counter" in stage.screen("counter-2"), "the fork")
    stage.select("counter")
    await stage.press("s")
    await stage.until(lambda: stage.app.roster.snapshots, "the snapshot")
    stage.select("counter-2")
    await stage.shoot("fork", after=6)
    stage.select("htop")
    await stage.press("z")
    await stage.shoot("zoom", after=3)
    await stage.press("z")
    await stage.press("slash")
    await stage.type("re")
    await stage.shoot("command")
    await stage.press("escape")
    await stage.press("question_mark")
    await stage.shoot("help")
    await stage.press("escape")
    await stage.press("n")
    await stage.shoot("boot")
    await stage.press("escape")
    await stage.press("w")
    await stage.shoot("table", after=2)
    await stage.press("escape")
    await stage.press("G")
    await stage.shoot("graphs", after=2)
    await stage.press("escape")
    await stage.press("B")
    await stage.shoot("snapshots", after=4)
    await stage.press("escape")
    for size in (SMALL, LARGE):
        await stage.pilot.resize_terminal(*size)
        stage.select("counter-2")
        await stage.shoot(f"fork-{size[0]}x{size[1]}", after=4)


async def run(snapshot_root: Path) -> None:
    """Boot, play, stop what was booted."""
    web = [PortForward(host_port=8088, guest_port=80)]
    wanted = [
        NewSandbox(name="counter", cmd=("python3", "-c", COUNTER), memory_mib=512),
        NewSandbox(name="htop", cmd=("htop",), memory_mib=512),
        NewSandbox(name="shell", memory_mib=512, ports=web),
    ]
    app = MachinenApp(RuntimeGateway(snapshot_root), wanted)
    async with app.run_test(size=USUAL) as pilot:
        stage = Stage(app, pilot)
        try:
            await play(stage)
        finally:
            for view in app.roster.live():
                if view.handle is not None:
                    await view.handle.stop()


def main() -> int:
    """0 if every picture was written."""
    if shutil.which("rsvg-convert") is None:
        print("rsvg-convert is missing: apt-get install librsvg2-bin", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="machinen-shots-") as directory:
        os.environ["MACHINEN_REGISTRY_DIR"] = f"{directory}/vms"
        asyncio.run(run(Path(directory, "snapshots")))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
