"""Everything about one sandbox on one screen, kept true while it is open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.widgets import Static

from machinen_runtime.errors import MachinenError
from machinen_tui.details import Row, sandbox_rows
from machinen_tui.roster import SandboxView
from machinen_tui.widgets.dialogs import Dialog, KeyHint, plain
from vmm.requests import VmStatus

DRAW_S = 1.0


class DetailsScreen(Dialog[str]):
    """Answers with the key of the verb to go on with, or None."""

    SHAPE = "dialog -wide"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,d,enter", "dismiss(None)", show=False),
        *[
            Binding(key, f"dismiss('{verb}')", show=False)
            for key, verb in (
                ("P", "ports"),
                ("L", "logs"),
                ("c", "copy_files"),
                ("m", "rename"),
                ("G", "graphs"),
            )
        ],
    ]

    def __init__(self, view: SandboxView) -> None:
        super().__init__()
        self._view = view
        self._status: VmStatus | None = None

    def title_text(self) -> str:
        return plain(self._view.name)

    def keys(self) -> Sequence[KeyHint]:
        return (("P", "P ports"), ("G", "G graphs"), ("L", "L log"), ("c", "c copy files"),
                ("m", "m rename"),
                ("escape", "esc closes"))  # fmt: skip

    def fields(self) -> ComposeResult:
        with VerticalScroll():
            yield Static("", id="facts")

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()
        self._draw()
        self.set_interval(DRAW_S, self._draw)
        self.run_worker(self._ask(), exit_on_error=False)

    async def _ask(self) -> None:
        if self._view.handle is None:
            return
        try:
            self._status = await self._view.handle.status()
        except MachinenError as error:
            self.say(f"{error.code}: {error}", wrong=True)
        self._draw()

    def _draw(self) -> None:
        if self.is_attached:
            self.query_one("#facts", Static).update(
                table_of(sandbox_rows(self._view, self._status))
            )


def table_of(rows: list[Row]) -> Table:
    """Rows of label and text; nothing in them is taken for markup."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True, min_width=9)
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(label, Text(text))
    return table
