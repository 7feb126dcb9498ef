"""Lines of a log, the matches of a filter marked; stays at the end while one is at the end."""

from __future__ import annotations

from typing import ClassVar

from rich.cells import cell_len
from rich.segment import Segment
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from machinen_tui.log_lines import LogLines, spans_of


class LogView(ScrollView, can_focus=True):
    """Draws a `LogLines`; `show_lines` after it changed."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"log--match"}

    def __init__(self, lines: LogLines, id: str = "log") -> None:
        super().__init__(id=id)
        self._model = lines
        self._shown: list[str] = []

    @property
    def follows(self) -> bool:
        """Whether the newest line is in view."""
        return self.scroll_offset.y >= self.max_scroll_y

    def show_lines(self) -> None:
        """Read the lines again; at the end, stay there."""
        followed = self.follows
        self._shown = self._model.shown()
        width = max((cell_len(line) for line in self._shown[-2000:]), default=0)
        self.virtual_size = Size(max(width, 1), len(self._shown))
        if followed:
            self.scroll_to(y=max(len(self._shown) - self.size.height, 0), animate=False, force=True)
        self.refresh()

    def on_resize(self) -> None:
        self.show_lines()

    def render_line(self, y: int) -> Strip:
        index, left = self.scroll_offset.y + y, self.scroll_offset.x
        width, base = self.size.width, self.rich_style
        if not 0 <= index < len(self._shown):
            return Strip.blank(width, base)
        line = self._shown[index]
        match = base + self.get_component_rich_style("log--match", partial=True)
        segments: list[Segment] = []
        at = 0
        for start, end in spans_of(line, self._model.needle):
            segments += [Segment(line[at:start], base), Segment(line[start:end], match)]
            at = end
        segments.append(Segment(line[at:], base))
        whole = Strip(segments)
        strip = whole.crop(left, left + width)
        if whole.cell_length > left + width:  # a line that goes on must not look whole
            strip = Strip([*strip.crop(0, width - 1), Segment("…", base)])
        return strip.extend_cell_length(width, base)
