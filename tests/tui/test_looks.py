"""What every screen looks like, as pictures that somebody has looked at (pytest-textual-snapshot).

`pytest tests/tui/test_looks.py --snapshot-update` takes them anew; look at each before committing.
They are kept small: no clip paths, fonts or ids, which no difference would ever be in.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import pytest_textual_snapshot  # pyright: ignore[reportMissingTypeStubs]
from pytest_textual_snapshot import (  # pyright: ignore[reportMissingTypeStubs]
    SVGImageExtension,
)
from textual.pilot import Pilot
from textual.strip import Strip

from machinen_tui.app import MachinenApp
from machinen_tui.habits import Habits
from tests.tui.looks import SECONDS, FrozenWorld, figures, freeze, settled, story

SMALL, USUAL, LARGE = (80, 24), (120, 40), (240, 70)
Look = Callable[..., None]
RECT = re.compile(r'<rect fill="(\S+)" x="(\S+)" y="(\S+)" width="(\S+)" height="(\S+)"/>')
RECTS = re.compile(rf"(?:{RECT.pattern.replace('(', '(?:')}){{2,}}")


class SmallPicture(SVGImageExtension):
    """An SVG without what is the same in all of them."""

    def serialize(self, *args: Any, **kwargs: Any) -> Any:
        whole = super().serialize(*args, **kwargs)  # pyright: ignore
        return compact(str(whole))  # pyright: ignore[reportUnknownArgumentType]


def compact(svg: str) -> str:
    """The same picture in fewer bytes: of each line of cells a line of text."""
    svg = re.sub(r"@font-face \{[^}]*\}", "", svg)
    svg = re.sub(r"<clipPath.*?</clipPath>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:clip-path|textLength|shape-rendering)="[^"]*"', "", svg)
    svg = re.sub(r'<text class="\S+" x="[\d.]+" y="[\d.]+">\s*</text>', "", svg)
    svg = RECTS.sub(_merged, svg)
    svg = svg.replace("terminal-", "").replace("&#160;", "\u00a0")
    return re.sub(r"\n\s*\n+", "\n", svg)


def _merged(run: re.Match[str]) -> str:
    """Rectangles of one colour that follow each other in a row, as one."""
    merged: list[list[str]] = []
    for fill, x, y, width, height in RECT.findall(run[0]):
        last = merged[-1] if merged else None
        if last is not None and [last[0], last[2]] == [fill, y]:
            last[3] = f"{float(x) + float(width) - float(last[1]):g}"
        else:
            merged.append([fill, x, y, width, height])
    return "".join(
        f'<rect fill="{fill}" x="{x}" y="{y}" width="{width}" height="{height}"/>'
        for fill, x, y, width, height in merged
    )


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Look:
    """Compares a window after some keys with its picture."""
    freeze(monkeypatch)
    monkeypatch.setattr(pytest_textual_snapshot, "SVGImageExtension", SmallPicture)
    compare = request.getfixturevalue("snap_compare")

    def look(
        *keys: str,
        size: tuple[int, int] = SMALL,
        theme: str = "dark",
        accessible: bool = False,
        colorless: bool = False,
        selected: str = "",
        filled: Callable[[FrozenWorld], None] = story,
        tour: bool = False,
    ) -> None:
        if colorless:
            monkeypatch.setenv("NO_COLOR", "1")
        world, habits = FrozenWorld(), Habits(colorless=colorless)
        habits.config = replace(habits.config, theme=theme, accessible=accessible)
        app = MachinenApp(world, habits=habits, tour="given" if tour else "never")

        async def play(pilot: Pilot[None]) -> None:
            filled(world)
            await app.poll()
            await until(pilot, lambda: settled(app, world))
            figures(world)
            await until(pilot, lambda: all(len(v.samples) == SECONDS for v in app.roster.live()))
            if selected:
                view = app.roster.by_name(selected)
                app.select(view.key if view else None)
            await app.poll()
            await press(pilot, keys)
            for pane in app.grid.panes():
                pane.show_changes()
            await quiet(pilot)

        assert compare(app, terminal_size=size, run_before=play)

    return look


async def until(pilot: Pilot[None], condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not condition():
            await pilot.pause()
            await asyncio.sleep(0.01)


async def press(pilot: Pilot[None], keys: Iterable[str]) -> None:
    for key in keys:
        await pilot.press(key)
        await pilot.pause()


async def quiet(pilot: Pilot[None]) -> None:
    """Nothing is drawn any more, no cursor blinks, nobody rings."""
    for widget in pilot.app.screen.query("Input"):
        widget.cursor_blink = False  # pyright: ignore[reportAttributeAccessIssue]
    before: list[Strip] = []
    async with asyncio.timeout(120):
        while not (now := drawn(pilot)) or now != before:  # none: it was not laid out yet
            before = now
            await pilot.pause(0.2)


def drawn(pilot: Pilot[None]) -> list[Strip]:
    """The rows on screen."""
    return list(pilot.app.screen._compositor.render_strips())  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("size", [SMALL, USUAL, LARGE], ids=["80x24", "120x40", "240x70"])
def test_the_window(looks: Look, size: tuple[int, int]) -> None:
    looks(size=size, selected="fix-parser")


@pytest.mark.parametrize("theme", ["light", "ansi", "high-contrast"])
def test_the_window_in_other_colours(looks: Look, theme: str) -> None:
    looks(theme=theme, selected="web")


def test_the_window_without_colours(looks: Look) -> None:
    looks(colorless=True, selected="web")


def test_the_window_for_a_screen_reader(looks: Look) -> None:
    looks(accessible=True, selected="web")


def nobody(world: FrozenWorld) -> None:
    """No sandbox yet."""


def test_the_first_window(looks: Look) -> None:
    looks(filled=nobody, tour=True)


def test_typing_into_one(looks: Look) -> None:
    looks("enter", selected="again")


@pytest.mark.parametrize("theme", ["dark", "ansi"])
def test_typing_into_all_marked(looks: Look, theme: str) -> None:
    looks("space", "down", "space", "b", theme=theme, selected="fix-parser")


def test_one_pane_over_the_window(looks: Look) -> None:
    looks("z", selected="web")


def test_splits_and_tabs(looks: Look) -> None:
    looks("t", "o", "o", size=USUAL, selected="build")


@pytest.mark.parametrize(
    ("name", "keys"),
    [("new", "n"), ("fork", "F"), ("snapshot", "S"), ("stop", "x"), ("rename", "m"),
     ("ports", "P"), ("secrets", "e"), ("copy", "c"), ("details", "d"), ("image", "i"),
     ("restore", "r"), ("layouts", "Y")],
)  # fmt: skip
def test_a_dialog(looks: Look, name: str, keys: str) -> None:
    looks(keys, selected="web")


@pytest.mark.parametrize(
    ("name", "keys"),
    [("help", "question_mark"), ("palette", "ctrl+p"), ("command line", "slash"), ("table", "w"),
     ("wall", "W"), ("graphs", "G 1"), ("journal", "J"), ("snapshots", "B"), ("settings", "K"),
     ("search", "ctrl+g")],
)  # fmt: skip
def test_a_screen(looks: Look, name: str, keys: str) -> None:
    looks(*keys.split(), selected="build")


def test_the_help_where_there_is_room(looks: Look) -> None:
    looks("question_mark", size=USUAL, selected="build")


def test_fifty_on_the_wall(looks: Look) -> None:
    def fifty(world: FrozenWorld) -> None:
        for number in range(50):
            world.show(f"worker-{number:02}", age_s=100 + number)

    looks("W", size=USUAL, filled=fifty)
