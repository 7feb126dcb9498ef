"""Splits, tabs, swaps, floating panes and kept layouts, by key, command and mouse."""

from __future__ import annotations

import pytest

from machinen_tui.layout_verbs import LAYOUTS_KEY
from machinen_tui.workspace import MANUAL
from tests.tui.stage import Stage, sandbox, stage


def rect(s: Stage, name: str) -> tuple[int, int, int, int]:
    """x, y, width and height of a pane inside the centre."""
    pane, origin = s.pane(name), s.app.grid.region
    assert pane is not None
    region = pane.region
    return region.x - origin.x, region.y - origin.y, region.width, region.height


def shown(s: Stage) -> list[str]:
    return sorted(pane.view.name for pane in s.app.grid.shown_panes())


async def entered(s: Stage, line: str) -> None:
    await s.press("slash")
    await s.type(f"{line}\n")


async def test_a_split_puts_a_chosen_sandbox_beside_the_selected_one() -> None:
    async with stage("a", "b", "c") as s:
        await s.press("percent_sign")
        await s.until(lambda: "right of a" in s.text() and "a new fork of a" in s.text())
        await s.type("c")
        await s.press("enter")
        await s.until(lambda: rect(s, "c")[1] == rect(s, "a")[1])
        assert rect(s, "c")[0] == rect(s, "a")[2]
        assert s.app.grid.workspace.tab.arrangement == MANUAL
        await s.until(lambda: sandbox(s.world, "c").terminal.size[0] == rect(s, "c")[2] - 2)


async def test_a_split_may_be_a_fork_that_appears_beside_its_source() -> None:
    async with stage("a", "b") as s:
        await s.press("underscore")
        await s.until(lambda: "below a" in s.text())
        await s.press("enter")
        await s.until(lambda: s.pane("a-fork") is not None)
        await s.until(lambda: rect(s, "a-fork")[0] == rect(s, "a")[0])
        await s.until(lambda: rect(s, "a-fork")[1] == rect(s, "a")[1] + rect(s, "a")[3])


async def test_a_border_follows_the_mouse_and_the_keys() -> None:
    async with stage("a", "b") as s:
        await entered(s, "arrange columns")
        await s.until(lambda: rect(s, "b")[0] == 42)
        x, y = s.app.grid.region.x + 42, s.app.grid.region.y + 10
        await s.pilot.mouse_down(offset=(x, y))
        await s.drag_to(x + 10, y)
        await s.pilot.mouse_up(offset=(x + 10, y))
        await s.until(lambda: rect(s, "b")[0] == 52)
        await s.press("shift+left")
        await s.until(lambda: rect(s, "b")[0] == 48)
        await s.press("equals_sign")
        await s.until(lambda: rect(s, "b")[0] == 42)
        assert s.app.attachment.key is None


async def test_a_click_on_a_border_without_a_drag_selects() -> None:
    async with stage("a", "b") as s:
        await s.until(lambda: rect(s, "b")[1] > 0)
        region = s.app.grid.region
        await s.pilot.click(offset=(region.x + 5, region.y + rect(s, "b")[1]))
        await s.until(lambda: s.app.selected_view is not None and s.app.selected_view.name == "b")
        assert s.app.grid.workspace.tab.arrangement != MANUAL


async def test_panes_swap_places_by_key() -> None:
    async with stage("a", "b") as s:
        await entered(s, "arrange columns")
        await s.until(lambda: rect(s, "a")[0] == 0)
        await s.press("ctrl+right")
        await s.until(lambda: rect(s, "b")[0] == 0 and rect(s, "a")[0] == 42)
        assert s.app.selected_view is not None
        assert s.app.selected_view.name == "a"


