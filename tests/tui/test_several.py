"""One command in many sandboxes, and a promotion, in the running application."""

from __future__ import annotations

from dataclasses import dataclass

from machinen_runtime.ancestry import Ancestor
from machinen_runtime.errors import ErrorCode, ExecError, SnapshotError
from machinen_runtime.registry_entry import RegistryEntry
from machinen_runtime.run_many import OutcomeGroup, RunOutcome
from machinen_tui.run_rows import report_of, row_of
from machinen_tui.widgets.run_screen import RunScreen
from tests.tui.stage import Stage, sandbox, stage
from tests.tui.test_screens import closed, opened


@dataclass
class Answers:
    """What fake guests say."""

    said: dict[str, RunOutcome]

    def __call__(self, entry: RegistryEntry, command: str) -> RunOutcome:
        return self.said[entry.name or ""]


def outcome(name: str, stdout: bytes = b"", code: int | None = 0, **more: object) -> RunOutcome:
    entry = RegistryEntry(pid=1, socket_path="", started_at=1, name=name)
    return RunOutcome(entry=entry, exit_code=code, stdout=stdout, elapsed_ms=12.0, **more)  # pyright: ignore


def test_rows_are_printable_whatever_guests_say() -> None:
    group = OutcomeGroup((outcome("a", b"\x1b[2Jhi\nthere\n\xff"), outcome("b")))
    assert row_of(group, 90).isprintable()
    assert "hi ⏎ there" in row_of(group, 90)
    assert all(line.isprintable() for line in report_of(group).splitlines())
    error = ExecError(ErrorCode.EXEC_AGENT_TIMEOUT, "too slow")
    assert "EXEC_AGENT_TIMEOUT" in row_of(OutcomeGroup((outcome("a", code=None, error=error),)), 90)


async def test_equal_outputs_are_one_row_and_enter_shows_the_whole() -> None:
    async with stage("aa", "bb", "cc", size=(80, 24)) as s:
        s.world.answer = Answers({
            "aa": outcome("aa", b"Linux\nline two\n"), "bb": outcome("bb", b"Linux\nline two\n"),
            "cc": outcome("cc", b"broken\n", 3),
        })  # fmt: skip
        for view in s.app.roster.live():
            view.marked = True
        await s.press("E")
        await opened(s, "one command in 3 sandboxes")
        await s.type("uname -a\n")
        await opened(s, "3 of 3 · 2 different · 1 failed")
        lines = s.text().splitlines()
        assert any("2  0" in line and "aa, bb" in line and "Linux" in line for line in lines)
        assert any("1  3" in line and "cc" in line and "broken" in line for line in lines)
        await s.press("down", "enter")
        await opened(s, "line two")
        await opened(s, "exit code 0")
        await s.press("escape")
        await s.until(lambda: isinstance(s.app.screen, RunScreen))
        await s.press("up", "escape")
        await closed(s)
        await s.press("slash")
        await s.type("each uname -r\n")
        await opened(s, "3 of 3")


def related(s: Stage, name: str, root: str) -> None:
    """Make a sandbox of the stage a fork of another."""
    first = sandbox(s.world, root)
    line = Ancestor(pid=first.pid, started_at=first.entry.started_at, left_at=1, name=root)
    s.world.set_entry(sandbox(s.world, name), ancestry=(line,))


async def test_a_promotion_says_what_will_happen_and_does_it_after_a_yes() -> None:
    async with stage("web", "web-2", "web-3", "db") as s:
        for name in ("web-2", "web-3"):
            related(s, name, "web")
        await s.until(lambda: all(v.entry.ancestry for v in s.app.roster.live()
                                  if v.name in ("web-2", "web-3")))  # fmt: skip
        s.app.select(next(v.key for v in s.app.roster.live() if v.name == "web-2"))
        await s.press("M")
        await opened(s, "promote web-2?")
        text = s.text()
        for line in ("web is kept as a snapshot and ends", "web-3 is kept as a snapshot and ends",
                     "web-2 is called web from then on"):  # fmt: skip
            assert line in text
        await s.press("n")
        await closed(s)
        assert len(s.world.sandboxes) == 4
        await s.press("M")
        await opened(s, "promote web-2?")
        await s.press("y")
        await s.until(lambda: {e.name for e in s.world.sandboxes.values()} == {"web", "db"})
        await s.until(lambda: len(s.app.roster.snapshots) == 2)
        assert {v.name for v in s.app.roster.shown()} == {"web", "db"}


async def test_a_promotion_that_fails_says_why_and_loners_are_told() -> None:
    async with stage("web", "web-2", "db") as s:
        related(s, "web-2", "web")
        await s.until(lambda: any(v.entry.ancestry for v in s.app.roster.live()))
        s.app.select(next(v.key for v in s.app.roster.live() if v.name == "db"))
        await s.press("M")
        await s.until(lambda: any("no relatives" in text for text in s.notices()))
        s.world.fail_next = SnapshotError(ErrorCode.SNAPSHOT_TIMEOUT, "web could not be kept")
        s.app.select(next(v.key for v in s.app.roster.live() if v.name == "web-2"))
        await s.press("M")
        await opened(s, "promote web-2?")
        await s.press("y")
        await s.until(lambda: any("SNAPSHOT_TIMEOUT" in text for text in s.notices()))
        assert len(s.world.sandboxes) == 3
