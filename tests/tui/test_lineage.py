"""The tree of families in the running application, and its rows."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from textual.widgets import OptionList

from machinen_runtime.ancestry import Ancestor
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.lineage import family_tree
from machinen_runtime.registry_entry import RegistryEntry
from machinen_tui.lineage_rows import Member, seen_rows
from machinen_tui.wanted import WantedSnapshot
from machinen_tui.widgets.lineage_screen import LineageScreen
from tests.tui.fake_sandboxes import FakeSandbox
from tests.tui.stage import Stage, sandbox, stage
from tests.tui.test_screens import closed, opened

A = Ancestor(pid=1, started_at=1, left_at=5, name="a")
B = Ancestor(pid=2, started_at=2, left_at=6, name="b")


def entry(pid: int, *line: Ancestor) -> RegistryEntry:
    return RegistryEntry(pid=pid, socket_path="", started_at=pid, name=f"vm{pid}", ancestry=line)


def screen(s: Stage) -> LineageScreen:
    assert isinstance(s.app.screen, LineageScreen)
    return s.app.screen


async def saved(s: Stage, name: str) -> Path:
    """A snapshot of a sandbox of the stage, known to the application."""
    path = await s.world.snapshot(sandbox(s.world, name), WantedSnapshot(), lambda phase: None)
    await s.until(lambda: any(info.path == path for info in s.app.roster.snapshots))
    return path


def test_rows_have_branches_and_fold() -> None:
    none: list[Member] = family_tree([entry(3, A, B), entry(4, A, B), entry(5, A)], [])
    rows = seen_rows(none, ())
    assert [row.branches + row.node.name for row in rows] == [
        "a", "├ b", "│ ├ vm3", "│ └ vm4", "└ vm5",
    ]  # fmt: skip
    rows = seen_rows(none, {rows[1].node.key})
    assert [(row.node.name, row.folded) for row in rows] == [("a", 0), ("b", 2), ("vm5", 0)]


async def test_the_tree_shows_families_and_goes_to_a_pane() -> None:
    async with stage("web", "db") as s:
        await saved(s, "web")
        s.world.set_entry(sandbox(s.world, "db"), ancestry=(A,))
        s.world.add("try", source=sandbox(s.world, "web"))
        await s.until(lambda: len(s.app.roster.live()) == 3)
        await s.press("A")
        await opened(s, "3 running · 1 snapshot")
        lines = s.text().splitlines()
        assert any("○ a " in line and " gone " in line for line in lines)
        assert any("└ ● db" in line for line in lines)
        assert any("◆ web-0" in line and "snapshot" in line for line in lines)
        await s.press("up", "up", "up", "up", "left")
        await s.press("left")
        chosen = screen(s).chosen
        assert chosen is not None
        while (chosen := screen(s).chosen) is None or chosen.name != "db":
            await s.press("down")
        await s.press("enter")
        await closed(s)
        assert s.app.selected_view is not None
        assert s.app.selected_view.name == "db"


async def choose(s: Stage, name: str, kind: str) -> None:
    """Move the cursor to a member."""
    options = screen(s).query_one(OptionList)
    for _ in range(options.option_count):
        chosen = screen(s).chosen
        if chosen is not None and (chosen.name, chosen.kind) == (name, kind):
            return
        await s.press("down")
    raise AssertionError(f"no {kind} {name}\n{s.text()}")


async def test_a_snapshot_is_labelled_pinned_restored_and_removed_only_after_a_yes() -> None:
    async with stage("web") as s:
        path = await saved(s, "web")
        await s.press("A")
        await opened(s, "1 snapshot")
        await choose(s, "web", "snapshot")
        await s.press("l")
        await opened(s, "label web-0")
        await s.type("green")
        await s.press("tab")
        await s.type("all tests pass")
        await s.press("enter")
        await s.until(
            lambda: "all tests pass" in s.text() and isinstance(s.app.screen, LineageScreen)
        )
        await s.press("p")
        await s.until(lambda: "snapshot · pinned" in s.text())
        assert s.world.snapshot_list[0].notes.label == "green"
        await s.press("x")
        await opened(s, "It is pinned.")
        await s.press("n")
        await s.until(lambda: isinstance(s.app.screen, LineageScreen))
        await s.press("r")
        await opened(s, "restore web")
        await s.press("enter")
        await s.until(lambda: len(s.world.sandboxes) == 2)
        await s.until(lambda: isinstance(s.app.screen, LineageScreen) and "2 run" in s.text())
        await choose(s, "web", "snapshot")
        await s.press("x")
        await opened(s, "for good")
        await s.press("y")
        await s.until(lambda: not s.world.snapshot_list)
        assert path not in [info.path for info in s.app.roster.snapshots]


async def test_a_branch_of_the_tree_comes_to_a_tab_of_its_own() -> None:
    async with stage("web", "db") as s:
        for name in ("web-2", "web-3"):
            s.world.set_entry(
                s.world.add(name, source=sandbox(s.world, "web")),
                ancestry=(
                    Ancestor(
                        pid=sandbox(s.world, "web").pid,
                        started_at=sandbox(s.world, "web").entry.started_at,
                        left_at=1,
                        name="web",
                    ),
                ),
            )
        await s.until(lambda: len(s.app.roster.live()) == 4)
        await s.press("A")
        await opened(s, "4 run")
        await choose(s, "web", "running")
        await s.press("o")
        await closed(s)
        await s.until(
            lambda: (
                {p.view.name for p in s.app.grid.panes() if p.display} == {"web", "web-2", "web-3"}
            )
        )
        tabs = s.app.grid.workspace.tabs
        assert [tab.name for tab in tabs] == ["", "web"]


async def test_marks_forks_and_stops_work_on_the_chosen_sandbox() -> None:
    async with stage("web", "db") as s:
        await s.press("A")
        await opened(s, "2 run")
        await choose(s, "db", "running")
        await s.press("space")
        assert [view.name for view in s.app.roster.live() if view.marked] == ["db"]
        await s.press("f")
        await opened(s, "fork db")
        await s.press("escape", "x")
        await opened(s, "stop db?")
        await s.press("y")
        await s.until(lambda: [each.name for each in s.world.sandboxes.values()] == ["web"])
        await s.press("question_mark")
        await opened(s, "fold, unfold")
        await s.press("escape")
        await s.until(lambda: isinstance(s.app.screen, LineageScreen))


async def test_a_rewind_keeps_the_pane_its_place_and_the_keys() -> None:
    async with stage("aa", "web", "zz") as s:
        path = await saved(s, "web")
        workspace = s.app.grid.workspace
        order = [s.app.roster.sandboxes[key].name for key in workspace.tab.keys]
        old = sandbox(s.world, "web")
        s.app.select(next(v.key for v in s.app.roster.live() if v.name == "web"))
        await s.press("space", "u")
        await opened(s, "rewind web to")
        await s.press("enter")
        await s.until(lambda: old.pid not in s.world.sandboxes, "for the old one's end")
        await s.until(lambda: old.pid not in {v.pid for v in s.app.roster.shown()})
        view = s.app.selected_view
        assert view is not None
        assert (view.name, view.marked) == ("web", True)
        assert view.pid != old.pid
        assert [s.app.roster.sandboxes[key].name for key in workspace.tab.keys] == order
        assert view.forked_from == str(path)
        await s.until(lambda: "#" in s.screen_of("web"))
        await s.press("U")
        await s.until(lambda: len(s.world.snapshot_list) == 3, "for the undo of the undo")
        await s.until(lambda: len(s.world.sandboxes) == 3)


async def test_a_second_rewind_meanwhile_is_refused_by_the_name_the_user_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stage("web") as s:
        goes_on, calls = asyncio.Event(), list[str]()

        async def rewind(source: FakeSandbox, *_: object) -> FakeSandbox:
            calls.append(source.name or "")
            s.world.set_entry(source, name=f"web~{source.pid}")
            await goes_on.wait()
            s.world.set_entry(source, name="web")
            return source

        monkeypatch.setattr(s.world, "rewind", rewind)
        refusal = "rewinding web is under way: wait until that is done"
        await s.press("U")
        await s.until(lambda: [view.name for view in s.app.roster.live()] == ["web~1001"])
        await s.press("U")
        await s.until(lambda: refusal in s.notices())
        goes_on.set()
        await s.until(lambda: not s.app.operations.running)
        await s.press("U")  # what is over is refused no more
        await s.until(lambda: calls == ["web", "web"])
        await s.until(lambda: not s.app.operations.running)


async def test_a_rewind_that_fails_changes_nothing_and_says_why() -> None:
    async with stage("web") as s:
        await saved(s, "web")
        pid = sandbox(s.world, "web").pid
        s.world.fail_next = BootError(ErrorCode.BOOT_SNAPSHOT_INVALID, "torn")
        await s.press("A")
        await opened(s, "1 snapshot")
        await choose(s, "web", "snapshot")
        await s.press("u")
        await opened(s, "rewind web?")
        await s.press("y")
        await s.until(lambda: any("BOOT_SNAPSHOT_INVALID" in text for text in s.notices()))
        assert [each.pid for each in s.world.sandboxes.values()] == [pid]
