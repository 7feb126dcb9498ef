"""The list on the left: every sandbox under the one it was forked from, with its figures; snapshots
as nodes."""

from __future__ import annotations

import time
from functools import lru_cache
from itertools import islice
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from machinen_tui import theme
from machinen_tui.attention import BADGES, why
from machinen_tui.figures import ceiling, clip, mib, uptime
from machinen_tui.messages import NodeChosen
from machinen_tui.roster import Node, Roster, SandboxView
from machinen_tui.widgets.row_widget import RowWidget

SPARK_CELLS, NARROW_SPARK_CELLS = 8, 3
WIDE = 34
"""From here on there is room for a long sparkline."""

ACTIVE_MS = 1500
"""Output this recent makes the activity dot."""

PROBE_ECHO_MS = 300
"""How long after a probe's end its answer may still be what was said last."""

Line = tuple[Node, int]
"""A node and which of its lines this is."""


class SandboxList(RowWidget, ScrollView, can_focus=True):
    """Draws the roster. The selection is a key, so it stays on its row whatever comes and goes."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "list--selected",
        "list--dim",
        "list--accent",
        "list--name",
        "list--badge",
    }

    def __init__(self, roster: Roster) -> None:
        super().__init__(id="list")
        self._roster = roster
        self._shown: list[Node] = []
        self._lines: list[Line] = []
        self.selected: str | None = None
        self.border_title = "sandboxes"

    # -- content ----------------------------------------------------------------------------------

    def update_list(self) -> None:
        """Read the roster again; the selection moves to a neighbour if its row is gone."""
        before = [node.key for node in self._shown]
        self._shown = self._roster.nodes()
        self._lines = [
            (node, line) for node in self._shown for line in range(2 if node.sandbox else 1)
        ]
        keys = [node.key for node in self._shown]
        if self.selected not in keys:
            at = before.index(self.selected) if self.selected in before else 0
            self.selected = keys[min(at, len(keys) - 1)] if keys else None
        self.virtual_size = Size(self.size.width, len(self._lines))
        live = len(self._roster.live())
        self.show_title(f"sandboxes · {live}" if live else "sandboxes")
        self.show_rows()

    def keys_in_view(self) -> set[str]:
        """Which rows are not scrolled away; none while the list is hidden."""
        top = self.scroll_offset.y
        height = self.size.height if self.display else 0
        return {node.key for node, _ in self._lines[top : top + height]}

    @property
    def selected_node(self) -> Node | None:
        """The node the selection is on."""
        return next((node for node in self._shown if node.key == self.selected), None)

    def select(self, key: str | None) -> None:
        """Move the selection and bring it into view."""
        self.selected = key
        rows = [index for index, (node, _) in enumerate(self._lines) if node.key == key]
        if rows and self.size.height:
            self.scroll_to_region(
                Region(0, rows[0], 1, len(rows)), animate=False, force=True, x_axis=False
            )
        self.refresh()

    def step(self, by: int) -> str | None:
        """The key `by` rows further, stopping at the ends."""
        keys = [node.key for node in self._shown]
        if not keys:
            return None
        at = keys.index(self.selected) if self.selected in keys else 0
        return keys[min(max(at + by, 0), len(keys) - 1)]

    # -- drawing ----------------------------------------------------------------------------------

    def make_line(self, y: int) -> Strip:
        width, index = self.row_width, self.scroll_offset.y + y
        base = self.rich_style
        if index >= len(self._lines):
            return Strip.blank(width, base)
        node, line = self._lines[index]
        if node.key == self.selected:
            base += self.get_component_rich_style("list--selected", partial=True)
        if node.snapshot is not None:
            segments = self._snapshot_line(node, width, base)
        elif line == 0:
            segments = self._name_line(node, width, base)
        else:
            segments = self._figures_line(node, width, base)
        if node.key == self.selected and theme.look().theme.ansi:
            segments = [Segment(each.text, base) for each in segments]  # nobody knows its colours
        return Strip(segments).adjust_cell_length(width, base)

    def _name_line(self, node: Node, width: int, base: Style) -> list[Segment]:
        """Branches, state, name … badge, sparkline, CPU: the right part in fixed columns."""
        view = node.sandbox
        assert view is not None
        dim = base + self.get_component_rich_style("list--dim", partial=True)
        color = _colored(base, theme.state_color(view.shown_state))
        last = view.last
        cpu = f"{last.cpu_percent:4.0f}%" if last and not view.gone else "     "
        cells = SPARK_CELLS if width >= WIDE else NARROW_SPARK_CELLS
        newest = list(islice(reversed(view.samples), cells))
        line = theme.spark([sample.cpu_percent for sample in reversed(newest)], cells, 100.0)
        badge, badge_style = self._badge(view, base)
        mark = theme.mark_glyph() if view.marked else " "
        room = max(width - len(node.branches) - cells - 12, 0)
        accent = base + self.get_component_rich_style("list--accent", partial=True)
        name = base + self.get_component_rich_style("list--name", partial=True)
        return [
            Segment(mark, accent),
            Segment(theme.branches(node.branches), dim),
            Segment(theme.state_glyph(view.shown_state) + " ", color),
            Segment(clip(view.name, room).ljust(room), name if not view.gone else dim),
            Segment(f" {badge} ", badge_style),
            Segment(line if not view.gone else " " * cells, color),
            Segment(cpu + " ", dim),
        ]

    def _figures_line(self, node: Node, width: int, base: Style) -> list[Segment]:
        """State, ports … uptime, memory of its ceiling: the right part in fixed columns."""
        view = node.sandbox
        assert view is not None
        dim = base + self.get_component_rich_style("list--dim", partial=True)
        color = _colored(base, theme.state_color(view.shown_state))
        right = ""
        if not view.gone:
            age = uptime(time.time() - view.started_at_ms / 1000)
            right = f" {age.rjust(5)} {_memory(view).rjust(9)} "
        room = max(width - len(node.below) - 3 - len(right), 0)
        ports = "" if view.gone else _ports(view)
        state = view.shown_state
        if state == "running" and (ports or len(state) > room):
            state = ""  # its glyph says so
        state = clip(state, room)
        ports = clip(f" {ports}" if state and ports else ports, room - len(state))
        return [
            Segment(f" {theme.branches(node.below)}  ", dim),
            Segment(state, color),
            Segment(ports.ljust(room - len(state)), dim),
            Segment(right, dim),
        ]

    def _snapshot_line(self, node: Node, width: int, base: Style) -> list[Segment]:
        info = node.snapshot
        assert info is not None
        dim = base + self.get_component_rich_style("list--dim", partial=True)
        when = time.strftime("%H:%M:%S", time.localtime(info.taken_at_ms / 1000))
        if time.time() - info.taken_at_ms / 1000 > 86400:
            when = time.strftime("%d %b", time.localtime(info.taken_at_ms / 1000))
        room = width - len(node.branches) - len(when) - 5
        label = clip(
            info.notes.label or (info.name if not node.branches else "snapshot"), max(room, 0)
        ).ljust(max(room, 0))
        return [
            Segment(" " + theme.branches(node.branches), dim),
            Segment(theme.snapshot_glyph() + " ", _colored(base, theme.look().snapshot)),
            Segment(label, base),
            Segment(f" {when} ", dim),
        ]

    def _badge(self, view: SandboxView, base: Style) -> tuple[str, Style]:
        """An exclamation mark: over a threshold; else why it wants attention, see `attention`; a
        dot: it says something right now."""
        style = base + self.get_component_rich_style("list--badge", partial=True)
        if view.alerts.active and not view.gone:
            return "!", style
        if reason := why(view):
            badge = BADGES[reason]
            return ("B" if theme.is_plain() and reason == "bell" else badge), style
        if view.gone:
            return " ", style
        last = view.last
        began, ended = view.probed_ms
        active = last is not None and last.time_ms - last.last_output_ms < ACTIVE_MS
        if last is not None and began <= last.last_output_ms <= ended + PROBE_ECHO_MS:
            active = False  # it answered us
        return ("·" if active else " "), style

    # -- the mouse --------------------------------------------------------------------------------

    def on_click(self, event: events.Click) -> None:
        offset = event.get_content_offset(self)
        index = self.scroll_offset.y + offset.y if offset else -1
        if 0 <= index < len(self._lines):
            event.stop()
            key = self._lines[index][0].key
            self.post_message(NodeChosen(key, open=event.chain > 1))


@lru_cache(maxsize=256)
def _colored(base: Style, color: str) -> Style:
    """Made once: each row has such ones, every second."""
    return base + Style(color=color)


def _ports(view: SandboxView) -> str:
    """The first host port; a plus if there are more."""
    if not view.ports:
        return ""
    return f":{view.ports[0].host_port}" + ("+" if len(view.ports) > 1 else "")


def _memory(view: SandboxView) -> str:
    """Resident memory of its ceiling: `118M/512M`."""
    last = view.last
    limit = last.ceiling_mib if last and last.ceiling_mib else view.ceiling_mib
    used = mib(last.rss_bytes) if last else "-"
    return f"{used}/{ceiling(limit)}" if limit else used
