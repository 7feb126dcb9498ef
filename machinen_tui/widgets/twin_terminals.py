"""Two terminals side by side: rows that differ are marked, they scroll in lock-step."""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from textual import events
from textual.strip import Strip
from textual.widget import Widget

from machinen_tui import theme
from machinen_tui.pane_paint import color_names, restyled, rich_style, with_cursor
from machinen_tui.roster import SandboxView
from machinen_tui.terminal_model import TerminalModel, runs_of
from machinen_tui.terminal_text import safe_to_draw

DRAW_S = 0.1
WHEEL_ROWS = 3


class TwinTerminals(Widget, can_focus=True):
    """The screens of two sandboxes. Both are asked for the size of one half."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"twins--differs", "twins--gutter", "twins--mark"}

    def __init__(self, a: SandboxView, b: SandboxView) -> None:
        super().__init__(id="twins")
        self.views = (a, b)
        self.back = 0
        """So many rows of the past are shown, in both."""
        self.typing = False
        self._drawn: list[tuple[str, str]] = []

    def on_mount(self) -> None:
        self.set_interval(DRAW_S, self.look)

    def on_resize(self) -> None:
        for view in self.views:
            if view.session is not None and self.size.width > 4:
                view.session.want_size(self.half, max(self.size.height, 1))
        self.look()

    @property
    def half(self) -> int:
        """Cells of one terminal."""
        return max((self.size.width - 3) // 2, 2)

    @property
    def models(self) -> tuple[TerminalModel | None, TerminalModel | None]:
        """What is shown, left and right."""
        first, second = (view.session.model if view.session else None for view in self.views)
        return first, second

    def look(self) -> None:
        """Draw anew if something was written, or all after `scroll`."""
        rows = [self._texts(y) for y in range(self.size.height)]
        if rows != self._drawn or self.typing:
            self._drawn = rows
            self.refresh()

    @property
    def differing(self) -> int:
        """How many of the rows in view differ."""
        return sum(left != right for left, right in self._drawn)

    def scroll(self, rows: int) -> None:
        """Move both `rows` into the past (negative: towards now), as far as either goes."""
        wanted = max(self.back + rows, 0)
        reach = [model.scrollback.rows_since(0, at_most=wanted) for model in self.models if model]
        self.back = min(wanted, max(reach, default=0))
        self.look()

    def _texts(self, y: int) -> tuple[str, str]:
        first, second = (self._text(model, y) for model in self.models)
        return first, second

    def _text(self, model: TerminalModel | None, y: int) -> str:
        if model is None or y >= model.lines:
            return ""
        back = self._back_of(model)
        return model.text(y, back)

    def _back_of(self, model: TerminalModel) -> int:
        return min(self.back, model.scrollback.rows_since(0, at_most=self.back))

    def render_line(self, y: int) -> Strip:
        base = self.rich_style
        left, right = (self._half(model, y) for model in self.models)
        differs = y < len(self._drawn) and self._drawn[y][0] != self._drawn[y][1]
        gutter = self.get_component_rich_style("twins--gutter", partial=True)
        sign = " │ " if not theme.is_plain() else "   "
        if differs:
            gutter = self.get_component_rich_style("twins--mark", partial=True)
            sign = " ≠ " if not theme.is_plain() else " ! "
            marked = self.get_component_rich_style("twins--differs", partial=True)
            left, right = Strip(restyled(left, marked)), Strip(restyled(right, marked))
        return Strip.join([left, Strip([Segment(sign, base + gutter)]), right])

    def _half(self, model: TerminalModel | None, y: int) -> Strip:
        base, width = self.rich_style, self.half
        if model is None or y >= model.lines:
            return Strip.blank(width, base)
        back = self._back_of(model)
        cells = model.cells(y, back)
        cursor = model.terminal.cursor
        if not back and not cursor.hidden and y == cursor.y:
            cells = with_cursor(cells, model.terminal.column(), self.typing)
        foreground, background = color_names(base)
        segments = [
            Segment(safe_to_draw(text), rich_style(style, foreground, background))
            for text, style in runs_of(cells)
        ]
        return Strip(segments).adjust_cell_length(width, base)

    # -- the mouse --------------------------------------------------------------------------------

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.scroll(WHEEL_ROWS)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.scroll(-WHEEL_ROWS)
