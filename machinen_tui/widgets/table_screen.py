"""Every sandbox as a row: sorted by any column, filtered as one types, kept true while open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import DataTable, Input

from machinen_tui import theme
from machinen_tui.columns import COLUMNS, NAME, Column, arranged
from machinen_tui.config import Config
from machinen_tui.roster import Roster, SandboxView
from machinen_tui.widgets.dialogs import FilteredDialog, KeyHint

DRAW_S = 1.0
SIDEWAYS = 10
"""Cells a key scrolls."""


class TableScreen(FilteredDialog[str]):
    """Answers with the key of the sandbox that was chosen."""

    TITLE_TEXT = "all sandboxes"
    SHAPE = "dialog -full"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", show=False, priority=True),
        *[
            Binding(key, f"move('{key}')", show=False, priority=True)
            for key in ("up", "down", "pageup", "pagedown")
        ],
        Binding("left", "sideways(-1)", show=False, priority=True),
        Binding("right", "sideways(1)", show=False, priority=True),
        Binding("enter", "choose", show=False, priority=True),
        Binding("ctrl+s", "sort", show=False, priority=True),
        Binding("ctrl+r", "reverse", show=False, priority=True),
    ]

    def __init__(self, roster: Roster, config: Config) -> None:
        super().__init__()
        self._roster = roster
        self._columns: list[Column] = [NAME, *(COLUMNS[name] for name in config.columns)]
        self._sort, self._reverse = config.sort, False
        self._drawn: list[str] = []
        """Titles of the columns and keys of the rows that stand there."""

    def keys(self) -> Sequence[KeyHint]:
        return (("enter", "enter selects"), ("ctrl+s", "ctrl-s sorts"),
                ("ctrl+r", "ctrl-r turns"), ("right", "←→ columns"),
                ("escape", "esc closes"))  # fmt: skip

    def fields(self) -> ComposeResult:
        yield DataTable[Text](id="table", cursor_type="row", fixed_columns=1)
        yield Input(placeholder="type to filter: a name, a state, :port", id="filter", compact=True)

    def on_mount(self) -> None:
        self._table.can_focus = False  # a click in it must not take the keys from the filter
        self.query_one("#filter").focus()
        self._draw()
        self.set_interval(DRAW_S, self._draw)

    @property
    def _table(self) -> DataTable[Text]:
        return self.query_one("#table", DataTable)  # pyright: ignore[reportUnknownVariableType]

    def _draw(self) -> None:
        """What is true now, the cursor on the sandbox it was on."""
        needle = self.query_one("#filter", Input).value
        views = self._roster.shown()
        rows = arranged(views, self._sort, reverse=self._reverse, needle=needle)
        shape = [*map(self._title, self._columns), *(view.key for view in rows)]
        if shape == self._drawn:
            self._fill(rows)
        else:
            self._drawn = shape
            self._build(rows)
        turned = " (turned round)" if self._reverse else ""
        self.say(f"{len(rows)} of {len(views)} · sorted by {self._sort}{turned}")

    def _fill(self, rows: Sequence[SandboxView]) -> None:
        """New figures where they stand: nothing scrolls."""
        for view in rows:
            for column in self._columns:
                cell = self._cell(column, view)
                if cell != self._table.get_cell(view.key, column.name):
                    self._table.update_cell(view.key, column.name, cell, update_width=True)

    def _build(self, rows: Sequence[SandboxView]) -> None:
        """All of it anew, scrolled sideways as it was."""
        table, chosen, x = self._table, self._chosen(), self._table.scroll_x
        table.clear(columns=True)
        for column in self._columns:
            title = Text(self._title(column), justify=_side(column))
            table.add_column(title, key=column.name)
        for view in rows:
            table.add_row(*(self._cell(column, view) for column in self._columns), key=view.key)
        keys = [view.key for view in rows]
        if chosen in keys:
            table.move_cursor(row=keys.index(chosen), animate=False)
        table.call_after_refresh(table.scroll_to, x=x, animate=False)

    def _title(self, column: Column) -> str:
        sorts = " ↓" if column.name == self._sort and not theme.is_plain() else ""
        return column.title + sorts

    def _cell(self, column: Column, view: SandboxView) -> Text:
        color = theme.state_color(view.shown_state) if column.name == "state" else ""
        return Text(column.text(view), style=color, justify=_side(column))

    def _chosen(self) -> str | None:
        """The key of the row the cursor is on."""
        table = self._table
        if not table.row_count:
            return None
        return table.coordinate_to_cell_key(table.cursor_coordinate).row_key.value

    @on(Input.Changed, "#filter")
    def _filter(self, event: Input.Changed) -> None:
        event.stop()
        self._draw()

    @on(DataTable.HeaderSelected)
    def _sort_by(self, event: DataTable.HeaderSelected) -> None:
        name = event.column_key.value or "name"
        self._reverse = name == self._sort and not self._reverse
        self._sort = name
        self._draw()

    @on(DataTable.RowSelected)
    def _clicked(self, event: DataTable.RowSelected) -> None:
        self.dismiss(event.row_key.value)

    def action_move(self, key: str) -> None:
        """Move the cursor though the filter has the keys."""
        table = self._table
        {"up": table.action_cursor_up, "down": table.action_cursor_down,
         "pageup": table.action_page_up, "pagedown": table.action_page_down}[key]()  # fmt: skip

    def action_choose(self) -> None:
        """Select the sandbox of this row."""
        self.dismiss(self._chosen())

    def action_sort(self) -> None:
        """Sort by the next column, which comes into view; after the last one by lineage."""
        names = ["lineage", *(column.name for column in self._columns)]
        at = names.index(self._sort) if self._sort in names else -1
        self._sort, self._reverse = names[(at + 1) % len(names)], False
        self._draw()
        self._table.call_after_refresh(self._show_sorted)

    def _show_sorted(self) -> None:
        """Bring the column that sorts into view, right of the names, which always are."""
        table = self._table
        widths = [column.get_render_width(table) for column in table.ordered_columns]
        names = [column.name for column in self._columns]
        if self._sort in names[1:]:
            at = names.index(self._sort)
            start, end = sum(widths[:at]), sum(widths[: at + 1])
            left = min(max(table.scroll_x, end - table.size.width), start - widths[0])
            table.scroll_to(x=left, animate=False)

    def action_sideways(self, by: int) -> None:
        """Show columns further left or right; with a filter, move in that."""
        field = self.query_one("#filter", Input)
        if field.value:
            (field.action_cursor_right if by > 0 else field.action_cursor_left)()
        else:
            self._table.scroll_relative(x=by * SIDEWAYS, animate=False)

    def action_reverse(self) -> None:
        """The other way round."""
        self._reverse = not self._reverse
        self._draw()


def _side(column: Column) -> Literal["left", "right"]:
    return "right" if column.right else "left"
