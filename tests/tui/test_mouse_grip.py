"""What holds the mouse lets go of it: whatever happens between a press and its release."""

from __future__ import annotations

from textual import events

from tests.tui.stage import Stage, sandbox, stage
from tests.tui.test_mouse import GUEST_WANTS_IT, drag, mouse, pane_of, shows, type_into_it, typed

UP = b"\x1b[<0;4;2m"


async def held_by_the_guest(s: Stage) -> None:
    await shows(s, "text", GUEST_WANTS_IT + b"\x1b[H\x1b[2J")
    await type_into_it(s)
    await mouse(s, events.MouseDown, 3, 1)
    await s.until(lambda: s.app.mouse_captured is pane_of(s))


async def clicks_reach_b(s: Stage) -> None:
    """The frame of another pane is clicked, and it is the one that is in front."""
    pane = s.pane("b")
    assert pane is not None
    for kind in (events.MouseDown, events.MouseUp):
        await s.mouse(kind, pane.region.x + 4, pane.region.y)
    await s.until(lambda: s.app.selected_view is pane.view, "for b to be chosen")
    assert s.app.mouse_captured is None


async def test_a_release_outside_of_the_terminal_shows_by_a_move_without_buttons() -> None:
    async with stage("a", "b") as s:
        await held_by_the_guest(s)
        await mouse(s, events.MouseMove, 5, 5, 0)
        await s.until(lambda: s.app.mouse_captured is None)
        await s.until(lambda: UP in typed(s), "for the guest to hear of it")
        await clicks_reach_b(s)


async def test_a_second_press_of_the_same_button_shows_that_the_release_was_lost() -> None:
    async with stage("a", "b") as s:
        await held_by_the_guest(s)
        await clicks_reach_b(s)
        await s.until(lambda: UP in typed(s), "for the guest to hear of it")


async def test_a_guest_that_wants_the_mouse_no_more_does_not_keep_it() -> None:
    async with stage("a", "b") as s:
        await held_by_the_guest(s)
        await shows(s, "gone", b"\x1b[?1002l\x1b[?1006l\x1b[H\x1b[2J")
        await mouse(s, events.MouseMove, 5, 2)
        await s.until(lambda: s.app.mouse_captured is None)
        await mouse(s, events.MouseUp, 5, 2)
        await clicks_reach_b(s)


async def test_a_pane_that_is_hidden_lets_go() -> None:
    async with stage("a", "b") as s:
        await held_by_the_guest(s)
        pane_of(s).display = False
        await s.pilot.pause()
        await mouse(s, events.MouseUp, 3, 1)
        await s.until(lambda: typed(s).endswith(b"\x1b[<0;1;1m"), "for the guest to hear of it")
        await clicks_reach_b(s)


async def test_a_pane_that_is_removed_lets_go() -> None:
    async with stage("a", "b") as s:
        await held_by_the_guest(s)
        await s.press("ctrl+right_square_bracket", "ctrl+right_square_bracket")
        await s.until(lambda: s.app.mode == "navigate")
        s.world.end(sandbox(s.world, "a"))
        await s.until(lambda: pane_of(s).view.gone)
        await s.press("x")
        await s.until(lambda: s.pane("a") is None)
        await s.mouse(events.MouseUp, 60, 10)
        await s.until(lambda: s.app.mouse_captured is None)
        await clicks_reach_b(s)


async def test_a_dialog_that_opens_meanwhile_has_the_mouse() -> None:
    async with stage("a", "b") as s:
        await mouse(s, events.MouseDown, 3, 1)
        await s.until(lambda: s.app.mouse_captured is pane_of(s))
        await s.press("question_mark")
        await s.until(lambda: len(s.app.screen_stack) == 2)
        await s.mouse(events.MouseUp, 60, 20)
        await s.until(lambda: s.app.mouse_captured is None)
        await s.press("escape")
        await s.until(lambda: len(s.app.screen_stack) == 1)
        await clicks_reach_b(s)
        await mouse(s, events.MouseMove, 6, 2)
        assert pane_of(s).marks.selected is None  # nothing is dragged any more


async def test_a_border_is_not_dragged_on_after_its_release_was_lost() -> None:
    async with stage("a", "b") as s:
        pane = s.pane("b")
        assert pane is not None
        await s.mouse(events.MouseDown, pane.region.x + 4, pane.region.y)
        await s.until(lambda: s.app.mouse_captured is s.app.grid)
        await mouse(s, events.MouseMove, 9, 9, 0)
        await s.until(lambda: s.app.mouse_captured is None)
        before = pane.region
        await mouse(s, events.MouseMove, 9, 12, 1)
        assert pane.region == before


async def test_a_title_is_clicked_though_text_was_dragged_in_that_pane_before() -> None:
    async with stage("b", "a") as s:
        await shows(s, "one two three")
        s.app.select(next(view.key for view in s.app.roster.live() if view.name == "a"))
        await drag(s, (0, 0), (4, 0))
        s.app.select(next(view.key for view in s.app.roster.live() if view.name == "b"))
        pane = pane_of(s)
        await s.mouse(events.MouseDown, pane.region.x + 4, pane.region.y)
        await s.mouse(events.MouseUp, pane.region.x + 4, pane.region.y)
        await s.until(lambda: s.app.selected_view is pane.view)
