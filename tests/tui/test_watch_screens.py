"""The table, the graphs, the wall and the journal in the running application."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.text import Text
from textual.widgets import DataTable, Input

from machinen_tui.columns import COLUMNS
from machinen_tui.config import Config
from machinen_tui.habits import Habits
from machinen_tui.widgets.wall_screen import Wall
from tests.tui.stage import sandbox, stage
from tests.tui.test_screens import clicked, closed, opened
from tests.tui.test_watching import SAID
from vmm.requests import PhasesEvent


def order(text: str) -> list[str]:
    """The names in the rows of the table, which alone have the state beside them."""
    return re.findall(r"\b([a-c]{2}) +running", text)


async def test_the_table_sorts_filters_and_selects() -> None:
    async with stage("aa", "bb", "cc") as s:
        for name, cpu in (("aa", 5.0), ("bb", 70.0), ("cc", 30.0)):
            sandbox(s.world, name).sample(cpu=cpu)
        await s.until(lambda: "70%" in s.text())
        await s.press("w")
        await opened(s, "3 of 3 · sorted by lineage")
        assert order(s.text()) == ["aa", "bb", "cc"]
        await clicked(s, " cpu ")
        await opened(s, "sorted by cpu")
        await s.until(lambda: order(s.text()) == ["bb", "cc", "aa"])
        await s.press("ctrl+r")
        await opened(s, "turned round")
        await s.until(lambda: order(s.text()) == ["aa", "cc", "bb"])
        await s.type("cc")
        await opened(s, "1 of 3")
        await s.press("escape")
        assert s.app.screen.query_one("#filter", Input).value == ""
        await s.type("bb")
        await opened(s, "1 of 3")
        await s.press("enter")
        await closed(s)
        assert s.app.selected_view is not None
        assert s.app.selected_view.name == "bb"


async def test_at_80_columns_every_column_of_the_table_is_a_key_away(tmp_path: Path) -> None:
    (tmp_path / "tui.toml").write_text(f"[list]\ncolumns = {list(COLUMNS)}\n".replace("'", '"'))
    async with stage("aa", "bb", size=(80, 24), habits=Habits(tmp_path)) as s:
        sandbox(s.world, "aa").sample(cpu=55.0)
        await s.until(lambda: "55%" in s.text())
        await s.press("w")
        await opened(s, "2 of 2 · sorted by lineage")
        assert "esc closes" in s.text()
        assert " pid " not in s.text()
        for _ in range(20):
            await s.press("right")
        await opened(s, " pid ")
        assert "aa" in s.text()  # the names stay
        drawn = s.app.screen.query_one(DataTable[Text])
        sandbox(s.world, "aa").sample(cpu=77.0)
        await s.until(lambda: str(drawn.get_cell(drawn.ordered_rows[0].key, "cpu")) == "77%")
        assert " pid " in s.text()  # new figures do not scroll it back
        for _ in range(20):
            await s.press("left")
        await opened(s, " state ")
        for column in ("name", *COLUMNS):
            await s.press("ctrl+s")
            await opened(s, f"sorted by {column}")
            await opened(s, f"{COLUMNS[column].title if column != 'name' else column} ↓")
        await s.press("ctrl+s")
        await opened(s, "sorted by lineage")
        await s.type("ab")
        await s.press("left")
        await s.type("x")
        assert s.app.screen.query_one("#filter", Input).value == "axb"


async def test_probes_of_the_selected_one_become_rates_and_graphs() -> None:
    async with stage("aa") as s:
        s.app.habits.config = Config(probe_s=1)
        more = SAID.replace(b" 2000 ", b" 900000 ")
        s.world.probe_says = lambda number: SAID if number == 1 else more
        sandbox(s.world, "aa").sample()
        view = s.app.selected_view
        assert view is not None
        await s.until(lambda: view.history.last("disk_read"), "for a rate")
        assert (view.history.last("exec_ms") or 0) > 0
        await s.press("G")
        await opened(s, "aa over time")
        await s.until(lambda: "disk read and written" in s.text() and "M/s" in s.text())
        assert "its own memory" in s.text()
        await s.press("3")
        await opened(s, "the last hour · running")
        await s.press("escape")
        await closed(s)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
async def test_the_wall_shows_fifty_and_a_click_selects(size: tuple[int, int]) -> None:
    names = [f"vm{number:02}" for number in range(50)]
    async with stage("first", size=size) as s:
        for name in names:
            s.world.add(name)
        await s.until(lambda: len(s.app.roster.live()) == 51)
        await s.press("W")
        await opened(s, "51 run")
        assert all(name in s.text() for name in names)
        wall = s.app.screen.query_one(Wall)
        await s.press("right", "down", "left")
        assert wall.chosen == wall.tiling.columns
        await clicked(s, "vm33")
        await closed(s)
        assert s.app.selected_view is not None
        assert s.app.selected_view.name == "vm33"


async def test_the_journal_follows_states_phases_and_operations_and_filters() -> None:
    async with stage("aa") as s:
        await s.press("p")
        await s.until(lambda: "paused" in s.text())
        sandbox(s.world, "aa").tell(PhasesEvent(kind="snapshot", phases={"ram": 8}, total_ms=12))
        await s.press("J")
        await opened(s, "lifecycle  aa")
        await opened(s, "snapshot 12 ms: ram 8 ms")
        await opened(s, "pausing aa: done")
        await s.press("escape", "p")
        await s.until(lambda: "paused" not in s.text())
        await s.press("f")
        await s.until(lambda: s.pane("aa-fork") is not None)
        await s.press("J")
        await opened(s, "operation                 aa forked: aa-fork")
        await s.type("phases")
        await opened(s, "1 of ")
        await s.press("escape", "escape")
        await closed(s)


async def test_an_alert_is_said_marked_and_written_down(tmp_path: Path) -> None:
    (tmp_path / "tui.toml").write_text("[alerts]\ncpu_percent = 50\nhold_seconds = 0")
    async with stage("aa", habits=Habits(tmp_path)) as s:
        sandbox(s.world, "aa").sample(cpu=90)
        await s.until(lambda: "aa: cpu 90% ≥ 50%" in s.notices())
        await s.until(lambda: " ! " in s.text(), "the badge")
        await s.press("W")
        await opened(s, "1 over a threshold")
        await s.press("escape")
        sandbox(s.world, "aa").sample(cpu=1)
        await s.until(lambda: "cpu is back" in s.text())
