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
from machinen_tui.config import SORTS, Config
from machinen_tui.roster import Roster, SandboxView
from machinen_tui.widgets.dialogs import FilteredDialog, KeyHint

DRAW_S = 1.0


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
        Binding("enter", "choose", show=False, priority=True),
        Binding("ctrl+s", "sort", show=False, priority=True),
        Binding("ctrl+r", "reverse", show=False, priority=True),
    ]

    def __init__(self, roster: Roster, config: Config) -> None:
        super().__init__()
        self._roster = roster
        self._columns: list[Column] = [NAME, *(COLUMNS[name] for name in config.columns)]
        self._sort, self._reverse = config.sort, False

    def keys(self) -> Sequence[KeyHint]:
        return (("enter", "enter selects"), ("ctrl+s", "ctrl-s sorts"),
                ("ctrl+r", "ctrl-r turns round"), ("escape", "esc closes"))  # fmt: skip

    def fields(self) -> ComposeResult:
        yield DataTable[Text](id="table", cursor_type="row", zebra_stripes=False)
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
        """All rows anew, the cursor on the sandbox it was on."""
        table, chosen = self._table, self._chosen()
        needle = self.query_one("#filter", Input).value
        views = self._roster.shown()
        rows = arranged(views, self._sort, reverse=self._reverse, needle=needle)
        table.clear(columns=True)
        for column in self._columns:
            sorts = " ↓" if column.name == self._sort and not theme.is_plain() else ""
            table.add_column(Text(column.title + sorts, justify=_side(column)), key=column.name)
        for view in rows:
            table.add_row(*(self._cell(column, view) for column in self._columns), key=view.key)
        keys = [view.key for view in rows]
        if chosen in keys:
            table.move_cursor(row=keys.index(chosen), animate=False)
        turned = " (turned round)" if self._reverse else ""
        self.say(f"{len(rows)} of {len(views)} · sorted by {self._sort}{turned}")

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
        """Sort by the next column that is shown."""
        shown = {column.name for column in self._columns} | {"lineage"}
        names = [name for name in SORTS if name in shown]
        at = names.index(self._sort) if self._sort in names else -1
        self._sort, self._reverse = names[(at + 1) % len(names)], False
        self._draw()

    def action_reverse(self) -> None:
        """The other way round."""
        self._reverse = not self._reverse
        self._draw()


def _side(column: Column) -> Literal["left", "right"]:
    return "right" if column.right else "left"
