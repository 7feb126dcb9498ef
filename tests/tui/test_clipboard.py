"""What guests may do with the clipboard: asked, allowed, denied, bounded; what they may read."""

from __future__ import annotations

import base64
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from machinen_tui.clipboard import as_text
from machinen_tui.habits import Habits
from machinen_tui.widgets.clipboard_dialog import ClipboardDialog
from tests.tui.stage import Stage, sandbox, stage


def copying(text: str, selection: str = "c") -> bytes:
    return f"\x1b]52;{selection};{base64.b64encode(text.encode()).decode()}\x07".encode()


def settings(directory: Path, text: str) -> Habits:
    (directory / "tui.toml").write_text(f"[clipboard]\n{text}\n")
    habits = Habits(directory)
    assert not habits.problems
    return habits


def copies(s: Stage, name: str, text: str) -> None:
    """The guest writes to the clipboard, then a word that shows that it was read."""
    sandbox(s.world, name).terminal.say(copying(text) + b"\r\nwritten")


async def read(s: Stage, name: str) -> None:
    await s.until(lambda: "written" in s.screen_of(name))


async def test_a_guest_is_asked_about_and_takes_no_key_for_it() -> None:
    async with stage("a") as s:
        await s.press("enter")
        copies(s, "a", "rm -rf /\nnow")
        await s.until(lambda: "a wants to copy 2 lines: y decides" in s.notices())
        await s.type("y")
        await s.until(lambda: b"y" in sandbox(s.world, "a").terminal.bytes_typed)
        assert s.app.clipboard == ""
        assert "wants to copy 2 lines" in s.text()  # in the frame, until it is decided
        await s.press("ctrl+right_square_bracket", "ctrl+right_square_bracket", "y")
        await s.until(lambda: isinstance(s.app.screen, ClipboardDialog))
        assert "rm -rf /" in s.text()
        await s.press("y")
        await s.until(lambda: s.app.clipboard == "rm -rf /\nnow")
        await s.until(lambda: "wants to copy" not in s.text())


async def test_no_and_escape_copy_nothing_and_enter_means_no() -> None:
    async with stage("a") as s:
        for key in ("n", "enter"):
            copies(s, "a", "secret")
            await s.until(lambda: "wants to copy" in s.text())
            await s.press("y")
            await s.until(lambda: isinstance(s.app.screen, ClipboardDialog))
            await s.press(key)
            await s.until(lambda: len(s.app.screen_stack) == 1)
            await s.until(lambda: "wants to copy" not in s.text())
            assert s.app.clipboard == ""
        copies(s, "a", "secret")
        await s.until(lambda: "wants to copy" in s.text())
        await s.press("y")
        await s.until(lambda: isinstance(s.app.screen, ClipboardDialog))
        await s.press("escape")
        await s.until(lambda: len(s.app.screen_stack) == 1)
        assert "wants to copy" in s.text()  # escape decides nothing
        assert s.app.clipboard == ""


async def test_always_and_never_hold_for_that_sandbox_alone() -> None:
    async with stage("a", "b") as s:
        for name, key in (("a", "a"), ("b", "d")):
            copies(s, name, "first")
            await s.until(
                lambda n=name: f"{n} wants to copy 5 characters: y decides" in s.notices()
            )
            await s.press("y")
            await s.until(lambda: isinstance(s.app.screen, ClipboardDialog))
            await s.press(key)
            await s.until(lambda: len(s.app.screen_stack) == 1)
        copies(s, "a", "second")
        await s.until(lambda: s.app.clipboard == "second")
        copies(s, "b", "third")
        sandbox(s.world, "b").terminal.say(b"\r\nend of b")
        await s.until(lambda: "end of b" in s.screen_of("b"))
        assert s.app.clipboard == "second"
        view = s.app.roster.by_name("b")
        assert view is not None
        assert not view.clipboard_offer


