"""Who wants attention, and what may be typed where."""

from __future__ import annotations

import pytest
from textual import events

from machinen_runtime.registry_entry import RegistryEntry
from machinen_tui import attention
from machinen_tui.config import Config
from machinen_tui.cursor_line import line_before_cursor
from machinen_tui.roster import SandboxView
from machinen_tui.terminal_model import TerminalModel
from tests.tui.stage import Stage, sandbox, stage


def view(name: str) -> SandboxView:
    return SandboxView.from_entry(RegistryEntry(pid=1, socket_path="", started_at=1, name=name))


def three() -> list[SandboxView]:
    views = [view(name) for name in "abc"]
    for each in views:
        each.key = each.name
    return views


@pytest.mark.parametrize(
    "line",
    ["# ", "root@box:~# ", "user@h:/srv$ ", "[a@b ~]$", ">>> ", "Password: ", "Continue? [y/N] ",
     "really (yes/no)?", "\u276f ", "In [3]: ", "Press ENTER to continue"],
)  # fmt: skip
def test_lines_that_wait_for_somebody(line: str) -> None:
    assert attention.is_prompt(line)


@pytest.mark.parametrize(
    "line", ["", "compiling foo.c", "[####    ] 40 %", "12:30 done.", "loading..."]
)
def test_lines_that_do_not(line: str) -> None:
    assert not attention.is_prompt(line)


def test_only_what_stands_right_before_the_cursor_is_a_prompt() -> None:
    model = TerminalModel(40, 5)
    model.feed(b"make\r\nContinue? ")
    assert attention.is_prompt(line_before_cursor(model))
    model.feed(b"\x1b[5D")
    assert line_before_cursor(model) == ""
    model.feed(b"\x1b[?1049h# ")
    assert line_before_cursor(model) == ""


def test_a_prompt_wants_attention_once_nothing_follows_it_and_until_it_was_seen() -> None:
    a = view("a")
    attention.spoke(a, 10.0, rang=False, shown=True)
    attention.check(a, 11.0, lambda: "# ")
    assert attention.why(a) == ""
    attention.check(a, 12.0, lambda: "# ")
    assert attention.why(a) == "waits"
    attention.spoke(a, 12.5, rang=False, shown=True)
    attention.check(a, 13.0, lambda: "output")
    assert attention.why(a) == ""
    attention.check(a, 15.0, lambda: "# ")
    attention.looked_at(a)
    attention.check(a, 30.0, lambda: "# ")
    assert attention.why(a) == ""


def test_silence_is_told_only_if_asked_for() -> None:
    a = view("a")
    attention.spoke(a, 10.0, rang=False, shown=True)
    attention.check(a, 100.0, lambda: "building")
    assert attention.why(a) == ""
    a.news.silence_s = 20
    attention.check(a, 29.0, lambda: "building")
    assert attention.why(a) == ""
    attention.check(a, 31.0, lambda: "building")
    assert attention.why(a) == "silent"


def test_an_end_is_told_once() -> None:
    a = view("a")
    a.gone = True
    attention.check(a, 1.0, lambda: "")
    assert attention.why(a) == "ended"
    attention.looked_at(a)
    attention.check(a, 2.0, lambda: "")
    assert attention.why(a) == ""


def test_one_that_waits_for_room_on_the_disk_is_the_most_urgent_until_it_was_seen() -> None:
    stuck, rang, _ = three()
    attention.spoke(rang, 0, rang=True, shown=True)
    attention.entered(stuck, "disk-full")
    assert attention.why(stuck) == "stuck"
    assert attention.next_wanting([stuck, rang], None) is stuck
    attention.looked_at(stuck)
    assert attention.why(stuck) == ""
    attention.entered(stuck, "running")
    attention.entered(stuck, "disk-full")
    assert attention.why(stuck) == "stuck"
    attention.entered(stuck, "running")
    assert attention.why(stuck) == ""


def test_the_most_urgent_comes_first_and_equals_in_turn() -> None:
    a, b, c = three()
    a.unseen_output = c.unseen_output = True
    assert attention.next_wanting([a, b, c], "b") is c
    assert attention.next_wanting([a, b, c], "c") is a
    b.bell = True
    assert attention.next_wanting([a, b, c], "c") is b
    a.news.ended = True
    assert attention.next_wanting([a, b, c], "c") is a
    for each in (a, b, c):
        attention.looked_at(each)
    assert attention.next_wanting([a, b, c], None) is None


# -- in the application ---------------------------------------------------------------------------


def framed(s: Stage) -> list[str]:
    return [pane.view.name for pane in s.app.grid.shown_panes() if pane.has_class("-member")]


async def test_a_bell_beside_is_told_and_one_key_goes_there() -> None:
    async with stage("a", "b", "c") as s:
        sandbox(s.world, "c").terminal.say(b"\a")
        await s.until(lambda: "♪" in s.text())
        await s.press("a")
        await s.until(lambda: s.app.selected_view is not None and s.app.selected_view.name == "c")
        await s.until(lambda: "c rang" in s.text() and "♪" not in s.text())


