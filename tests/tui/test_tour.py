"""The guided tour: each step waits for what really happens, and where one was is remembered."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from machinen_tui.app import MachinenApp, TourWish
from machinen_tui.habits import Habits
from machinen_tui.tour import KEPT, STEPS
from machinen_tui.widgets.tour_bar import TourBar
from tests.tui.fake_sandboxes import FakeWorld
from tests.tui.stage import Stage

LEAVE = ("ctrl+right_square_bracket", "ctrl+right_square_bracket")


@asynccontextmanager
async def touring(
    *names: str,
    wish: TourWish = "offered",
    kept: object = None,
    size: tuple[int, int] = (80, 24),
    accessible: bool = False,
) -> AsyncGenerator[Stage]:
    """An application whose user never had the tour, or had what is `kept` of it."""
    world, habits = FakeWorld(), Habits()
    world.kept = {} if kept is None else {KEPT: kept}
    habits.config = replace(habits.config, accessible=accessible)
    for name in names:
        world.add(name)
    app = MachinenApp(world, habits=habits, tour=wish)
    async with app.run_test(size=size, notifications=True) as pilot:
        playing = Stage(app, world, pilot)
        try:
            for name in names:
                await playing.until(lambda n=name: "#" in playing.screen_of(n), name)
            yield playing
        finally:
            world.close()


async def at_step(s: Stage, number: int, *words: str) -> None:
    """Wait until the bar shows that step, whole, with these words."""
    head = f"tour, {number} of {len(STEPS)}"
    await s.until(lambda: head in s.text() and all(word in said(s) for word in words), head)
    assert said(s).startswith(head)


def said(s: Stage) -> str:
    """What stands in the bar on screen, in one line."""
    region = s.app.query_one(TourBar).region
    rows = s.text().split("\n")[region.y : region.bottom]
    return " ".join(" ".join(row.split()) for row in rows)


@pytest.mark.parametrize("accessible", [False, True])
async def test_the_whole_tour_is_done_for_real(accessible: bool) -> None:
    async with touring("a", accessible=accessible) as s:
        await at_step(s, 1, "enter gives your keys to a")
        await s.press("enter")
        await at_step(s, 1, "Type a command")
        await s.type("echo hello\n")
        await at_step(s, 1, "Ctrl-] twice")
        await s.press(*LEAVE)
        await at_step(s, 2, "f forks a while it runs")
        await s.press("f")
        await s.until(lambda: s.pane("a-fork") is not None)
        await at_step(s, 3, "z lets")
        await s.press("z")
        await at_step(s, 3, "z again")
        await s.press("z")
        await at_step(s, 4, "ctrl+g searches")
        await s.press("ctrl+g")
        await s.type("hello")
        await s.until(lambda: "echo hello" in s.text())
        await s.press("enter")
        await at_step(s, 4, "esc comes back")
        await s.press("escape")
        await at_step(s, 5, "Ctrl-P lists")
        await s.press("ctrl+p")
        await s.type("wall")
        await s.until(lambda: "all as tiles" in s.text())
        await s.press("enter")
        await s.until(lambda: not s.app.query_one(TourBar).display)
        assert s.world.kept[KEPT] == {"step": 0, "done": True}
        assert b"echo hello\r" in next(iter(s.world.sandboxes.values())).terminal.bytes_typed


async def test_without_a_sandbox_it_says_how_to_get_one() -> None:
    async with touring() as s:
        await at_step(s, 1, "n asks for one")
        s.world.add("late")
        await at_step(s, 1, "gives your keys to late")


async def test_nothing_ends_a_step_but_its_own_deed() -> None:
    async with touring("a") as s:
        await s.press("z", "z", "enter", *LEAVE)
        await s.until(lambda: s.app.mode == "navigate")
        await at_step(s, 1)


async def test_it_goes_on_where_it_was_left() -> None:
    async with touring("a", kept={"step": 2, "done": False}) as s:
        await at_step(s, 3)


async def test_escape_skips_it_for_good_and_the_command_begins_it_again() -> None:
    async with touring("a", size=(120, 40)) as s:
        await at_step(s, 1)
        await s.press("escape")
        await s.until(lambda: "tour, 1" not in s.text() and "/tour begins it again" in s.text())
        assert s.world.kept[KEPT]["done"] is True
        await s.press("slash")
        await s.type("tour\n")
        await at_step(s, 1)


async def test_escape_of_a_person_who_types_goes_to_the_guest() -> None:
    async with touring("a") as s:
        await s.press("enter", "escape", "x")
        terminal = next(iter(s.world.sandboxes.values())).terminal
        await s.until(lambda: b"\x1b" in terminal.bytes_typed)
        await at_step(s, 1)


@pytest.mark.parametrize("wish", ["offered", "never"])
async def test_who_had_it_is_left_alone(wish: TourWish) -> None:
    async with touring("a", wish=wish, kept={"done": True}) as s:
        assert not s.app.query_one(TourBar).display


async def test_who_asks_for_it_has_it_from_the_start() -> None:
    async with touring("a", wish="given", kept={"step": 3, "done": True}) as s:
        await at_step(s, 1)


@pytest.mark.parametrize("kept", [7, [], {"step": "x"}, {"step": 99}, {"step": True}, {"step": -1}])
async def test_what_somebody_damaged_means_the_start(kept: Any) -> None:
    async with touring(kept=kept) as s:
        await at_step(s, 1)


async def test_it_names_the_keys_in_force() -> None:
    async with touring("a", kept={"step": 1, "done": False}) as s:
        s.app.habits.keymap = type(s.app.habits.keymap)({"fork": ["y"]})
        s.app.tour.look()
        await at_step(s, 2, "y forks a")
