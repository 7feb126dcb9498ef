"""Attached mode and what flows through the panes: keys, pastes, the mouse, floods, sizes."""

from __future__ import annotations

import pytest
from textual import events

from machinen_tui.widgets.status_line import StatusLine
from tests.tui.stage import sandbox, stage
from vmm.requests import StateEvent


async def test_enter_attaches_and_every_key_goes_to_the_guest_until_the_escape_key_twice() -> None:
    async with stage("a") as s:
        await s.press("enter")
        assert s.app.attachment.key is not None
        await s.type("echo $((6*7))\n")
        await s.until(lambda: "\n42" in s.screen_of("a"))
        await s.press("q", "ctrl+q", "ctrl+p", "tab", "escape", "ctrl+c")
        await s.until(
            lambda: sandbox(s.world, "a").terminal.bytes_typed.endswith(b"q\x11\x10\t\x1b\x03")
        )
        assert s.app.is_running
        await s.press("ctrl+right_square_bracket", "ctrl+right_square_bracket")
        await s.until(lambda: s.app.attachment.key is None)
        assert b"\x1d" not in sandbox(s.world, "a").terminal.bytes_typed


async def test_a_lone_escape_key_reaches_the_guest_late_or_with_the_next_key() -> None:
    async with stage("a") as s:
        terminal = sandbox(s.world, "a").terminal
        await s.press("enter", "ctrl+right_square_bracket")
        await s.until(lambda: terminal.bytes_typed.endswith(b"\x1d"))
        await s.press("ctrl+right_square_bracket", "z")
        await s.until(lambda: terminal.bytes_typed.endswith(b"\x1d\x1dz"))
        assert s.app.attachment.key is not None


async def test_two_escape_keys_too_far_apart_say_what_would_have_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("machinen_tui.attachment.SLOW_PAIR_S", 600)  # the host may be slower
    async with stage("a") as s:
        terminal = sandbox(s.world, "a").terminal
        await s.press("enter", "ctrl+right_square_bracket")
        await s.until(lambda: terminal.bytes_typed == b"\x1d")
        await s.press("x", "ctrl+right_square_bracket")
        await s.until(lambda: terminal.bytes_typed == b"\x1dx\x1d")
        said = "Ctrl-] twice within 0.3 s leaves a"
        assert said not in s.text()
        await s.press("ctrl+right_square_bracket")
        await s.until(lambda: said in s.text())
        assert s.app.attachment.key is not None


async def test_typing_on_when_a_sandbox_ends_does_not_become_commands() -> None:
    async with stage("a", "b") as s:
        await s.press("enter")
        await s.type("exit 3\n")
        await s.until(lambda: sandbox(s.world, "a").terminal.exit_code == 3)
        s.world.end(sandbox(s.world, "a"))
        await s.until(lambda: "exited 3" in s.text())
        await s.type("qxs")
        assert s.app.is_running
        assert len(s.app.screen_stack) == 1
        await s.press("enter")
        assert s.app.attachment.key is None


async def test_marks_and_typing_into_all_marked() -> None:
    async with stage("a", "b", "c") as s:
        await s.press("b")
        assert any("mark" in notice for notice in s.notices())
        await s.press("space", "down", "space", "b")
        await s.until(lambda: "TO ALL MARKED" in s.text() and "typing into a, b" in s.text())
        await s.type("echo all\n")
        await s.until(lambda: "\nall" in s.screen_of("a") and "\nall" in s.screen_of("b"))
        assert "all" not in s.screen_of("c")


async def test_resizing_the_window_resizes_the_guests_terminal() -> None:
    async with stage("a") as s:
        terminal = sandbox(s.world, "a").terminal
        await s.until(lambda: terminal.size == (82, 36))
        await s.pilot.resize_terminal(80, 24)
        await s.until(lambda: terminal.size == (50, 20))
        await s.until(lambda: s.pane("a").model.columns == 50)  # pyright: ignore


