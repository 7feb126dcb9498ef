"""The application: every key of the navigating mode, every screen, every operation."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from textual import events
from textual.widgets import Input, OptionList

from machinen_runtime.errors import BootError, ErrorCode
from machinen_tui.app import MachinenApp
from machinen_tui.wanted import NewSandbox
from tests.tui.fake_sandboxes import FakeWorld
from tests.tui.stage import Stage, sandbox, stage


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


async def test_the_mode_is_unmistakable() -> None:
    async with stage("a") as s:
        assert "NAVIGATE" in s.text()
        await s.press("enter")
        await s.until(lambda: "ATTACHED" in s.text() and "┏" in s.text())


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
        await s.until(lambda: "Ctrl-] Ctrl-]" in s.text())
        while "/restore" not in s.text():
            await s.press("pagedown")
        await s.press("end")
        await s.until(lambda: "/quit" in s.text())
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


async def test_the_palette_runs_our_commands() -> None:
    async with stage("a") as s:
        await s.press("ctrl+p")
        await s.until(lambda: len(s.app.screen_stack) > 1)
        await s.type("fork")
        await s.until(lambda: "fork a running sandbox" in s.text())
        await s.press("enter")
        await s.until(lambda: s.pane("a-fork") is not None)


async def test_every_theme_draws_also_those_that_lack_our_colours() -> None:
    async with stage("a") as s:
        for name in s.app.available_themes:
            s.app.theme = name
            await s.until(lambda: "NAVIGATE" in s.text() and "sandboxes" in s.text())


async def test_a_command_typed_in_one_go_is_taken_whole() -> None:
    async with stage("a", "b") as s:
        for key in ("slash", *"attach", "space", "b", "enter"):
            character = {"slash": "/", "space": " ", "enter": "\r"}.get(key, key)
            s.app.post_message(events.Key(key, character))  # none waits for what the last opened
        await s.until(lambda: s.app.mode == "attached")
        assert s.app.attachment.view is not None
        assert s.app.attachment.view.name == "b"
