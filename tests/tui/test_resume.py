"""The next run goes on from where the last one was, whatever it left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from machinen_tui import remembered, resume
from machinen_tui.app import MachinenApp
from machinen_tui.config import Config
from tests.tui.stage import Stage, stage


async def test_selection_marks_and_view_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stage("a", "b", "c") as s:
        await s.press("j", "space", "z")
        await s.until(lambda: s.world.session.get("zoomed") is True)
        kept = dict(s.world.session)
        assert kept["selected"] == s.app.list.selected
        monkeypatch.setattr(s.world, "changed", lambda: True)  # the second run reads anew
        second = MachinenApp(s.world)
        async with second.run_test(size=(120, 40)) as pilot:
            other = Stage(second, s.world, pilot)
            await other.until(lambda: second.list.selected == kept["selected"])
            await other.until(lambda: second.grid.zoomed)
            assert [view.name for view in second.roster.live() if view.marked] == ["b"]
            assert resume.spell(second) == kept


async def test_nothing_comes_back_if_the_settings_say_so() -> None:
    async with stage("a", "b") as s:
        s.world.session = {"zoomed": True}
        s.app.habits.config = Config(restore=False)
        s.app.resume.begin()
        assert not s.app.grid.zoomed


@pytest.mark.parametrize(
    "kept",
    [{"selected": 3, "marked": 3, "layout": 3}, {"layout": {"tabs": [3, {"sandboxes": [1]}]}},
     {"selected": "vm-1-1", "marked": ["vm-1-1"], "single": "yes"}],
)  # fmt: skip
async def test_a_damaged_session_changes_nothing_that_matters(kept: dict[str, Any]) -> None:
    async with stage("a", "b") as s:
        s.world.session = kept
        s.app.resume.begin()
        await s.until(lambda: s.app.grid.shown_panes())
        assert not s.app.grid.single
        assert s.app.selected_view is not None


def test_the_file_is_private_and_its_own(tmp_path: Path) -> None:
    remembered.write(tmp_path, {"selected": "x"}, remembered.SESSION_FILE)
    assert remembered.read(tmp_path, remembered.SESSION_FILE) == {"selected": "x"}
    assert remembered.read(tmp_path) == {}
    assert (tmp_path / remembered.SESSION_FILE).stat().st_mode & 0o077 == 0
