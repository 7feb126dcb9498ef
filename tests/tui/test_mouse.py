"""The mouse in a pane: whose it is, what it selects, pastes and scrolls."""

from __future__ import annotations

from pathlib import Path

import pytest
from textual import events

from machinen_tui.habits import Habits
from machinen_tui.widgets.dialogs import ConfirmDialog
from machinen_tui.widgets.terminal_pane import TerminalPane
from tests.tui.stage import Stage, sandbox, stage

GUEST_WANTS_IT = b"\x1b[?1002h\x1b[?1006h"


def pane_of(s: Stage, name: str = "a") -> TerminalPane:
    pane = s.pane(name)
    assert pane is not None
    return pane


def typed(s: Stage) -> bytes:
    return sandbox(s.world, "a").terminal.bytes_typed


async def shows(s: Stage, text: str, before: bytes = b"\x1b[H\x1b[2J") -> None:
    """The guest writes `text` on an empty screen."""
    sandbox(s.world, "a").terminal.say(before + text.replace("\n", "\r\n").encode())
    await s.until(lambda: text.split("\n")[-1] in s.text())


async def mouse(
    s: Stage, kind: type[events.MouseEvent], x: int, y: int, button: int = 1,
    *, shift: bool = False, meta: bool = False,
) -> None:  # fmt: skip
    """One event at a cell of the pane's content, which may lie outside of it."""
    left, top = pane_of(s).content_region.offset
    await s.mouse(kind, left + x, top + y, button, shift=shift, meta=meta)


async def drag(
    s: Stage, start: tuple[int, int], end: tuple[int, int],
    *, shift: bool = False, meta: bool = False,
) -> None:  # fmt: skip
    await mouse(s, events.MouseDown, *start, shift=shift, meta=meta)
    await mouse(s, events.MouseMove, *end, shift=shift, meta=meta)
    await mouse(s, events.MouseUp, *end, shift=shift, meta=meta)


async def type_into_it(s: Stage) -> None:
    await s.press("enter")
    await s.until(lambda: s.app.mode == "attached")


async def test_with_shift_a_drag_selects_though_the_guest_has_the_mouse() -> None:
    async with stage("a") as s:
        await shows(s, "alpha beta", GUEST_WANTS_IT + b"\x1b[H\x1b[2J")
        await type_into_it(s)
        await drag(s, (0, 0), (4, 0))
        assert typed(s).endswith(b"\x1b[<0;1;1M\x1b[<32;5;1M\x1b[<0;5;1m")
        assert s.app.clipboard == ""
        before = typed(s)
        await drag(s, (6, 0), (9, 0), shift=True)
        await s.until(lambda: s.app.clipboard == "beta")
        assert typed(s) == before


async def test_a_button_that_leaves_the_pane_stays_the_guests_until_it_is_up() -> None:
    async with stage("a", "b") as s:
        await shows(s, "text", GUEST_WANTS_IT + b"\x1b[H\x1b[2J")
        await type_into_it(s)
        width = pane_of(s).size.width
        await mouse(s, events.MouseDown, 3, 1)
        await mouse(s, events.MouseMove, width + 20, 2)
        await mouse(s, events.MouseUp, width + 20, 2)
        wanted = f"\x1b[<0;4;2M\x1b[<32;{width};3M\x1b[<0;{width};3m".encode()
        await s.until(lambda: typed(s).endswith(wanted))
        assert s.app.mouse_captured is None


async def test_with_alt_a_drag_selects_a_block() -> None:
    async with stage("a") as s:
        await shows(s, "one 11\ntwo 22\nend 33")
        await drag(s, (4, 0), (5, 2), meta=True)
        await s.until(lambda: s.app.clipboard == "11\n22\n33")


async def test_a_triple_click_takes_the_line_also_where_it_wrapped() -> None:
    async with stage("a") as s:
        line = "/".join(f"part{number}" for number in range(30))
        await shows(s, f"before\n{line}\nafter")
        await type_into_it(s)
        await s.pilot.triple_click(pane_of(s), offset=(3, 3))
        await s.until(lambda: s.app.clipboard == f"{line}\n")


async def test_the_wheel_is_the_guests_where_it_asked_or_has_the_whole_screen() -> None:
    async with stage("a") as s:
        await shows(s, "\n".join(f"line {number}" for number in range(100)))
        await type_into_it(s)
        await mouse(s, events.MouseScrollUp, 5, 5, 0)
        await s.until(lambda: pane_of(s).back == 3)
        await mouse(s, events.MouseScrollDown, 5, 5, 0)
        await s.until(lambda: pane_of(s).back == 0)
        await shows(s, "full", b"\x1b[?1049h\x1b[H")
        await mouse(s, events.MouseScrollUp, 5, 5, 0)
        await s.until(lambda: typed(s).endswith(b"\x1b[A" * 3))
        await shows(s, "asked", GUEST_WANTS_IT)
        await mouse(s, events.MouseScrollDown, 5, 6, 0)
        await s.until(lambda: typed(s).endswith(b"\x1b[<65;6;7M"))


async def test_with_shift_the_wheel_scrolls_back_and_then_the_mouse_is_ours() -> None:
    async with stage("a") as s:
        await shows(s, "\n".join(f"line {number}" for number in range(100)), GUEST_WANTS_IT)
        await type_into_it(s)
        before = typed(s)
        await mouse(s, events.MouseScrollUp, 5, 5, 0, shift=True)
        await s.until(lambda: pane_of(s).back == 3)
        await mouse(s, events.MouseScrollUp, 5, 5, 0)
        await s.until(lambda: pane_of(s).back == 6)
        await drag(s, (0, 0), (3, 0))
        await s.until(lambda: s.app.clipboard == "line")
        assert typed(s) == before


@pytest.fixture
def pastes(tmp_path: Path) -> Habits:
    (tmp_path / "tui.toml").write_text('[panes]\nmiddle_click = "paste"\n')
    return Habits(tmp_path)


async def test_the_middle_button_types_what_was_copied_here(pastes: Habits) -> None:
    async with stage("a", habits=pastes) as s:
        s.app.copy_to_clipboard("echo 1\necho 2\n")
        await mouse(s, events.MouseDown, 2, 1, 2)
        await mouse(s, events.MouseUp, 2, 1, 2)
        assert b"echo" not in typed(s)  # it has not the keys
        await type_into_it(s)
        await mouse(s, events.MouseDown, 2, 1, 2)
        await s.until(lambda: typed(s).endswith(b"echo 1\recho 2\r"))
        sandbox(s.world, "a").terminal.say(b"\x1b[?2004hbrackets")
        await s.until(lambda: pane_of(s).brackets_pastes)
        await mouse(s, events.MouseDown, 2, 1, 2)
        await s.until(lambda: typed(s).endswith(b"\x1b[200~echo 1\recho 2\r\x1b[201~"))


async def test_lines_a_shell_would_run_are_asked_about_first() -> None:
    async with stage("a") as s:
        await type_into_it(s)
        s.app.copy_to_clipboard("one word")
        await mouse(s, events.MouseDown, 2, 1, 2)
        await s.until(lambda: typed(s).endswith(b"one word"))
        s.app.copy_to_clipboard("first\nsecond")
        for key, pasted in (("n", False), ("y", True)):
            await mouse(s, events.MouseDown, 2, 1, 2)
            await s.until(lambda: isinstance(s.app.screen, ConfirmDialog))
            assert "would run each of these 2 lines" in s.text()
            await s.press(key)
            await s.until(lambda: len(s.app.screen_stack) == 1)
            assert typed(s).endswith(b"first\rsecond") is pasted