async def test_a_pane_that_hears_of_no_resize_tells_its_size_all_the_same() -> None:
    """Whoever asks the compositor for a layout first keeps Textual from telling of it."""
    async with stage("one", "two") as s:
        terminal, pane = sandbox(s.world, "one").terminal, s.pane("one")
        assert pane is not None
        await s.until(lambda: terminal.size == tuple(pane.size))
        before = terminal.size
        s.app.grid.zoomed = True
        s.app.grid.show_workspace()
        s.app.grid.refresh(layout=True)
        screen = s.app.screen
        screen._compositor.reflow(screen, screen.size)  # pyright: ignore[reportPrivateUsage]
        await s.until(lambda: terminal.size == tuple(pane.size) != before)


async def test_the_keys_of_one_pane_work_while_another_floods() -> None:
    async with stage("a", "b") as s:
        sandbox(s.world, "a").terminal.type(b"yes\n")
        await s.until(lambda: s.screen_of("a").count("y\n") > 5)
        await s.press("down", "enter")
        for number in range(5):  # the flood has no end: an echo that waits for it never comes
            await s.type(f"echo n{number}")
            await s.press("enter")
            await s.until(lambda n=number: f"\nn{n}" in s.screen_of("b"))
        pane = s.pane("a")
        assert pane is not None
        assert pane.view.session is not None
        assert pane.view.session._unparsed_bytes <= 2 * 256 * 1024  # pyright: ignore


async def test_an_idle_application_parses_and_draws_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with stage("a", "b") as s:
        looks: list[bool] = []

        def changed() -> bool:
            looks.append(False)
            return False

        monkeypatch.setattr(s.world, "changed", changed)
        await s.until(lambda: len(looks) > 1)  # it looks for changes once a second
        before = s.app.feed.drain.turns
        await s.until(lambda: len(looks) > 3)
        assert s.app.feed.drain.turns == before


async def test_scrollback_while_attached_and_back_to_now_with_a_key() -> None:
    async with stage("a") as s:
        await s.press("enter")
        await s.type("seq 1 200\n")
        await s.until(lambda: "\n200" in s.screen_of("a"))
        await s.press("shift+pageup", "shift+pageup")
        pane = s.pane("a")
        assert pane is not None
        assert pane.back > 20
        await s.until(lambda: "rows back" in s.text())
        await s.press("enter")
        assert pane.back == 0


async def test_a_paste_goes_to_the_guest_in_brackets_if_it_wants_them() -> None:
    async with stage("a") as s:
        terminal = sandbox(s.world, "a").terminal
        await s.press("enter")
        s.app.post_message(events.Paste("two\nlines"))
        await s.until(lambda: terminal.bytes_typed.endswith(b"two\rlines"))
        terminal.say(b"\x1b[?2004h")
        await s.until(lambda: s.pane("a").model.terminal.has_mode(2004))  # pyright: ignore
        s.app.post_message(events.Paste("x\x1b[201~y"))
        await s.until(lambda: terminal.bytes_typed.endswith(b"\x1b[200~x[201~y\x1b[201~"))


async def test_what_nobody_foresaw_becomes_a_message() -> None:
    async with stage("a") as s:

        async def fail() -> None:
            raise RuntimeError("unforeseen")

        s.app.start_task(fail, "fails")
        await s.until(lambda: any("RuntimeError: unforeseen" in n for n in s.notices()))
        assert s.app.is_running


async def test_the_mouse_is_forwarded_to_a_guest_that_asked_for_it() -> None:
    async with stage("a") as s:
        terminal = sandbox(s.world, "a").terminal
        terminal.say(b"\x1b[?1000h\x1b[?1006h")
        pane = s.pane("a")
        assert pane is not None
        await s.until(lambda: pane.model is not None and pane.model.terminal.mouse_mode == 1000)
        await s.press("enter")
        await s.pilot.click(pane, offset=(5, 3))
        await s.until(lambda: b"\x1b[<0;5;3M\x1b[<0;5;3m" in terminal.bytes_typed)


async def test_clicks_select_then_attach_and_the_wheel_scrolls() -> None:
    async with stage("a", "b") as s:
        pane = s.pane("b")
        assert pane is not None
        await s.pilot.click(pane)
        assert s.app.list.selected == pane.view.key
        await s.pilot.click(pane)
        assert s.app.attachment.key == pane.view.key