async def test_a_sandbox_on_a_tab_of_its_own_and_back() -> None:
    async with stage("a", "b", "c") as s:
        await s.press("down", "t")
        await s.until(lambda: shown(s) == ["b"])
        assert "1 a +1" in s.text().splitlines()[0]
        await s.press("1")
        await s.until(lambda: shown(s) == ["a", "c"])
        await s.press("right_square_bracket")
        await s.until(lambda: shown(s) == ["b"])
        await entered(s, "tab name builds")
        await s.until(lambda: "2 builds" in s.text().splitlines()[0])
        line = s.text().splitlines()[0]
        await s.pilot.click(offset=(line.index("a +1"), 0))
        await s.until(lambda: shown(s) == ["a", "c"])
        await entered(s, "tab move 2")
        await s.until(lambda: shown(s) == ["a", "b"])
        await s.press("T")
        await s.until(lambda: shown(s) == ["a", "b", "c"])


async def test_selecting_in_the_list_shows_the_tab_it_is_on() -> None:
    async with stage("a", "b") as s:
        await s.press("down", "t", "up")
        await s.until(lambda: shown(s) == ["a"])
        s.world.add("late")
        await s.until(lambda: shown(s) == ["a", "late"])


async def test_a_stacked_tab_opens_the_selected_pane() -> None:
    async with stage("a", "b", "c") as s:
        await entered(s, "arrange stacked")
        await s.until(lambda: rect(s, "b")[3] == 1 and rect(s, "a")[3] > 30)
        size = sandbox(s.world, "a").terminal.size
        await s.press("down")
        await s.until(lambda: rect(s, "a")[3] == 1 and rect(s, "b")[3] > 30)
        assert sandbox(s.world, "a").terminal.size == size
        assert "─ a ─" in s.text()


async def test_a_floating_pane_lies_above_and_moves_with_mouse_and_keys() -> None:
    async with stage("a", "b") as s:
        await s.press("O")
        await s.until(lambda: rect(s, "b")[2:] == (s.app.grid.size.width, s.app.grid.size.height))
        x, y, width, _ = rect(s, "a")
        assert width < s.app.grid.size.width
        assert "╔" in s.text()
        region = s.app.grid.region
        await s.pilot.mouse_down(offset=(region.x + x + 3, region.y + y))
        await s.drag_to(region.x + x + 13, region.y + y + 4)
        await s.pilot.mouse_up(offset=(region.x + x + 13, region.y + y + 4))
        await s.until(lambda: rect(s, "a")[0] > x + 5)
        before = rect(s, "a")
        await s.press("ctrl+left", "shift+right")
        await s.until(lambda: rect(s, "a")[0] < before[0] and rect(s, "a")[2] > before[2])
        await s.press("O")
        await s.until(lambda: rect(s, "a")[3] < s.app.grid.size.height)


async def test_layouts_are_kept_by_name_and_restored_for_sandboxes_of_those_names() -> None:
    async with stage("a", "b", "c") as s:
        await entered(s, "split c")
        await s.press("down", "t")
        await s.until(lambda: shown(s) == ["b"])
        await entered(s, "layout save mine")
        await s.until(lambda: LAYOUTS_KEY in s.world.kept)
        await entered(s, "tab close")
        await entered(s, "arrange grid")
        await s.until(lambda: shown(s) == ["a", "b", "c"])
        await s.press("Y")
        await s.until(lambda: "layouts" in s.text() and "mine" in s.text())
        await s.press("enter")
        await s.until(lambda: shown(s) == ["b"])
        await s.press("1")
        await s.until(lambda: shown(s) == ["a", "c"] and rect(s, "a")[1] == rect(s, "c")[1])
        await entered(s, "layout delete mine")
        await s.until(lambda: s.world.kept[LAYOUTS_KEY] == {})
        await entered(s, "layout mine")
        await s.until(lambda: any("no layout is called mine" in each for each in s.notices()))


async def test_a_name_is_asked_for_when_a_layout_is_kept() -> None:
    async with stage("a") as s:
        await s.press("Y", "enter")
        await s.until(lambda: "keep this layout" in s.text() and "enter keep it" in s.text())
        await s.type("one two\n")
        await s.until(lambda: "one two" in s.world.kept.get(LAYOUTS_KEY, {}))


@pytest.mark.parametrize("line", ["tab what", "arrange oddly", "split a b c", "split nobody"])
async def test_a_wrong_word_is_explained(line: str) -> None:
    async with stage("a") as s:
        await entered(s, line)
        await s.until(lambda: s.notices() != [])
