"""What the keys do: here and now first, then all of them, then the commands. The keys in force, not
the defaults."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from machinen_tui.action_types import APP, MOVE, PANES, SANDBOX, VIEW
from machinen_tui.commands import COMMANDS
from machinen_tui.keymap import Keymap

Row = tuple[str, str]
Section = tuple[str, list[Row]]
TWO_COLUMNS, TWO_COMMANDS = 110, 180
"""From these widths of the window on, two halves stand beside each other, two commands do."""

TYPING: tuple[Row, ...] = (
    ("Ctrl-] Ctrl-]", "stop typing; a single Ctrl-] goes to the guest"),
    ("shift+pageup", "scroll back while typing; shift+pagedown towards now"),
)
PALETTE: Row = ("Ctrl-P", "palette: every command, by name")
KEYS: tuple[Row, ...] = (*Keymap().rows(), *TYPING, PALETTE)
"""The defaults; the README's table has each."""


class HelpScreen(ModalScreen[None]):
    """Closed by any of its keys. `here` are the keys that work now, `subject` on what."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,enter,f1", "dismiss(None)", show=False)
    ]

    def __init__(self, keymap: Keymap, here: Sequence[Row], subject: str, *, width: int) -> None:
        super().__init__()
        self._keymap, self._here, self._subject = keymap, list(here), subject
        self._wide = width >= TWO_COLUMNS
        self._pairs = 2 if width >= TWO_COMMANDS else 1

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help", classes="dialog") as box:
            box.border_title = "keys and commands"
            box.border_subtitle = "[@click=screen.dismiss(None)][bold $accent]esc[/] closes[/]"
            wide = self._wide
            yield Static(self._subject, classes="heading", markup=False)
            yield Static(table_of_keys(self._here, pairs=5 if wide else 4))
            with Horizontal() if wide else Vertical():
                for half in self._sections():
                    with Vertical():
                        for title, rows in half:
                            yield Static(title, classes="heading")
                            yield Static(table_of_keys(rows))
            commands = [(command.usage, command.help) for command in COMMANDS]
            yield Static("commands", classes="heading")
            yield Static(table_of_keys(commands, pairs=self._pairs))

    def _sections(self) -> tuple[list[Section], list[Section]]:
        rows = self._keymap.rows
        return (
            [("on the selected sandbox", rows(SANDBOX)), ("to look at", rows(VIEW)),
             ("the application", [*rows(APP), PALETTE])],
            [("while typing into a sandbox", list(TYPING)), ("moving", rows(MOVE)),
             ("panes and tabs", rows(PANES))],
        )  # fmt: skip


def table_of_keys(rows: Sequence[Row], pairs: int = 1) -> Table:
    """Rows of key and meaning, `pairs` beside each other; nothing in them is markup."""
    table = Table.grid(padding=(0, 2))
    for _ in range(pairs):
        table.add_column(style="bold", no_wrap=True, min_width=12 if pairs == 1 else 1)
        table.add_column()
    for at in range(0, len(rows), pairs):
        cells = [cell for row in rows[at : at + pairs] for cell in row]
        table.add_row(*(Text(cell) for cell in cells))
    return table
