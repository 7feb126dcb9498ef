"""One sandbox over the last hour: CPU, memory, balloon, lazy pages, disk, network, exec latency."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Grid
from textual.strip import Strip
from textual.widget import Widget

from machinen_tui import theme
from machinen_tui.chart import chart_rows, milliseconds, per_second, percent, summary
from machinen_tui.figures import mib
from machinen_tui.roster import SandboxView
from machinen_tui.widgets.dialogs import Dialog, KeyHint, plain

DRAW_S = 1.0
SPANS = {"1": (300, "5 minutes"), "2": (900, "15 minutes"), "3": (3600, "the last hour")}


@dataclass(frozen=True, slots=True)
class Figure:
    """One graph: a series, or the sum of some."""

    title: str
    series: tuple[str, ...]
    shown: Callable[[float], str]
    least: float
    """The top is never lower than this: noise is not a mountain."""


FIGURES = (
    Figure("cpu, of one core", ("cpu",), percent, 10.0),
    Figure("resident memory", ("rss",), mib, 1 << 20),
    Figure("its own memory", ("private",), mib, 1 << 20),
    Figure("shared with its source", ("shared",), mib, 1 << 20),
    Figure("balloon gave back", ("balloon",), mib, 1 << 20),
    Figure("snapshot left to touch", ("lazy",), mib, 1 << 20),
    Figure("disk read and written", ("disk_read", "disk_write"), per_second, 4096.0),
    Figure("network in and out", ("net_in", "net_out"), per_second, 4096.0),
    Figure("latency of one exec", ("exec_ms",), milliseconds, 10.0),
)


class Graph(Widget):
    """Draws one figure of `view` over `span_s` seconds."""

    def __init__(self, view: SandboxView, figure: Figure) -> None:
        super().__init__(classes="graph-cell")
        self._view, self._figure = view, figure
        self._rows: list[tuple[str, Style]] = []

    def draw(self, span_s: int) -> None:
        """Read the history again."""
        width, height = self.size.width, self.size.height
        if not width or height < 2:
            return
        rings = [self._view.history.rings[name] for name in self._figure.series]
        columns = [ring.values(time.time(), span_s, width) for ring in rings]
        values = [_sum(column) for column in zip(*columns, strict=True)]
        known = [value for value in values if value is not None]
        top = max([self._figure.least, *known])
        color = Style(color=theme.look().private)
        dim = Style(dim=not theme.is_plain())
        self._rows = [(self._figure.title, Style(bold=True)),
                      (summary(values, self._figure.shown, width), dim)]  # fmt: skip
        if not theme.is_plain():
            self._rows += [(row, color) for row in chart_rows(values, height - 3, top)]
        self.refresh()

    def render_line(self, y: int) -> Strip:
        base, width = self.rich_style, self.size.width
        if y >= len(self._rows):
            return Strip.blank(width, base)
        text, style = self._rows[y]
        return Strip([Segment(text[:width], base + style)]).adjust_cell_length(width, base)


class GraphsScreen(Dialog[None]):
    """All figures of one sandbox, side by side."""

    SHAPE = "dialog -full"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,G,enter", "dismiss(None)", show=False),
        *[Binding(key, f"span('{key}')", show=False) for key in SPANS],
    ]

    def __init__(self, view: SandboxView) -> None:
        super().__init__()
        self._view, self._span = view, "1"

    def title_text(self) -> str:
        return plain(f"{self._view.name} over time")

    def keys(self) -> Sequence[KeyHint]:
        spans = [(key, f"{key} {words}") for key, (_, words) in SPANS.items()]
        return (*spans, ("escape", "esc closes"))

    def fields(self) -> ComposeResult:
        with Grid(id="graphs"):
            for figure in FIGURES:
                yield Graph(self._view, figure)

    def on_mount(self) -> None:
        self.call_after_refresh(self._draw)
        self.set_interval(DRAW_S, self._draw)

    def on_resize(self) -> None:
        self.call_after_refresh(self._draw)

    def _draw(self) -> None:
        if not self.is_attached:
            return
        seconds, words = SPANS[self._span]
        for graph in self.query(Graph):
            graph.draw(seconds)
        self.say(f"{words} · {self._view.shown_state}")

    def action_span(self, key: str) -> None:
        """How far back."""
        self._span = key
        self._draw()


def _sum(values: tuple[float | None, ...]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None