async def test_a_double_click_types_into_a_pane_and_selects_no_word() -> None:
    async with stage("a", "b") as s:
        pane = s.pane("b")
        assert pane is not None
        for times in (2, 3):  # the first comes to a pane that is not selected
            await s.pilot.click(pane, offset=(2, 1), times=times)
            await s.until(lambda: s.app.attachment.key == pane.view.key)
            assert (s.app.clipboard, pane.marks.selected) == ("", None)  # it took no word
            await s.press("ctrl+right_square_bracket", "ctrl+right_square_bracket")
            await s.until(lambda: s.app.mode == "navigate")
        await s.pilot.double_click(pane, offset=(8, 1))
        await s.until(lambda: s.app.attachment.key == pane.view.key)
        await s.pilot.double_click(pane, offset=(1, 1))  # while typing it takes the word
        await s.until(lambda: s.app.clipboard == "#")
        await s.press("ctrl+right_square_bracket", "ctrl+right_square_bracket")


@pytest.mark.parametrize("name", ["a", "b"])  # above a title is the window's edge, or a border
async def test_a_double_click_on_a_title_zooms_the_pane_and_back(name: str) -> None:
    async with stage("a", "b") as s:
        pane = s.pane(name)
        assert pane is not None
        await s.until(lambda: pane.region.height == s.app.grid.region.height // 2)
        for zoomed in (True, False):
            await s.pilot.double_click(offset=(pane.region.x + 4, pane.region.y))
            await s.until(lambda wanted=zoomed: s.app.grid.zoomed == wanted)
            await s.until(lambda: s.app.attachment.key == pane.view.key)
            assert s.app.clipboard == ""


async def test_a_terminal_that_another_client_made_taller_shows_the_rows_at_the_cursor() -> None:
    async with stage("a", size=(80, 24)) as s:
        terminal = sandbox(s.world, "a").terminal
        await s.until(lambda: terminal.size == (50, 20))
        terminal.resize(90, 50)
        terminal.type(b"seq 1 60\n")
        await s.until(lambda: "\n60" in s.screen_of("a"))
        await s.until(lambda: "60" in s.text() and "41" not in s.text())


async def test_a_lost_connection_is_made_again() -> None:
    async with stage("a") as s:
        terminal = sandbox(s.world, "a").terminal
        for client in list(terminal.clients):
            client.close()
        await s.until(lambda: len(terminal.clients) == 1 and not s.app.watcher.disconnected())
        await s.press("enter")
        await s.type("echo again\n")
        await s.until(lambda: "\nagain" in s.screen_of("a"))


async def test_a_state_event_shows_at_once() -> None:
    async with stage("a") as s:
        sandbox(s.world, "a").tell(StateEvent(state="snapshotting"))
        await s.until(lambda: "snapshotti" in s.text())
        assert s.app.query_one(StatusLine).size.height == 1


async def test_attaching_from_the_palette_gives_the_keys_to_the_guest() -> None:
    async with stage("a") as s:
        await s.press("ctrl+p")
        await s.until(lambda: len(s.app.screen_stack) > 1)
        await s.type("attach")
        await s.until(lambda: "type into a sandbox" in s.text())
        await s.press("enter")
        await s.until(lambda: len(s.app.screen_stack) == 1 and s.app.attachment.key is not None)
        await s.type("echo here\n")
        await s.until(lambda: "\nhere" in s.screen_of("a"))


async def test_a_session_that_is_not_there_yet_is_tried_again_without_a_word() -> None:
    async with stage() as s:
        s.world.add("late").terminal.refusals = 2
        await s.until(lambda: "#" in s.screen_of("late"))
        assert s.notices() == []


async def test_the_title_a_guest_sets_stands_in_the_frame() -> None:
    async with stage("a") as s:
        sandbox(s.world, "a").terminal.say(b"\x1b]2;editing [b]notes[/b]\x07")
        await s.until(lambda: "a · editing [b]notes[/b]" in s.text())


async def test_who_lets_go_of_a_pane_while_the_application_ends_meets_nothing() -> None:
    async with stage("a") as s:
        await s.press("enter")
        await s.until(lambda: s.app.attachment.key is not None)
        await s.app.screen.query("#sidebar, StatusLine").remove()  # as its end does
        s.app.attachment.leave()
        assert s.app.attachment.key is None
        s.app.say("said to nobody")
        s.app.progress_changed()
    s.app.say("said when it was left")
    s.app.say("the same of what went wrong", "error")
