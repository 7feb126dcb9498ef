"""One command in many sandboxes: a table that groups those that said the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from machinen_tui import theme
from machinen_tui.run_rows import HEAD, report_of, row_of
from machinen_tui.widgets.dialogs import Dialog, KeyHint

if TYPE_CHECKING:
    from machinen_runtime.run_many import OutcomeGroup, RunOutcome

OnOutcome = Callable[["RunOutcome"], None]
Run = Callable[[str, OnOutcome], Awaitable[None]]
ShowText = Callable[[str, str], None]


class RunScreen(Dialog[None]):
    """`run` runs a command in all of `names`, `show` shows a whole output."""

    SHAPE = "dialog -full"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "to_rows", show=False, priority=True),
        Binding("up", "to_input", show=False, priority=True),
    ]

    def __init__(self, names: Sequence[str], run: Run, show: ShowText, command: str = "") -> None:
        super().__init__()
        self._names, self._run, self._show = list(names), run, show
        self._command = command
        self._outcomes: list[RunOutcome] = []
        self._groups: list[OutcomeGroup] = []
        self._under_way = False

    def title_text(self) -> str:
        return f"one command in {len(self._names)} sandboxes"

    def keys(self) -> Sequence[KeyHint]:
        return (("enter", "enter runs; shows a whole output"), ("down", "down rows"),
                ("escape", "esc closes"))  # fmt: skip

    def fields(self) -> ComposeResult:
        yield Static(", ".join(self._names), id="about", markup=False)
        yield Input(self._command, placeholder="a command for the shell: uname -a", id="find",
                    compact=True)  # fmt: skip
        yield Static(f" {HEAD}", id="head", markup=False)
        yield OptionList(id="outcomes", compact=True)

    def on_mount(self) -> None:
        self.query_one(Input).focus()
        if self._command:
            self._start(self._command)

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        event.stop()
        if event.value.strip():
            self._start(event.value.strip())

    def _start(self, command: str) -> None:
        self._outcomes, self._under_way = [], True
        self._draw()
        self.run_worker(self._carry_out(command), exclusive=True, exit_on_error=False)

    async def _carry_out(self, command: str) -> None:
        try:
            await self._run(command, self._came)
        finally:
            self._under_way = False
            if self.is_attached:
                self._draw()

    def _came(self, outcome: RunOutcome) -> None:
        self._outcomes.append(outcome)
        self._draw()

    def _draw(self) -> None:
        from machinen_runtime.run_many import grouped

        self._groups = grouped(self._outcomes)
        rows = self.query_one("#outcomes", OptionList)
        at = rows.highlighted
        rows.clear_options()
        for group in self._groups:
            good = group.first.exit_code == 0
            color = theme.state_color("running") if good else theme.look().balloon
            text = Text(f" {row_of(group, self.size.width * 96 // 100 - 8)}", no_wrap=True)
            text.stylize(color, 0, 13)
            rows.add_option(Option(text))
        if self._groups:
            rows.highlighted = min(at or 0, len(self._groups) - 1)
        done, total = len(self._outcomes), len(self._names)
        failed = sum(each.exit_code != 0 for each in self._outcomes)
        said = f"{done} of {total}" + (" · running" if self._under_way else "")
        said += f" · {len(self._groups)} different" if done else ""
        self.say(said + (f" · {failed} failed" if failed else ""), wrong=failed > 0)

    @on(OptionList.OptionSelected)
    def _open(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if event.option_index < len(self._groups):
            group = self._groups[event.option_index]
            self._show(", ".join(group.names), report_of(group))

    def action_to_rows(self) -> None:
        """Move into the rows, or down in them."""
        rows = self.query_one("#outcomes", OptionList)
        if rows.has_focus:
            rows.action_cursor_down()
        elif self._groups:
            rows.focus()

    def action_to_input(self) -> None:
        """Move up, out of the first row to the command."""
        rows = self.query_one("#outcomes", OptionList)
        if rows.has_focus and rows.highlighted:
            rows.action_cursor_up()
        else:
            self.query_one(Input).focus()
