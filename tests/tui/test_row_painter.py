"""Rows of panes on the screen at once: what is painted is what Textual would paint, and only what
changed; what lies below a dialog is left alone."""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false
from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from rich.console import RenderableType
from textual.screen import Screen

from machinen_tui.app import MachinenApp
from machinen_tui.row_painter import RowsUpdate
from machinen_tui.terminal_model import TerminalModel
from tests.tui.stage import sandbox, stage

CONTENT = (37, 1)
"""Where the content of the only pane begins: right of the list, below its border."""


@contextmanager
def painted(app: MachinenApp) -> Generator[list[str]]:
    """What is painted past Textual, update by update."""
    updates: list[str] = []
    display = app._display

    def watch(screen: Screen[object], renderable: RenderableType | None) -> None:
        if isinstance(renderable, RowsUpdate):
            updates.append(renderable.render_segments(app.console))
        display(screen, renderable)

    app._display = watch
    try:
        yield updates
    finally:
        app._display = display


def rows_of(updates: list[str], columns: int = 120, lines: int = 40) -> list[str]:
    """What a terminal shows after them."""
    model = TerminalModel(columns, lines)
    model.feed("".join(updates).encode())
    return [model.text(y) for y in range(lines)]


async def test_a_changed_row_is_painted_in_its_place_and_no_other() -> None:
    async with stage("a") as s:
        with painted(s.app) as updates:
            sandbox(s.world, "a").terminal.say(b"\x1b[5;3H\x1b[31mred \xe6\xbc\xa2\x1b[0m")
            await s.until(lambda: "red 漢" in "".join(rows_of(updates)))
        rows = rows_of(updates)
        x, y = CONTENT
        assert rows[y + 4][x:].rstrip() == "  red 漢"
        assert s.text().splitlines()[y + 4][x:].startswith("  red 漢")  # as Textual has it
        assert {at for at, row in enumerate(rows) if row[x:].strip()} <= {y, y + 4}


async def test_a_row_that_looks_as_before_is_not_painted_again() -> None:
    async with stage("a") as s:
        terminal = sandbox(s.world, "a").terminal
        terminal.say(b"\x1b[2J\x1b[5;3Hsame\x1b[9;1H")
        await s.until(lambda: "same" in s.text())
        with painted(s.app) as updates:
            terminal.say(b"\x1b[5;3Hsame\x1b[9;1Hother")
            await s.until(lambda: "other" in "".join(updates))
        assert "same" not in "".join(updates)


async def test_below_a_dialog_nothing_is_painted_past_textual() -> None:
    async with stage("a") as s:
        await s.press("?")
        await s.until(lambda: len(s.app.screen_stack) > 1)
        with painted(s.app) as updates:
            sandbox(s.world, "a").terminal.say(b"\x1b[3;1Hhidden words")
            await s.until(lambda: "hidden words" in s.screen_of("a"))
            assert updates == []
        await s.press("escape")
        await s.until(lambda: "hidden words" in s.text())


async def test_a_message_over_a_pane_is_not_painted_over() -> None:
    async with stage("a") as s:
        s.app.say("something is wrong here", "warning", seconds=60)
        await s.until(lambda: "something is wrong" in s.text())
        with painted(s.app) as updates:
            sandbox(s.world, "a").terminal.say(b"\r\n" * 100 + b"x" * 4000)
            await s.until(lambda: "xxxx" in s.text())
        assert "xxxx" not in "".join(updates)  # the list may have painted rows of its own
        assert "something is wrong" in s.text()
