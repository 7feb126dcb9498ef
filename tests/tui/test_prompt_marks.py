"""Prompts and output as a shell marks them (OSC 133): in the model, in copy mode, in the panes."""

from __future__ import annotations

import pytest

from machinen_tui.pane_text import PaneText, Place
from machinen_tui.prompt_marks import Mark, PromptMarks
from machinen_tui.terminal_model import TerminalModel
from machinen_tui.terminal_osc import DONE, PROMPT, RUNNING
from tests.tui.stage import Stage, sandbox, stage


def command(line: str, output: str, status: int = 0, code: str = "133") -> bytes:
    """What a shell with marks writes for one command, up to its end."""
    text = (
        f"\x1b]{code};A\x07$ \x1b]{code};B\x07{line}\r\n\x1b]{code};C\x07{output}"
        f"\x1b]{code};D;{status}\x07"
    )
    return text.encode()


def lines_of(model: TerminalModel, lines: tuple[int, int] | None) -> list[str]:
    assert lines is not None
    text = PaneText(model)
    return ["".join(text.cells(line)).rstrip() for line in range(lines[0], lines[1] + 1)]


def test_the_output_of_the_last_command_is_known_also_after_it_scrolled_away() -> None:
    model = TerminalModel(20, 5)
    model.feed(command("seq", "".join(f"{n}\r\n" for n in range(40)), 3))
    model.feed(b"$ ")
    done = model.prompts.done()
    assert done is not None
    assert done.status == 3
    assert lines_of(model, done.output_lines) == [str(n) for n in range(40)]
    text = PaneText(model)
    assert "".join(text.cells(done.prompt.line)) == "$ seq"


@pytest.mark.parametrize("columns", [7, 20, 53])
def test_marks_hold_when_lines_wrap_and_widths_change(columns: int) -> None:
    model = TerminalModel(20, 6)
    model.feed(command("one", "a" * 70 + "\r\nb\r\n"))
    model.feed(command("two", "c" * 50 + "\r\n"))
    model.resize(columns, 6)
    model.feed(command("three", "d\r\n"))
    commands = [model.prompts.done(line) for line in (0, 3, 99)]
    outputs = [lines_of(model, each.output_lines) for each in commands if each is not None]
    assert outputs == [["a" * 70, "b"], ["c" * 50], ["d"]]


def test_a_prompt_after_output_without_a_line_feed_keeps_that_output() -> None:
    model = TerminalModel(20, 6)
    model.feed(command("printf", "no end"))
    model.feed(b"\r\n" + command("true", ""))
    done = model.prompts.done()
    assert done is not None
    assert lines_of(model, done.output_lines) == ["no end"]


def test_a_cleared_screen_forgets_the_prompts_it_had() -> None:
    model = TerminalModel(20, 6)
    for number in range(2):
        model.feed(command(f"c{number}", "out\r\n"))
    model.feed(b"\x1b[H\x1b[2J" + command("new", "fresh\r\n"))
    assert model.prompts.before(99) == Mark(0, 0)
    assert model.prompts.before(0) is None
    done = model.prompts.done()
    assert done is not None
    assert lines_of(model, done.output_lines) == ["fresh"]


def test_full_screen_programs_and_other_numbers_leave_no_marks() -> None:
    model = TerminalModel(20, 6)
    model.feed(
        b"\x1b[?1049h" + command("x", "y\r\n") + b"\x1b[?1049l" + command("x", "y", 0, "134")
    )
    assert model.prompts.before(99) is None


def test_marks_are_bounded() -> None:
    marks = PromptMarks()
    for line in range(10_000):
        for state in (PROMPT, RUNNING, DONE):
            marks.mark(state, Mark(line, 0))
    assert marks.before(9_999) == Mark(9_998, 0)
    assert marks.before(7_000) is None


async def shell_output(s: Stage) -> None:
    """Three commands of forty lines each, the second of which fails."""
    terminal = sandbox(s.world, "a").terminal
    terminal.say(b"\r\n")
    for number in range(3):
        lines = "".join(f"out{number}-{line}\r\n" for line in range(40))
        terminal.say(command(f"run{number}", lines, 7 * (number == 1)))
    await s.until(lambda: "out2-39" in s.text())


async def test_the_pane_goes_from_prompt_to_prompt_and_back_to_now() -> None:
    async with stage("a") as s:
        await shell_output(s)
        await s.press("(")
        await s.until(lambda: "$ run2" in s.text() and "out2-39" not in s.text())
        await s.press("(", "(")
        await s.until(lambda: "$ run0" in s.text())
        await s.press("(")
        await s.until(lambda: any("no prompt further up" in text for text in s.notices()))
        await s.press(")")
        await s.until(lambda: "$ run1" in s.text() and "$ run0" not in s.text())
        await s.press(")", ")")
        await s.until(lambda: "out2-39" in s.text())


async def test_copy_mode_goes_to_prompts_and_takes_a_commands_output() -> None:
    async with stage("a") as s:
        await shell_output(s)
        await s.press("v", "left_square_bracket", "left_square_bracket")
        pane = s.pane("a")
        assert pane is not None
        assert s.app.copying.mode is not None
        row = "".join(PaneText(pane.model).cells(s.app.copying.mode.cursor.line))  # pyright: ignore
        assert row == "$ run1"
        await s.press("a", "y")
        wanted = "".join(f"out1-{line}\n" for line in range(40))
        await s.until(lambda: s.app.clipboard == wanted)


async def test_the_last_commands_output_is_one_command_away() -> None:
    async with stage("a") as s:
        await s.press("slash")
        await s.type("output\n")
        await s.until(lambda: any("marked no command's output" in text for text in s.notices()))
        await shell_output(s)
        await s.press("slash")
        await s.type("output a\n")
        wanted = "".join(f"out2-{line}\n" for line in range(40))
        await s.until(lambda: s.app.clipboard == wanted)


async def test_a_failed_command_shows_its_status_in_the_frame_until_one_succeeds() -> None:
    async with stage("a") as s:
        terminal = sandbox(s.world, "a").terminal
        terminal.say(command("false", "", 1))
        await s.until(lambda: "exit 1" in s.text())
        terminal.say(command("true", "", 0))
        await s.until(lambda: "exit 1" not in s.text())


def test_a_place_and_a_mark_are_the_same_numbers() -> None:
    assert Place(*Mark(3, 4)) == Mark(3, 4)
