"""The browser of snapshots: what it lists, checks, restores and deletes."""

from __future__ import annotations

import json
from pathlib import Path

from textual.widgets import Input

from machinen_runtime.errors import BootError, ErrorCode
from machinen_tui.wanted import WantedRestore
from tests.tui.stage import Stage, stage


async def opened(s: Stage, text: str) -> None:
    await s.until(lambda: text in s.text(), f"for {text}")


async def saved(s: Stage) -> Path:
    """A snapshot of the selected sandbox, and the browser."""
    await s.press("s")
    await s.until(lambda: s.app.roster.snapshots, "for the snapshot")
    await s.press("B")
    await opened(s, "snapshots")
    return s.app.roster.snapshots[0].path


async def test_a_bundle_is_restored_under_another_name(tmp_path: Path) -> None:
    async with stage("web", root=tmp_path) as s:
        path = await saved(s)
        await opened(s, "can be restored here")
        await opened(s, "96M")
        await s.press("enter")
        await opened(s, "restore web")
        await s.type("again")
        await s.press("tab")
        await s.type("8080:80\n")
        await s.until(lambda: s.pane("again") is not None)
        await s.until(lambda: len(s.app.screen_stack) == 1)
        wanted = s.world.asked[-1]
        assert isinstance(wanted, WantedRestore)
        assert (wanted.bundle, wanted.ports[0].host_port) == (path, 8080)


async def test_a_bad_bundle_says_why_and_can_be_checked_again(tmp_path: Path) -> None:
    async with stage("web", root=tmp_path) as s:
        await s.press("s")
        await s.until(lambda: s.app.roster.snapshots)
        path = s.app.roster.snapshots[0].path
        s.world.bad_bundles[path] = BootError(ErrorCode.BOOT_SNAPSHOT_INVALID, "ram.img is torn")
        await s.press("B")
        await opened(s, "BOOT_SNAPSHOT_INVALID: ram.img is torn")
        del s.world.bad_bundles[path]
        await s.press("v")
        await opened(s, "can be restored here")
        assert s.world.checked == [(path, False), (path, True)]  # v reads what is remembered, too


async def test_deleting_asks_and_says_who_came_from_it(tmp_path: Path) -> None:
    async with stage("web", root=tmp_path) as s:
        path = await saved(s)
        await s.press("enter")
        await opened(s, "restore web")
        await s.press("enter")
        await s.until(lambda: s.pane("web-restored") is not None)
        await s.press("B")
        await opened(s, "can be restored here")
        await s.press("x")
        await opened(s, "web-restored came from it")
        await s.press("n")
        assert s.app.roster.snapshots[0].path == path
        await s.press("x")
        await opened(s, "is removed for good")
        s.world.fail_next = BootError(ErrorCode.BOOT_SNAPSHOT_INVALID, "it is no snapshot")
        await s.press("y")
        await s.until(lambda: any("it is no snapshot" in each for each in s.notices()))
        await s.press("x", "y")
        await opened(s, "no snapshot yet")


async def test_another_place_is_looked_into_from_then_on(tmp_path: Path) -> None:
    bundle = tmp_path / "elsewhere" / "old"
    bundle.mkdir(parents=True)
    (bundle / "meta.json").write_text(json.dumps({"snappedAt": 1e12, "sourceName": "ancient"}))
    async with stage("web") as s:
        await s.press("B")
        await opened(s, "no snapshot yet")
        await s.press("o")
        await s.type("/no/such\n")
        await opened(s, "there is no directory /no/such")
        s.app.screen.query_one("#place", Input).value = str(bundle.parent)
        await s.press("enter")
        await opened(s, "ancient")
        await opened(s, "1 more")
        await s.press("escape", "B")
        await opened(s, "ancient")
        assert s.world.kept == {"bundle_places": [str(bundle.parent)]}