async def test_a_prompt_and_an_end_beside_are_told() -> None:
    async with stage("a", "b") as s:
        sandbox(s.world, "b").terminal.say(b"\r\nProceed? [y/N] ")
        await s.until(lambda: s.pane("b").view.news.waits)  # pyright: ignore
        s.world.end(sandbox(s.world, "b"))
        await s.until(lambda: s.pane("b").view.news.ended)  # pyright: ignore


async def test_all_that_are_typed_into_are_framed_shown_and_let_go_after_a_while() -> None:
    async with stage("a", "b", "c") as s:
        s.app.habits.config = Config(broadcast_idle_s=5)
        await s.press("space", "down", "t", "space", "b")
        await s.until(lambda: sorted(framed(s)) == ["a", "b"])
        assert len(s.app.grid.shown_panes()) == 2
        s.app.attachment._end_idle()  # pyright: ignore[reportPrivateUsage]
        assert s.app.attachment.key is None
        await s.until(lambda: any("nothing was typed" in each for each in s.notices()))
        await s.until(lambda: framed(s) == [] and len(s.app.grid.shown_panes()) == 1)


async def test_the_time_without_a_key_ends_a_broadcast() -> None:
    async with stage("a") as s:
        s.app.habits.config = Config(broadcast_idle_s=1)
        await s.press("space", "b")  # it may be over before we look
        await s.until(lambda: any("into all marked is off" in each for each in s.notices()))
        assert s.app.attachment.key is None


async def test_a_read_only_sandbox_takes_no_key_also_not_with_others() -> None:
    async with stage("a", "b") as s:
        await s.press("space", "R", "enter")
        await s.type("x")
        await s.until(lambda: any("read-only" in each for each in s.notices()))
        await s.type("more")
        assert sum("read-only" in each for each in s.notices()) == 1  # not one for each key
        assert sandbox(s.world, "a").terminal.bytes_typed == b""
        await s.press("ctrl+right_square_bracket", "ctrl+right_square_bracket")
        await s.press("down", "space", "b")
        await s.type("y")
        await s.until(lambda: sandbox(s.world, "b").terminal.bytes_typed == b"y")
        assert sandbox(s.world, "a").terminal.bytes_typed == b""
        assert "\\[read-only] a" in str(s.pane("a").border_title) or "[read-only]" in s.text()  # pyright: ignore


async def test_a_locked_sandbox_gets_our_keys_and_three_escapes_leave() -> None:
    async with stage("a") as s:
        terminal = sandbox(s.world, "a").terminal
        escape = "ctrl+right_square_bracket"
        await s.press("ctrl+l", "enter", escape, escape, "q")
        await s.until(lambda: terminal.bytes_typed == b"\x1d\x1dq")
        await s.press("shift+pageup")
        await s.until(lambda: terminal.bytes_typed.endswith(b"\x1b[5;2~"))
        await s.press(escape, escape, escape)
        await s.until(lambda: s.app.attachment.key is None)


async def test_one_key_goes_to_the_guest_as_it_is() -> None:
    async with stage("a") as s:
        terminal = sandbox(s.world, "a").terminal
        await s.press("apostrophe", "x", "apostrophe", "ctrl+right_square_bracket")
        await s.until(lambda: terminal.bytes_typed == b"x\x1d")
        assert len(s.app.screen_stack) == 1
        assert s.app.attachment.key is None


async def test_a_title_of_ones_own_stands_in_the_frame() -> None:
    async with stage("a") as s:
        await s.press("slash")
        await s.type("title the [one]\n")
        await s.until(lambda: "a · the [one]" in s.text())


async def test_keys_for_all_are_as_each_guest_wants_them_and_the_mouse_stays_with_one() -> None:
    async with stage("a", "b") as s:
        one, other = (sandbox(s.world, name).terminal for name in "ab")
        other.say(b"\x1b[?1h\x1b[?2004h")
        one.say(b"\x1b[?1000h\x1b[?1006h")
        await s.until(lambda: s.pane("b").model.terminal.has_mode(2004))  # pyright: ignore
        await s.until(lambda: s.pane("a").model.terminal.mouse_mode == 1000)  # pyright: ignore
        await s.press("space", "down", "space", "up", "b", "up")
        s.app.post_message(events.Paste("x"))
        await s.until(lambda: other.bytes_typed == b"\x1bOA\x1b[200~x\x1b[201~")
        await s.until(lambda: one.bytes_typed == b"\x1b[Ax")
        await s.pilot.click(s.pane("a"), offset=(3, 3))
        await s.until(lambda: b"[<0;3;3m" in one.bytes_typed)
        assert b"<0" not in other.bytes_typed


async def test_who_types_last_decides_the_size_and_the_frame_says_if_it_was_another() -> None:
    async with stage("a") as s:
        terminal = sandbox(s.world, "a").terminal
        await s.until(lambda: terminal.size == (82, 36))
        terminal.resize(60, 20)
        await s.until(lambda: "60 x 20 by another client" in s.text())
        await s.press("enter")
        await s.until(lambda: terminal.size == (82, 36))
        await s.until(lambda: "another client" not in s.text())
