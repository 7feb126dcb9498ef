"""What the modes a guest sets change of its pane: when it is drawn, how keys and focus are told."""

from __future__ import annotations

import pytest

from machinen_tui.widgets import terminal_pane
from tests.tui.stage import Stage, sandbox, stage


def says(s: Stage, data: bytes) -> None:
    sandbox(s.world, "a").terminal.say(data)


def typed(s: Stage) -> bytes:
    return sandbox(s.world, "a").terminal.bytes_typed


async def asks(s: Stage, modes: bytes) -> None:
    """The guest sets modes; returns when its terminal has them."""
    says(s, modes + b"\x1b[H\x1b[2J" + repr(modes).encode())
    await s.until(lambda: repr(modes) in s.screen_of("a"))


async def test_a_synchronised_update_is_drawn_when_it_is_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(terminal_pane, "SYNCHRONIZED_LIMIT_S", 3600)
    async with stage("a") as s:
        says(s, b"\x1b[H\x1b[2Jbefore")
        await s.until(lambda: "before" in s.text())
        says(s, b"\x1b[?2026h\x1b[H\x1b[2Jfirst half")
        await s.until(lambda: "first half" in s.screen_of("a"))
        await s.pilot.pause()
        assert "first half" not in s.text()
        assert "before" in s.text()
        says(s, b" and the second\x1b[?2026l")
        await s.until(lambda: "first half and the second" in s.text())
        assert "before" not in s.text()


async def test_an_update_that_never_ends_is_drawn_all_the_same() -> None:
    async with stage("a") as s:
        says(s, b"\x1b[?2026h\x1b[H\x1b[2Jnever ended")
        await s.until(lambda: "never ended" in s.text())


async def test_keys_are_told_as_the_guest_asked() -> None:
    async with stage("a") as s:
        await s.press("enter")
        await s.until(lambda: s.app.mode == "attached")
        for asked, key, told in (
            (b"\x1b[?1h", "up", b"\x1bOA"), (b"\x1b[?1l", "up", b"\x1b[A"),
            (b"\x1b[>1u", "escape", b"\x1b[27u"), (b"\x1b[>9u", "b", b"\x1b[98u"),
            (b"\x1b[<2u", "b", b"b"), (b"\x1b[>4;2m", "ctrl+b", b"\x1b[27;5;98~"),
            (b"\x1b[>4m", "ctrl+b", b"\x02"),
        ):  # fmt: skip
            await asks(s, asked)
            before = len(typed(s))
            await s.press(key)
            await s.until(lambda at=before: len(typed(s)) > at, f"for {key} after {asked!r}")
            assert typed(s)[before:] == told, asked


async def test_focus_is_told_only_to_those_who_asked() -> None:
    async with stage("a") as s:
        before = len(typed(s))
        for asked, told in ((b"\x1b[?1004l", b""), (b"\x1b[?1004h", b"\x1b[I\x1b[O")):
            await asks(s, asked)
            await s.press("enter")
            await s.until(lambda: s.app.mode == "attached")
            await s.press("ctrl+right_square_bracket", "ctrl+right_square_bracket")
            await s.until(lambda: s.app.mode != "attached")
            await s.until(lambda it=told: typed(s)[before:] == it)
