"""A running application with live terminals, the world behind it, and ways to look at both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from textual import events
from textual.pilot import Pilot

from machinen_tui.app import MachinenApp
from machinen_tui.habits import Habits
from machinen_tui.widgets.terminal_pane import TerminalPane
from tests.tui.fake_sandboxes import FakeSandbox, FakeWorld


class Stage:
    """A running application, the world behind it, and ways to look at both."""

    def __init__(self, app: MachinenApp, world: FakeWorld, pilot: Pilot[None]) -> None:
        self.app, self.world, self.pilot = app, world, pilot

    async def until(self, condition: Callable[[], object], what: str = "") -> None:
        """Let the application run until `condition` holds; fails after a minute."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain {what}\n{self.text()}"
            await self.pilot.pause()
            await asyncio.sleep(0.01)

    def pane(self, name: str) -> TerminalPane | None:
        return next((p for p in self.app.grid.panes() if p.view.name == name), None)

    def screen_of(self, name: str) -> str:
        pane = self.pane(name)
        return pane.model.screen_text() if pane is not None and pane.model else ""

    def text(self) -> str:
        """The whole window as plain text."""
        strips = self.app.screen._compositor.render_strips()  # pyright: ignore[reportPrivateUsage]
        return "\n".join(strip.text for strip in strips)

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def type(self, text: str) -> None:
        await self.pilot.press(
            *("space" if c == " " else "enter" if c == "\n" else c for c in text)
        )

    async def drag_to(self, x: int, y: int) -> None:
        """The mouse moves with its left button down; `pilot.hover` is without."""
        await self.mouse(events.MouseMove, x, y)

    async def mouse(
        self, kind: type[events.MouseEvent], x: int, y: int, button: int = 1,
        *, shift: bool = False, meta: bool = False,
    ) -> None:  # fmt: skip
        """One event at a cell of the screen, as the terminal tells it: the pilot's pass by the
        application's own `on_event`."""
        event = kind(None, x, y, 0, 0, button, shift, meta, False, screen_x=x, screen_y=y)
        self.app.post_message(event)
        await self.pilot.pause()

    def notices(self) -> list[str]:
        return [notice.message for notice in self.app._notifications]  # pyright: ignore[reportPrivateUsage]


@asynccontextmanager
async def stage(
    *names: str,
    size: tuple[int, int] = (120, 40),
    root: Path = Path("/nonexistent"),
    habits: Habits | None = None,
) -> AsyncGenerator[Stage]:
    world = FakeWorld(root)
    for name in names:
        world.add(name)
    app = MachinenApp(world, habits=habits)
    async with app.run_test(size=size, notifications=True) as pilot:
        playing = Stage(app, world, pilot)
        try:
            for name in names:
                await playing.until(
                    lambda n=name: "#" in playing.screen_of(n), f"for {name}'s prompt"
                )
            yield playing
        finally:
            world.close()


def sandbox(world: FakeWorld, name: str) -> FakeSandbox:
    return next(s for s in world.sandboxes.values() if s.name == name)
