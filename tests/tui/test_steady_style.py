"""The style of a pane is kept, and never an old one."""

from __future__ import annotations

from machinen_tui.widgets.steady_style import SteadyStyle
from tests.tui.stage import sandbox, stage


def same(widget: SteadyStyle) -> bool:
    """Whether it has the style Textual would put together now."""
    return widget.rich_style == super(SteadyStyle, widget).rich_style


async def test_a_style_is_made_once_for_many_rows() -> None:
    async with stage("a") as s:
        pane = s.pane("a")
        assert pane is not None
        assert same(pane)
        assert pane.rich_style is pane.rich_style


async def test_another_theme_is_another_style_also_for_rows_painted_at_once() -> None:
    async with stage("a") as s:
        pane = s.pane("a")
        assert pane is not None
        before = pane.rich_style
        s.app.theme = "machinen-light"
        await s.until(lambda: pane.rich_style != before)
        sandbox(s.world, "a").terminal.say(b"\x1b[5;3Hnew words")
        await s.until(lambda: "new words" in s.text())
        assert same(pane)
        assert same(s.app.list)
        row = pane.render_line(4)
        colors = {segment.style.bgcolor for segment in row if segment.style}
        assert colors == {pane.rich_style.bgcolor}


async def test_colours_of_what_is_behind_reach_the_pane() -> None:
    async with stage("a") as s:
        pane = s.pane("a")
        assert pane is not None
        pane.styles.background = "#102030"
        await s.until(lambda: same(pane))
        assert pane.rich_style.bgcolor is not None
        assert pane.rich_style.bgcolor.name == "#102030"
