"""Settings, keys and looks in the running application."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from rich.color import Color
from textual.color import Color as TextualColor

from machinen_tui import theme
from machinen_tui.habits import Habits
from machinen_tui.palettes import ANSI_NAMES, OWN_ANSI_COLORS
from tests.tui.stage import stage
from tests.tui.test_screens import clicked, closed, entered, opened


def habits_in(directory: Path, settings: str = "", keys: str = "") -> Habits:
    (directory / "tui.toml").write_text(settings)
    (directory / "keys.toml").write_text(keys)
    return Habits(directory)


# -- files ----------------------------------------------------------------------------------------


async def test_problems_are_said_at_the_start_and_shown_and_a_reload_drops_them(
    tmp_path: Path,
) -> None:
    habits = habits_in(tmp_path, "[look]\ntheme = 3", '[keys]\nforky = "y"')
    async with stage("a", habits=habits) as s:
        await s.until(lambda: "look.theme: 3 is not dark" in "".join(s.notices()))
        assert "keys.forky: there is no such action" in s.notices()[0]
        await s.press("K")
        await opened(s, "did you mean fork")
        (tmp_path / "tui.toml").write_text('[look]\ntheme = "light"')
        (tmp_path / "keys.toml").write_text('[keys]\nfork = "y"\nhelp = ["?", "f1"]')
        await s.press("r")
        await opened(s, "nothing is wrong")
        assert s.app.theme == "machinen-light"
        await s.press("escape")
        await closed(s)
        await s.until(lambda: " y fork" in s.text())
        await s.press("f")
        assert s.pane("a-fork") is None
        await s.press("y")
        await s.until(lambda: s.pane("a-fork") is not None)
        await s.press("f1")
        await opened(s, "here: on ")
        await s.until(lambda: re.search(r"y +fork it", s.text()))


async def test_the_help_shows_the_keys_in_force_and_what_they_do_here(tmp_path: Path) -> None:
    async with stage("a", habits=habits_in(tmp_path, keys='[keys]\npause = "w"')) as s:
        await s.press("question_mark")
        await opened(s, "here: on a, running")
        assert any("w " in row and "pause, resume" in row for row in s.text().splitlines())
        await clicked(s, "esc closes")
        await closed(s)


# -- looks ----------------------------------------------------------------------------------------


async def test_themes_switch_live_by_key_and_by_command() -> None:
    async with stage("a") as s:
        for name in ("light", "ansi", "high-contrast", "dark"):
            await s.press("C")
            await s.until(lambda n=name: s.app.theme == theme.LOOKS[n].theme.name, name)
            assert theme.look() is theme.LOOKS[name]
        await entered(s, "theme ansi")
        await s.until(lambda: s.app.theme == "machinen-ansi")
        await entered(s, "theme blue")
        await s.until(lambda: "no theme is named blue" in "".join(s.notices()))
        s.app.theme = "textual-light"
        await s.until(lambda: theme.look() is theme.LOOKS["light"], "the nearest look")
        await entered(s, "theme dark")
        await s.until(lambda: theme.look() is theme.LOOKS["dark"])


async def test_the_ansi_theme_sends_only_the_terminals_own_colours(tmp_path: Path) -> None:
    async with stage("a", habits=habits_in(tmp_path, '[look]\ntheme = "ansi"')) as s:
        colors = {
            color
            for strip in s.app.screen._compositor.render_strips()  # pyright: ignore[reportPrivateUsage]
            for segment in strip
            if segment.style is not None
            for color in (segment.style.color, segment.style.bgcolor)
            if color is not None
        }
        assert {color for color in colors if color.triplet is not None} == set()
        theme.use("dark")


async def test_without_colour_the_selection_is_reversed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with stage("a", habits=Habits(colorless=True)) as s:
        assert s.app.no_color
        style = s.app.list.get_component_rich_style("list--selected")
        assert style.reverse
        await s.press("C")
        await s.until(lambda: "NO_COLOR is set" in "".join(s.notices()))
        theme.use("dark")


FRAMES = set("╭╮╰╯─│┏┓┗┛━┃├└▁▂▃▄▅▆▇█●○◌◉◆▪⠋")


async def test_the_accessible_mode_draws_no_frames_and_blocks(tmp_path: Path) -> None:
    async with stage("a", "b", habits=habits_in(tmp_path, "[look]\naccessible = true")) as s:
        for sandbox in s.world.sandboxes.values():
            sandbox.sample()
        await s.press("f")
        await s.until(lambda: s.pane("a-fork") is not None)
        await s.until(lambda: "R a" in s.text(), "a letter for the state")
        assert FRAMES & set(s.text()) == set()
        assert s.app.animation_level == "none"
        await s.press("question_mark")
        await opened(s, "keys and commands")
        assert FRAMES & set(s.text()) == set()
        theme.use("dark")


@pytest.mark.parametrize("name", ["dark", "light", "high-contrast"])
def test_text_can_be_read_on_its_background(name: str) -> None:
    look, least = theme.LOOKS[name], 7.0 if name == "high-contrast" else 4.5
    chosen = look.theme
    texts = [chosen.foreground, chosen.accent, chosen.variables["muted"], chosen.error,
             chosen.warning, chosen.success, *look.states.values(), look.snapshot]  # fmt: skip
    assert chosen.background is not None
    for text in texts:
        assert text is not None
        assert contrast(text, chosen.background) >= least, text


def contrast(one: str, other: str) -> float:
    """WCAG 2.2: (lighter + 0.05) / (darker + 0.05)."""

    def luminance(color: str) -> float:
        parts = (part / 255 for part in TextualColor.parse(color).rgb)
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_terminals_own_colours_have_names_that_rich_knows() -> None:
    assert [Color.parse(OWN_ANSI_COLORS[name]).number for name in ANSI_NAMES] == list(range(16))
