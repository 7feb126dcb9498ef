"""Copy mode, the mouse and searching in the running application."""

from __future__ import annotations

from textual.widgets import Input, OptionList

from machinen_tui.widgets.find_screen import FindScreen
from tests.tui.stage import Stage, sandbox, stage


def say(s: Stage, name: str, text: str) -> None:
    sandbox(s.world, name).terminal.say(text.replace("\n", "\r\n").encode())


async def shown(s: Stage, text: str) -> None:
    await s.until(lambda: text in s.text(), f"for {text}")


async def drag(s: Stage, name: str, start: tuple[int, int], end: tuple[int, int]) -> None:
    """Press at a cell of a pane's content and release at another."""
    pane = s.pane(name)
    assert pane is not None
    x, y = pane.content_region.offset
    await s.pilot.mouse_down(offset=(x + start[0], y + start[1]))
    await s.drag_to(x + end[0], y + end[1])
    await s.pilot.mouse_up(offset=(x + end[0], y + end[1]))


async def test_copy_mode_selects_by_keys_and_copies_unwrapped_lines() -> None:
    async with stage("a") as s:
        long = "/".join(f"part{n}" for n in range(30))
        say(s, "a", f"\nfirst   \n{long}\n# ")
        await shown(s, "part29")
        await s.press("v")
        await shown(s, "COPY MODE")
        await s.press("g", "j", "V", "j", "j", "y")
        await s.until(lambda: s.app.clipboard == f"first\n{long}\n")
        await shown(s, "copied 2 lines")
        await s.until(lambda: s.app.mode == "navigate")
        assert sandbox(s.world, "a").terminal.bytes_typed == b""


async def test_the_view_stays_while_more_is_written_and_follows_again_afterwards() -> None:
    async with stage("a") as s:
        say(s, "a", "\n" + "\n".join(f"line {n}" for n in range(200)))
        await shown(s, "line 199")
        await s.press("v", "pageup", "pageup")
        await s.until(lambda: "line 199" not in s.text() and "line 140" in s.text())
        say(s, "a", "\n" + "\n".join(f"more {n}" for n in range(50)))
        await s.until(lambda: "more 49" in s.screen_of("a"))
        await shown(s, "line 140")
        await s.press("escape")
        await shown(s, "more 49")


async def test_a_search_in_the_pane_marks_and_goes_on_with_n() -> None:
    async with stage("a") as s:
        say(s, "a", "\n" + "\n".join(f"line {n} {'needle' if n % 50 == 7 else ''}"
                                     for n in range(200)))  # fmt: skip
        await shown(s, "line 199")
        await s.press("ctrl+f")
        await s.type("need[l]e")
        await shown(s, "?need[l]e")
        await s.press("enter")
        await shown(s, "line 157 needle")
        await s.press("n", "n")
        await shown(s, "line 57 needle")
        await s.press("slash", "(", "enter")
        await shown(s, "no regular expression")
        await s.press("q")
        await s.until(lambda: s.app.mode == "navigate")


async def test_all_panes_are_searched_and_a_hit_is_one_key_away() -> None:
    async with stage("a", "b") as s:
        say(s, "a", "\n" + "\n".join(f"line {n}" for n in range(300)))
        say(s, "b", "\n\x1b[31mWarning [b]: 漢字 line 250\x1b[0m\n" + "\n" * 60)
        await s.until(lambda: "line 299" in s.screen_of("a"))
        await s.press("ctrl+g")
        await s.until(lambda: isinstance(s.app.screen, FindScreen))
        await s.type("line 25")
        await shown(s, "12 lines in 2 of 2 panes")
        await shown(s, "Warning [b]: 漢字 line 250")
        s.app.screen.query_one("#find", Input).value = "warning"
        await shown(s, "1 line in 1 of 2 panes")
        await s.press("enter")
        await s.until(lambda: s.app.selected_view is not None and s.app.selected_view.name == "b")
        await s.until(lambda: s.app.mode == "copy" and "Warning" in s.text())
        await s.press("y")
        await s.until(lambda: s.app.clipboard == "Warning [b]: 漢字 line 250\n")


async def test_a_pattern_that_will_not_do_is_explained_while_one_types() -> None:
    async with stage("a") as s:
        await s.press("slash")
        await s.type("find (a\n")
        await shown(s, "no regular expression")
        assert s.app.screen.query_one(OptionList).option_count == 0
        await s.press("escape")
        await s.until(lambda: len(s.app.screen_stack) == 1)


async def test_the_mouse_selects_within_one_pane_and_copies() -> None:
    async with stage("a", "b") as s:
        say(s, "a", "\x1b[H\x1b[2Jalpha beta   \ngamma delta")
        await shown(s, "gamma delta")
        await drag(s, "a", (6, 0), (4, 1))
        await s.until(lambda: s.app.clipboard == "beta\ngamma")
        pane = s.pane("a")
        assert pane is not None
        below = pane.size.height + 8
        await drag(s, "a", (0, 1), (70, below))
        await s.until(lambda: s.app.clipboard == "gamma delta")
        assert s.app.attachment.key is None


async def test_a_double_click_takes_a_word_while_typing_and_shift_beats_the_guests_mouse() -> None:
    async with stage("a") as s:
        say(s, "a", "\x1b[H\x1b[2Jsee /etc/os-release now")
        await shown(s, "os-release")
        await s.press("enter")
        pane = s.pane("a")
        assert pane is not None
        await s.pilot.double_click(pane, offset=(9, 1))
        await s.until(lambda: s.app.clipboard == "/etc/os-release")
        say(s, "a", "\x1b[?1000h\x1b[?1006h")
        await s.until(lambda: pane.model is not None and pane.model.terminal.mouse_mode == 1000)
        await drag(s, "a", (0, 0), (2, 0))
        await s.until(lambda: b"\x1b[<0;1;1M" in sandbox(s.world, "a").terminal.bytes_typed)
        assert s.app.clipboard == "/etc/os-release"


async def test_the_wheel_scrolls_and_back_at_the_end_the_pane_follows() -> None:
    async with stage("a") as s:
        say(s, "a", "\n" + "\n".join(f"line {n}" for n in range(100)))
        await shown(s, "line 99")
        pane = s.pane("a")
        assert pane is not None
        await s.pilot.hover(pane, offset=(5, 5))
        pane.scroll_back(30)
        say(s, "a", "\nnew")
        await s.until(lambda: "new" in s.screen_of("a"))
        assert "line 99" not in s.text()
        pane.scroll_back(-100)
        await shown(s, "new")
        say(s, "a", "\nnewer")
        await shown(s, "newer")
