"""The application with live terminals: every key, every screen, both modes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from textual import events
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from machinen_runtime.errors import BootError, ErrorCode
from machinen_tui.app import MachinenApp
from machinen_tui.runtime_gateway import NewSandbox
from machinen_tui.widgets.status_line import StatusLine
from machinen_tui.widgets.terminal_pane import TerminalPane
from tests.tui.fake_sandboxes import FakeSandbox, FakeWorld
from vmm.requests import StateEvent


class Stage:
    """A running application, the world behind it, and ways to look at both."""

    def __init__(self, app: MachinenApp, world: FakeWorld, pilot: Pilot[None]) -> None:
        self.app, self.world, self.pilot = app, world, pilot

    async def until(self, condition: Callable[[], object], what: str = "") -> None:
        """Let the application run until `condition` holds; fails after ten seconds."""
        deadline = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain {what}\n{self.text()}"
            await self.pilot.pause()
            await asyncio.sleep(0.01)

    def pane(self, name: str) -> TerminalPane | None:
        return next((p for p in self.app.grid.panes() if p.view.name == name), None)

    def screen_of(self, name: str) -> str:
        pane = self.pane(name)
        return pane.model.screen_text() if pane is not None and pane.model else ""

    def text(self) -> str:
        """The whole window as plain text."""
        strips = self.app.screen._compositor.render_strips()  # pyright: ignore[reportPrivateUsage]
        return "\n".join(strip.text for strip in strips)

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def type(self, text: str) -> None:
        await self.pilot.press(
            *("space" if c == " " else "enter" if c == "\n" else c for c in text)
        )

    def notices(self) -> list[str]:
        return [notice.message for notice in self.app._notifications]  # pyright: ignore[reportPrivateUsage]


@asynccontextmanager
async def stage(
    *names: str, size: tuple[int, int] = (120, 40), root: Path = Path("/nonexistent")
) -> AsyncGenerator[Stage]:
    world = FakeWorld(root)
    for name in names:
        world.add(name)
    app = MachinenApp(world)
    async with app.run_test(size=size) as pilot:
        playing = Stage(app, world, pilot)
        try:
            for name in names:
                await playing.until(
                    lambda n=name: "#" in playing.screen_of(n), f"for {name}'s prompt"
                )
            yield playing
        finally:
            world.close()


def sandbox(world: FakeWorld, name: str) -> FakeSandbox:
    return next(s for s in world.sandboxes.values() if s.name == name)


async def test_without_sandboxes_the_first_screen_says_what_to_press() -> None:
    async with stage() as s:
        await s.until(lambda: "boot a sandbox" in s.text())
        assert "q" in s.text()


async def test_sandboxes_appear_with_panes_and_vanish_calmly() -> None:
    async with stage("a") as s:
        s.world.add("b")
        await s.until(lambda: "#" in s.screen_of("b"))
        assert len(s.app.grid.shown_panes()) == 2
        s.world.end(sandbox(s.world, "b"))
        await s.until(lambda: "exited" in s.text())
        assert s.pane("b") is not None
        await s.press("down", "x")
        await s.until(lambda: s.pane("b") is None, "for the pane to go")


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


async def test_the_mode_is_unmistakable() -> None:
    async with stage("a") as s:
        assert "NAVIGATE" in s.text()
        await s.press("enter")
        await s.until(lambda: "ATTACHED" in s.text() and "┏" in s.text())


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


async def test_a_fork_opens_on_the_screen_of_its_source_and_goes_its_own_way() -> None:
    async with stage("a") as s:
        await s.press("enter")
        await s.type("echo $((6*7))\n")
        await s.until(lambda: "\n42" in s.screen_of("a"))
        await s.press("ctrl+right_square_bracket", "ctrl+right_square_bracket", "f")
        await s.until(lambda: "\n42" in s.screen_of("a-fork"), "for the fork")
        await s.until(
            lambda: s.app.selected_view is not None and s.app.selected_view.name == "a-fork"
        )
        before = s.screen_of("a")
        await s.press("enter")
        await s.type("echo apart\n")
        await s.until(lambda: "\napart" in s.screen_of("a-fork"))
        assert s.screen_of("a") == before
        assert "└ ● a-fork" in s.text()


async def test_several_forks_through_the_dialog() -> None:
    async with stage("a") as s:
        await s.press("F")
        field = s.app.screen.query_one("#count", Input)
        field.value = "99"
        await s.press("enter")
        assert "1 to 64" in s.text()
        field.value = "3"
        await s.press("enter")
        await s.until(lambda: len(s.app.grid.shown_panes()) == 4)
        assert {view.name for view in s.app.roster.live()} >= {"a-fork-1", "a-fork-2", "a-fork-3"}


async def test_snapshot_becomes_a_node_and_restores(tmp_path: Path) -> None:
    async with stage("a", root=tmp_path) as s:
        await s.press("s")
        await s.until(lambda: "◆ snapshot" in s.text())
        await s.press("r")
        await s.until(lambda: bool(s.app.screen.query(OptionList)))
        await s.press("enter")
        await s.until(lambda: "#" in s.screen_of("a-restored"))
        await s.press("up")
        assert s.app.selected_node is not None
        assert s.app.selected_node.snapshot is not None
        await s.press("enter")
        await s.until(lambda: len(s.app.roster.live()) == 3)


async def test_stop_asks_first() -> None:
    async with stage("a") as s:
        await s.press("x", "n")
        assert s.world.sandboxes
        await s.press("x")
        await s.until(lambda: "powers off" in s.text())
        await s.press("y")
        await s.until(lambda: not s.world.sandboxes)
        await s.until(lambda: s.pane("a") is None, "for the pane of what we stopped to go")


async def test_pause_and_resume_show_in_list_and_hints() -> None:
    async with stage("a") as s:
        await s.press("p")
        await s.until(lambda: "paused" in s.text() and "resume" in s.text())
        await s.press("p")
        await s.until(
            lambda: s.app.selected_view is not None and s.app.selected_view.state == "running"
        )


async def test_an_error_shows_its_code_and_sentence_and_leaves_the_rest_running() -> None:
    async with stage("a") as s:
        s.world.fail_next = BootError(
            ErrorCode.FORK_MEMORY_BACKPRESSURE, "too little memory is free"
        )
        await s.press("f")
        await s.until(lambda: any("FORK_MEMORY_BACKPRESSURE: too little" in n for n in s.notices()))
        assert not s.app.operations.running


async def test_an_operation_under_way_shows_progress_and_never_blocks_typing() -> None:
    async with stage("a") as s:
        s.world.slow = anyio.Event()
        await s.press("f")
        await s.until(lambda: "forking a" in s.text())
        await s.press("enter")
        await s.type("echo free\n")
        await s.until(lambda: "\nfree" in s.screen_of("a"))
        s.world.slow.set()
        await s.until(lambda: s.pane("a-fork") is not None)


async def test_new_through_the_dialog_and_bad_input_is_explained() -> None:
    async with stage() as s:
        await s.press("n")
        await s.until(lambda: bool(s.app.screen.query("#memory")))
        s.app.screen.query_one("#memory", Input).value = "much"
        await s.press("enter")
        assert "number of MiB" in s.text()
        s.app.screen.query_one("#memory", Input).value = ""
        s.app.screen.query_one("#name", Input).value = "fresh"
        await s.press("enter")
        await s.until(lambda: "#" in s.screen_of("fresh"))


async def test_zoom_and_tabs() -> None:
    async with stage("a", "b") as s:
        await s.press("z")
        await s.until(lambda: len(s.app.grid.shown_panes()) == 1)
        assert s.app.grid.shown_panes()[0].size.width > 110
        await s.press("tab")
        await s.until(lambda: s.app.grid.shown_panes()[0].view.name == "b")
        await s.press("z", "g")
        await s.until(
            lambda: "● a" in s.text().splitlines()[0] and "● b" in s.text().splitlines()[0]
        )
        await s.press("g")
        await s.until(lambda: len(s.app.grid.shown_panes()) == 2)


async def test_marks_and_typing_into_all_marked() -> None:
    async with stage("a", "b", "c") as s:
        await s.press("b")
        assert any("mark" in notice for notice in s.notices())
        await s.press("space", "down", "space", "b")
        await s.until(lambda: "TO ALL MARKED" in s.text() and "typing into a, b" in s.text())
        await s.type("echo all\n")
        await s.until(lambda: "\nall" in s.screen_of("a") and "\nall" in s.screen_of("b"))
        assert "all" not in s.screen_of("c")


async def test_the_command_line_completes_and_runs() -> None:
    async with stage("alpha", "beta") as s:
        await s.press("slash")
        await s.until(lambda: bool(s.app.query("#command-input")))
        await s.type("att")
        await s.press("tab")
        field = s.app.query_one("#command-input", Input)
        await s.until(lambda: field.value == "/attach ")
        await s.type("be")
        await s.press("tab")
        await s.until(lambda: field.value.startswith("/attach beta"))
        await s.press("enter")
        await s.until(lambda: s.app.attachment.key is not None)
        pane = s.pane("beta")
        assert pane is not None
        assert pane.attached


async def test_an_unknown_command_and_an_unknown_name_are_explained() -> None:
    async with stage("a") as s:
        await s.press("slash")
        await s.type("nonsense\n")
        await s.until(lambda: any("no command is named nonsense" in n for n in s.notices()))
        await s.press("slash")
        await s.type("stop nobody\n")
        await s.until(lambda: any("no sandbox is named nobody" in n for n in s.notices()))


async def test_help_lists_keys_and_commands() -> None:
    async with stage() as s:
        await s.press("question_mark")
        await s.until(lambda: "Ctrl-] Ctrl-]" in s.text() and "/restore" in s.text())
        await s.press("escape")
        await s.until(lambda: len(s.app.screen_stack) == 1)


async def test_quitting_leaves_sandboxes_running_and_says_so() -> None:
    async with stage("a") as s:
        await s.press("q")
        await s.until(lambda: not s.app.is_running)
        assert s.world.sandboxes


async def test_quitting_lets_what_is_under_way_finish_unless_asked_twice() -> None:
    async with stage("a") as s:
        s.world.slow = anyio.Event()
        await s.press("f", "q")
        await s.until(lambda: any("leaving after: forking a" in n for n in s.notices()))
        assert s.app.is_running
        s.world.slow.set()
        await s.until(lambda: not s.app.is_running)
        assert len(s.world.sandboxes) == 2
    async with stage("a") as s:
        s.world.slow = anyio.Event()
        await s.press("f", "q", "q")
        await s.until(lambda: not s.app.is_running)


async def test_a_demo_boots_what_is_not_there_yet() -> None:
    world = FakeWorld()
    world.add("shell")
    app = MachinenApp(world, [NewSandbox(name="shell"), NewSandbox(name="other")])
    async with app.run_test() as pilot:
        playing = Stage(app, world, pilot)
        await playing.until(lambda: "#" in playing.screen_of("other"))
        assert [sandbox.name for sandbox in world.sandboxes.values()] == ["shell", "other"]
        world.close()


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (60, 15)])
async def test_nothing_is_clipped(size: tuple[int, int]) -> None:
    async with stage("counter", "shell", size=size) as s:
        sandbox(s.world, "counter").sample()
        await s.until(lambda: "12%" in s.text())
        lines = s.text().splitlines()
        assert all(len(line) <= size[0] for line in lines)
        assert lines[-2].startswith(" NAVIGATE")
        assert "q quit" in lines[-1] or size[0] < 80
        assert "counter" in s.text()
        assert "136M/512M" in s.text()


async def test_a_window_that_is_too_small_says_so() -> None:
    async with stage("a", size=(50, 12)) as s:
        await s.until(lambda: "60 x 15" in s.text())


async def test_resizing_the_window_resizes_the_guests_terminal() -> None:
    async with stage("a") as s:
        terminal = sandbox(s.world, "a").terminal
        await s.until(lambda: terminal.size == (82, 36))
        await s.pilot.resize_terminal(80, 24)
        await s.until(lambda: terminal.size == (50, 20))
        await s.until(lambda: s.pane("a").model.columns == 50)  # pyright: ignore


async def test_a_flood_in_one_pane_does_not_delay_the_keys_of_another() -> None:
    async with stage("a", "b") as s:
        sandbox(s.world, "a").terminal.type(b"yes\n")
        await s.until(lambda: s.screen_of("a").count("y\n") > 5)
        await s.press("down", "enter")
        slowest = 0.0
        for number in range(5):
            await s.type(f"echo n{number}")
            started = time.monotonic()
            await s.press("enter")
            await s.until(lambda n=number: f"\nn{n}" in s.screen_of("b"))
            slowest = max(slowest, time.monotonic() - started)
        assert slowest < 1.0
        pane = s.pane("a")
        assert pane is not None
        assert pane.view.session is not None
        assert pane.view.session._unparsed_bytes <= 2 * 256 * 1024  # pyright: ignore


async def test_an_idle_application_parses_and_draws_nothing() -> None:
    async with stage("a", "b") as s:
        await asyncio.sleep(0.3)
        before = s.app.drain.turns
        await asyncio.sleep(0.7)
        assert s.app.drain.turns == before


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


async def test_the_palette_runs_our_commands() -> None:
    async with stage("a") as s:
        await s.press("ctrl+p")
        await s.until(lambda: len(s.app.screen_stack) > 1)
        await s.type("fork")
        await s.until(lambda: "fork a running sandbox" in s.text())
        await s.press("enter")
        await s.until(lambda: s.pane("a-fork") is not None)


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
