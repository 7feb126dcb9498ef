"""A widget that asks for its style often: with each of its rows, many times a second."""

from __future__ import annotations

from rich.style import Style
from textual.color import Color
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget


class SteadyStyle(Widget):
    """Its `rich_style` and `background_colors` are put together once, not with each look: that asks
    every ancestor for its colours, which is most of what a row costs. Made anew when
    Textual has other styles for the widget, and whenever Textual itself paints it."""

    _steady_style: Style | None = None
    _steady_backgrounds: tuple[Color, Color] | None = None

    @property
    def rich_style(self) -> Style:
        style = self._steady_style
        if style is None:
            style = self._steady_style = super().rich_style
        return style

    @property
    def background_colors(self) -> tuple[Color, Color]:
        colors = self._steady_backgrounds
        if colors is None:
            colors = self._steady_backgrounds = super().background_colors
        return colors

    def notify_style_update(self) -> None:
        self._steady_style = self._steady_backgrounds = None
        super().notify_style_update()

    def render_lines(self, crop: Region) -> list[Strip]:
        self._steady_style = self._steady_backgrounds = None
        return super().render_lines(crop)
