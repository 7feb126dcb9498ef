"""Live figures of the selected sandbox: memory split into private and shared, balloon, pages to
come, CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from machinen_tui import theme
from machinen_tui.figures import ceiling, mib
from machinen_tui.roster import SandboxView
from machinen_tui.widgets.row_widget import RowWidget

PAGE_BYTES = 4096
FIGURE_ROWS = 4
"""The CPU and the three rows of figures; what is left is the graph's."""
HEADROOM = 1.2
"""The graph's top against the highest sample."""
ROOMY_HALF = 15
"""Cells of half a row from which long labels fit."""


class MemoryGraph(RowWidget):
    """Stacked columns of memory over two minutes, newest at the right, with a row of CPU below."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"graph--dim", "graph--label"}

    def __init__(self) -> None:
        super().__init__(id="graph")
        self._view: SandboxView | None = None
        self._rows: list[list[Segment]] = []
        self.border_title = "memory"

    def show(self, view: SandboxView | None) -> None:
        """Draw `view`'s samples; called once a second and when the selection moves."""
        self._view = view
        self.show_title(f"memory · {view.name}".replace("[", "\\[") if view else "memory")
        self._rows = self._make_rows(view) if view else []
        self.show_rows()

    def make_line(self, y: int) -> Strip:
        if y >= len(self._rows):
            return Strip.blank(self.row_width, self.rich_style)
        base = self.rich_style
        segments = [
            Segment(text, base + style if style else base) for text, style, _ in self._rows[y]
        ]
        return Strip(segments).adjust_cell_length(self.row_width, base)

    def _make_rows(self, view: SandboxView) -> list[list[Segment]]:
        dim = self.get_component_rich_style("graph--dim", partial=True)
        last = view.last
        if last is None:
            return [[Segment(" no figures yet" if not view.gone else " it has ended", dim)]]
        width = self.size.width - 2
        if width < 12:
            return []
        samples = list(view.samples)[-width:]
        top = max(s.private_bytes + s.shared_bytes for s in samples) * HEADROOM + 1
        spare = 0 if theme.is_plain() else max(self.size.height - FIGURE_ROWS, 0)
        gap = int(spare > 4)
        values = [(s.private_bytes, s.shared_bytes) for s in samples]
        rows = stacked_rows(values, top, spare - gap, width)
        cpu = theme.spark([s.cpu_percent for s in samples], width - 9, 100.0)
        return [
            *([Segment(" "), *row] for row in rows),
            *[list[Segment]()] * gap,
            [
                Segment(" cpu ", dim),
                Segment(cpu, _style(theme.state_color("running"))),
                Segment(f"{last.cpu_percent:4.0f}%", dim),
            ],
            *self._figures(view, dim),
        ]

    def _figures(self, view: SandboxView, dim: Style) -> list[list[Segment]]:
        last = view.last
        assert last is not None
        pairs = [
            (("private", "own"), mib(last.private_bytes), theme.look().private),
            (("shared", "shared"), mib(last.shared_bytes), theme.look().shared),
            (("resident", "rss"), mib(last.rss_bytes), ""),
            (("ceiling", "limit"), ceiling(last.ceiling_mib or view.ceiling_mib), ""),
            (("balloon", "given"), mib(last.balloon_bytes), theme.look().balloon),
            (("to fault", "lazy"), mib(last.lazy_pages_pending * PAGE_BYTES), ""),
        ]
        half = (self.size.width - 2) // 2
        rows: list[list[Segment]] = []
        for left, right in zip(pairs[::2], pairs[1::2], strict=True):
            row = [Segment(" ")]
            for labels, value, color in (left, right):
                label = labels[half < ROOMY_HALF]
                row.append(
                    Segment("▪" if color and not theme.is_plain() else " ", _style(color or None))
                )
                row.append(Segment(label, dim))
                row.append(Segment(value.rjust(half - 2 - len(label)) + " "))
            rows.append(row)
        return rows


def stacked_rows(
    values: Sequence[tuple[int, int]], top: float, height: int, width: int
) -> list[list[Segment]]:
    """Columns of two stacked parts in eighths of a cell, the newest at the right; rows from the
    top."""
    steps = [(round(a / top * height * 8), round((a + b) / top * height * 8)) for a, b in values]
    rows: list[list[Segment]] = []
    for row in range(height - 1, -1, -1):
        cells = (
            (min(max(private - row * 8, 0), 8), min(max(total - row * 8, 0), 8))
            for private, total in steps
        )
        rows.append(
            [
                Segment(" " * (width - len(steps))),
                *(_cells(*parts, len(list(same))) for parts, same in groupby(cells)),
            ]
        )
    return rows


def _cells(private: int, total: int, count: int) -> Segment:
    """`count` equal cells: `private` eighths below, up to `total` eighths above, 0 to 8."""
    if total == 0:
        return Segment(" " * count)
    look = theme.look()
    if private >= total or private == 0:
        color = look.private if private else look.shared
        return Segment(theme.SPARK_BLOCKS[total] * count, _style(color))
    back = look.shared if total == 8 else None
    return Segment(theme.SPARK_BLOCKS[private] * count, _style(look.private, back))


@lru_cache(maxsize=64)
def _style(color: str | None, back: str | None = None) -> Style:
    """Made once: a graph has one for every cell, once a second."""
    return Style(color=color, bgcolor=back)