async def test_settings_allow_some_deny_others_and_bound_the_size(tmp_path: Path) -> None:
    habits = settings(tmp_path, 'guests = "deny"\nallow = ["build-*"]\nmax_kib = 1')
    async with stage("build-1", "web", habits=habits) as s:
        copies(s, "web", "no")
        await read(s, "web")
        assert s.app.clipboard == ""
        copies(s, "build-1", "x" * 1025)
        await s.until(lambda: "more to the clipboard than is allowed" in " ".join(s.notices()))
        assert s.app.clipboard == ""
        copies(s, "build-1", "yes\x1b[31m\r\n\x07more")
        await s.until(lambda: s.app.clipboard == "yes[31m\nmore")


async def test_of_a_flood_of_copies_the_last_one_stays_and_few_are_written(tmp_path: Path) -> None:
    async with stage("a", habits=settings(tmp_path, 'guests = "allow"')) as s:
        written: list[str] = []
        copy = s.app.copy_to_clipboard
        s.app.copy_to_clipboard = lambda text: (written.append(text), copy(text))[1]
        flood = b"".join(copying(str(number)) for number in range(500))
        sandbox(s.world, "a").terminal.say(flood)
        await s.until(lambda: s.app.clipboard == "499")
        assert len(written) < 50


async def test_the_clipboard_is_read_only_by_those_who_may(tmp_path: Path) -> None:
    ask = b"\x1b]52;c;?\x07\r\nwritten"
    async with stage("a", habits=settings(tmp_path, 'guests = "allow"')) as s:
        s.app.copy_to_clipboard("mine")
        sandbox(s.world, "a").terminal.say(ask)
        await read(s, "a")
        assert b"52;" not in sandbox(s.world, "a").terminal.bytes_typed
    habits = settings(tmp_path, 'guests = "deny"\nallow = ["a"]\nread = true')
    async with stage("a", "b", habits=habits) as s:
        s.app.copy_to_clipboard("mine")
        for name in ("a", "b"):
            sandbox(s.world, name).terminal.say(ask)
            await read(s, name)
        answer = b"\x1b]52;c;" + base64.b64encode(b"mine") + b"\x1b\\"
        await s.until(lambda: answer in sandbox(s.world, "a").terminal.bytes_typed)
        assert b"52;" not in sandbox(s.world, "b").terminal.bytes_typed


async def test_the_command_line_sets_a_policy_and_says_what_it_takes() -> None:
    async with stage("a") as s:
        await s.press("slash")
        await s.type("clipboard a allow\n")
        copies(s, "a", "yes")
        await s.until(lambda: s.app.clipboard == "yes")
        await s.press("slash")
        await s.type("clipboard maybe\n")
        await s.until(lambda: any("one of ask, allow, deny" in text for text in s.notices()))


async def test_a_guest_that_asks_hears_the_colours_it_is_drawn_with() -> None:
    async with stage("a") as s:
        terminal = sandbox(s.world, "a").terminal
        terminal.say(b"\x1b]11;?\x1b\\\x1b]10;?\x07\x1b]4;1;?\x07")
        for answer in (
            b"]11;rgb:1111/1313/1a1a",
            b"]10;rgb:c8c8/cccc/d8d8",
            b"]4;1;rgb:f7f7/7676/8e8e",
        ):
            await s.until(lambda wanted=answer: wanted in terminal.bytes_typed, str(answer))
        s.app.habits.put_on(s.app, "light")
        await s.until(lambda: s.app.theme == "machinen-light")
        await s.pilot.pause()
        terminal.say(b"\x1b]11;?\x07")
        await s.until(lambda: b"]11;rgb:fafa/fbfb/fdfd" in terminal.bytes_typed)


@given(st.binary(max_size=200))
def test_what_is_copied_has_no_control_characters(data: bytes) -> None:
    text = as_text(data)
    assert all(c in "\n\t" or c.isprintable() or ord(c) > 0x9F for c in text)
