"""`python -m bench.demo_cast`: records docs/demo.cast (asciicast v2) and docs/demo.svg from real
sandboxes: the application in a pseudo-terminal, keys typed as a person would.

Nothing is staged but time: while one waits, it runs faster, and no pause is longer than a second.
Play it with `asciinema play docs/demo.cast`, or in the application with `/replay docs/demo.cast`.
"""

from __future__ import annotations

import codecs
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import anyio
from rich.console import Console

from bench.cast_svg import Frame, animated_svg, frame_of
from bench.tui_latency import own_home
from bench.tui_terminal import OuterTerminal, running
from bench.world import own_world
from machinen_runtime.boot import boot
from machinen_tui.terminal_model import TerminalModel

TARGET = Path(__file__).parent.parent / "docs"
SIZE = (100, 30)
MAX_PAUSE_S, WAIT_PACE = 1.0, 0.15
LEAVE = b"\x1d\x1d"
LOOP = "while :; do echo $((n=n+1)) on $(hostname); sleep 1; done"


class Recorder:
    """Takes down what the terminal shows, and pictures of some moments."""

    def __init__(self) -> None:
        self.events: list[tuple[float, str]] = []
        self.frames: list[Frame] = []
        self.pace = 1.0
        self._model = TerminalModel(*SIZE)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._at = 0.0
        self._last = time.monotonic()

    def take(self, piece: bytes, at: float) -> None:
        """Output, as `OuterTerminal.tap`."""
        self._at += min((at - self._last) * self.pace, MAX_PAUSE_S)
        self._last = at
        self._model.feed(piece, live=False)
        if text := self._decoder.decode(piece):
            self.events.append((self._at, text))

    def picture(self, caption: str) -> None:
        """Keep the screen as it is."""
        self.frames.append(frame_of(self._model, caption))

    def cast(self) -> str:
        """As asciicast v2."""
        header = {"version": 2, "width": SIZE[0], "height": SIZE[1], "title": "machinen-tui",
                  "env": {"TERM": "xterm-256color"}}  # fmt: skip
        lines = [json.dumps(header)]
        lines += [
            json.dumps([round(at, 3), "o", text], ensure_ascii=False) for at, text in self.events
        ]
        return "\n".join(lines) + "\n"


class Actor:
    """Somebody at the keys."""

    def __init__(self, terminal: OuterTerminal, recorder: Recorder) -> None:
        self._terminal, self._recorder = terminal, recorder

    async def press(self, keys: Sequence[bytes], between_s: float = 0.5) -> None:
        for key in keys:
            self._terminal.type(key)
            await anyio.sleep(between_s)

    async def type(self, text: str) -> None:
        await self.press([c.encode() for c in text], 0.06)
        await self.press([b"\r"])

    async def sees(self, text: str) -> None:
        """Wait for `text`; what takes long is shown faster."""
        self._recorder.pace = WAIT_PACE
        await self._terminal.shown(text, 180)
        self._recorder.pace = 1.0

    async def watches(self, seconds: float, caption: str) -> None:
        await anyio.sleep(seconds)
        self._recorder.picture(caption)


async def play(actor: Actor) -> None:
    """Type into one, fork it, see both go on, four more, all of them on the wall."""
    await actor.sees("root@one")
    await actor.press([b"\r"])
    await actor.type(LOOP)
    await actor.sees("3 on one")
    await actor.watches(1, "a sandbox: a shell in a real VM")
    await actor.press([LEAVE, b"f"])
    await actor.sees("on one-2")
    await actor.watches(4, "f forks it while it runs: both go on from the same line")
    await actor.press([b"/"])
    await actor.type("fork one-2 3")
    await actor.sees("on one-2-3")
    await actor.watches(4, "forks of the fork, each with its own count")
    await actor.press([b"W"])
    await actor.sees("of their own")
    await actor.watches(3, "all of them as tiles: processor, memory, state")
    await actor.press([b"\x1b", b"q"], 1.0)


async def record() -> Recorder:
    """Boot one sandbox, play, end what was made."""
    recorder = Recorder()
    async with own_world(Console(stderr=True)) as world:
        home = own_home(world.directory)
        (Path(home["MACHINEN_HOME"]) / "tui.json").write_text('{"tour": {"done": true}}')
        await boot(name="one", memory=512, network="none", detached=True)
        async with running(["machinen_tui"], home, SIZE) as terminal:
            terminal.tap = recorder.take
            await play(Actor(terminal, recorder))
    return recorder


def main() -> int:
    """0 when both files are written."""
    recorder = anyio.run(record)
    (TARGET / "demo.cast").write_text(recorder.cast(), encoding="utf-8")
    (TARGET / "demo.svg").write_text(animated_svg(recorder.frames), encoding="utf-8")
    for name in ("demo.cast", "demo.svg"):
        print(f"docs/{name}: {(TARGET / name).stat().st_size // 1024} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
