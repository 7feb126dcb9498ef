"""The families: every sandbox that runs, every snapshot, the dead between them. One forks,
restores, names and pins from here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol, cast

from rich.text import Text
from textual import on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from machinen_tui import theme
from machinen_tui.figures import clip, count
from machinen_tui.lineage_rows import (
    Member,
    Row,
    descendants,
    facts_of,
    moment,
    seen_rows,
    state_of,
    title_of,
)
from machinen_tui.roster import SandboxView
from machinen_tui.widgets.details_screen import table_of
from machinen_tui.widgets.dialogs import Dialog, KeyHint

DRAW_S = 1.0
STATE_CELLS = 20
MOMENT_CELLS = 12


class FamilyCalls(Protocol):
    """What the screen calls."""

    def family(self) -> list[Member]: ...
    def view_of(self, node: Member) -> SandboxView | None: ...
    def open_member(self, node: Member) -> None: ...
    def show_members(self, node: Member, members: Sequence[Member]) -> None: ...
    def act_on_member(self, verb: str, node: Member) -> None: ...


class LineageScreen(Dialog[None]):
    """The tree above, the facts of the chosen member below."""

    SHAPE = "dialog -full"
    TITLE_TEXT = "lineage"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("left,h", "fold(True)", show=False),
        Binding("right", "fold(False)", show=False),
        Binding("j", "step(1)", show=False),
        Binding("k", "step(-1)", show=False),
        Binding("o", "show_members", show=False),
        Binding("space", "act('mark')", show=False),
        Binding("f", "act('fork')", show=False),
        Binding("r", "act('restore')", show=False),
        Binding("u", "act('rewind')", show=False),
        Binding("l", "act('describe')", show=False),
        Binding("p", "act('pin')", show=False),
        Binding("m", "act('rename')", show=False),
        Binding("M", "act('promote')", show=False),
        Binding("D", "act('compare')", show=False),
        Binding("x,delete", "act('remove')", show=False),
        Binding("question_mark", "help", show=False),
        Binding("q,A", "dismiss(None)", show=False),
    ]

    def __init__(self, calls: FamilyCalls, chosen: str | None = None) -> None:
        super().__init__()
        self._calls = calls
        self._members: list[Member] = []
        self._rows: list[Row] = []
        self._folded: set[str] = set()
        self._chosen_key = chosen
        self._drawn: list[str] = []

    def keys(self) -> Sequence[KeyHint]:
        return (("enter", "enter opens"), ("f", "f fork"), ("r", "r restore"), ("u", "u rewind"),
                ("l", "l label"), ("p", "p pin"), ("x", "x remove"), ("question_mark", "? more"),
                ("escape", "esc closes"))  # fmt: skip

    def fields(self) -> ComposeResult:
        yield OptionList(id="lineage", compact=True)
        yield Static("", id="facts")

    def on_mount(self) -> None:
        self.read()
        self.query_one(OptionList).focus()
        self.set_interval(DRAW_S, self.read)

    @property
    def chosen(self) -> Member | None:
        """The member the cursor is on."""
        return next((row.node for row in self._rows if row.node.key == self._chosen_key), None)

    def read(self) -> None:
        """Look at the families again; the cursor stays on its member."""
        self._members = self._calls.family()
        self._draw()

    def _draw(self) -> None:
        rows = self.query_one(OptionList)
        self._rows = seen_rows(self._members, self._folded)
        lines = [self._line(row) for row in self._rows]
        drawn = [line.plain for line in lines]
        keys = [row.node.key for row in self._rows]
        if drawn != self._drawn or rows.option_count != max(len(drawn), 1):
            self._drawn = drawn
            rows.clear_options()
            rows.add_options([Option(line) for line in lines])
            if not lines:
                rows.add_option(Option("nothing runs, and there is no snapshot", disabled=True))
        if keys:
            at = keys.index(self._chosen_key) if self._chosen_key in keys else 0
            self._chosen_key = keys[at]
            if rows.highlighted != at:
                rows.highlighted = at
        running = sum(node.kind == "running" for node in self._members)
        kept = sum(node.kind == "snapshot" for node in self._members)
        self.say(f"{running} running · {count(kept, 'snapshot')}")
        self._draw_facts()

    def _line(self, row: Row) -> Text:
        """Branches, sign, title … state, moment: the right part in fixed columns."""
        node, view = row.node, self._calls.view_of(row.node)
        state = view.shown_state if view is not None else "exited"
        glyph, color = theme.state_glyph(state), theme.state_color(state)
        if node.kind == "snapshot":
            glyph, color = theme.snapshot_glyph(), theme.look().snapshot
        elif node.kind == "gone":
            color = ""
        mark = theme.mark_glyph() if view is not None and view.marked else " "
        room = max(self.size.width * 96 // 100 - 8 - STATE_CELLS - MOMENT_CELLS, 10)
        text = Text(mark + theme.branches(row.branches))
        text.append(f"{glyph} ", color)
        folded = f"  +{row.folded}" if row.folded else ""
        title = clip(title_of(node), max(room - text.cell_len - len(folded), 4)) + folded
        text.append(title, "bold" if node.kind == "running" else "")
        text.pad_right(max(room - text.cell_len, 0))
        text.append(f" {clip(state_of(node, view), STATE_CELLS):<{STATE_CELLS}}", color)
        text.append(f" {moment(node.at_ms):>{MOMENT_CELLS}}")
        text.no_wrap = True
        return text

    def _draw_facts(self) -> None:
        node, facts = self.chosen, self.query_one("#facts", Static)
        rows = facts_of(node, self._calls.view_of(node)) if node is not None else []
        facts.update(table_of(rows) if rows else "")

    @on(OptionList.OptionHighlighted)
    def _moved(self, event: OptionList.OptionHighlighted) -> None:
        if event.option_index < len(self._rows):
            self._chosen_key = self._rows[event.option_index].node.key
            self._draw_facts()

    @on(OptionList.OptionSelected)
    def _open(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if (node := self.chosen) is not None:
            if node.kind == "gone":
                self.action_fold(node.key not in self._folded)
            else:
                self._calls.open_member(node)

    def action_step(self, by: int) -> None:
        """Move the cursor."""
        rows = self.query_one(OptionList)
        rows.action_cursor_down() if by > 0 else rows.action_cursor_up()

    def action_fold(self, fold: bool) -> None:
        """Hide what is below the chosen member, or show it; nothing to hide: go to its parent."""
        node = self.chosen
        if node is None:
            return
        below = descendants(self._members, [each.key for each in self._members].index(node.key))
        if not fold:
            self._folded.discard(node.key)
        elif below and node.key not in self._folded:
            self._folded.add(node.key)
        elif node.parent is not None:
            self._chosen_key = node.parent
        self._draw()

    def action_show_members(self) -> None:
        """The panes of the chosen member and of all below it, on a tab of their own."""
        if (node := self.chosen) is not None:
            at = [each.key for each in self._members].index(node.key)
            self._calls.show_members(node, [node, *descendants(self._members, at)])

    def action_act(self, verb: str) -> None:
        """Do something to the chosen member."""
        if (node := self.chosen) is not None:
            self._calls.act_on_member(verb, node)
            self._draw()

    def action_help(self) -> None:
        """What the keys do here."""
        from machinen_tui.widgets.dialogs import NoteDialog

        cast("App[object]", self.app).push_screen(  # pyright: ignore[reportUnknownMemberType]
            NoteDialog("keys of the lineage", HELP)
        )


HELP = """enter  a sandbox: its pane; a snapshot: restore it
o  panes of all below it, on a tab
f  fork (of a snapshot: restore under another name)
r  restore · u  rewind its sandbox to this snapshot
l  label and note · p  pin, unpin · m  rename
space  mark · D  compare · M  promote
x  stop it, or delete the snapshot
left right  fold, unfold"""
