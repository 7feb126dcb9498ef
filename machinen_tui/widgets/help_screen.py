"""All keys and commands on one screen."""

from __future__ import annotations

from typing import ClassVar

from rich.table import Table
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from machinen_tui.commands import COMMANDS

KEYS = (
    ("up down, j k", "select a sandbox or a snapshot"),
    ("left right, h l, tab", "select the pane beside it"),
    ("enter", "type into the sandbox; restore the snapshot"),
    ("Ctrl-] Ctrl-]", "stop typing; a single Ctrl-] goes to the guest"),
    ("n", "new sandbox: image, memory, ports, mounts, …"),
    ("f, F", "fork it; with options: count, ports, mounts"),
    ("s, S", "snapshot it; with options: engine, place"),
    ("r, B", "restore one of its snapshots; browse all"),
    ("i", "build an image: form, live log, boot the result"),
    ("d", "details: machine, memory, ports, mounts"),
    ("P", "its ports: add, remove, copy the address"),
    ("L", "its console: follow, filter as you type"),
    ("e", "send secrets: masked, never kept"),
    ("m", "another name"),
    ("c", "copy files in or out"),
    ("p", "pause, resume"),
    ("x, X", "power it off (asks) or dismiss it; X dismisses all ended"),
    ("z", "zoom one pane, and back"),
    ("g", "grid, or one pane with tabs"),
    ('%, "', "another pane, or a fork, right of it or below it"),
    ("o, =", "arrange: grid, columns, rows, main, stacked; even"),
    ("O, Y", "let it float, and back; layouts by name"),
    ("shift+arrows", "move its border (or drag it); of a floating one: size"),
    ("ctrl+arrows", "swap with its neighbour; move a floating one"),
    ("t, T, 1-9, [ ]", "own tab, close tab, go to tab"),
    ("space, b", "mark; type into all marked"),
    ("pageup pagedown", "scroll back (while typing: with shift)"),
    ("/, Ctrl-P", "command line; palette"),
    ("q", "leave; sandboxes run on"),
)


class HelpScreen(ModalScreen[None]):
    """Closed by any of its keys."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,enter", "dismiss(None)", show=False)
    ]

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="help", classes="dialog") as box:
            box.border_title = "keys and commands"
            box.border_subtitle = "esc closes"
            yield Static(_table(KEYS))
            yield Static(_table([(c.usage, c.help) for c in COMMANDS]), id="help-commands")


def _table(rows: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True, min_width=20)
    table.add_column()
    for key, text in rows:
        table.add_row(key, text)
    return table
