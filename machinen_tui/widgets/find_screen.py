"""Search all panes at once: hits as one types, Enter goes to the highlighted one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option
from textual.worker import Worker

from machinen_tui.find_all import MAX_HITS, Hit, find_all
from machinen_tui.pane_search import characters, compiled
from machinen_tui.roster import SandboxView
from machinen_tui.widgets.dialogs import Dialog, KeyHint

MAX_SHOWN_LINE = 300


class FindScreen(Dialog[tuple[Hit, re.Pattern[str]]]):
    """Answers the chosen hit and the pattern that found it."""

    SHAPE = "dialog -full"
    TITLE_TEXT = "search all panes"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("down", "step(1)", show=False, priority=True),
        Binding("up", "step(-1)", show=False, priority=True),
        Binding("pagedown", "step(10)", show=False, priority=True),
        Binding("pageup", "step(-10)", show=False, priority=True),
    ]

    def __init__(self, views: Sequence[SandboxView], typed: str = "") -> None:
        super().__init__()
        self._views = views
        self._typed = typed
        self._hits: list[Hit] = []
        self._pattern: re.Pattern[str] | None = None
        self._worker: Worker[None] | None = None

    def keys(self) -> Sequence[KeyHint]:
        return (("enter", "enter goes there"), ("escape", "esc closes"))

    def fields(self) -> ComposeResult:
        yield Input(self._typed, id="find", placeholder="a regular expression", compact=True)
        yield OptionList(id="hits", compact=True)

    def on_mount(self) -> None:
        self.query_one(Input).focus()
        self._search_for(self._typed)

    @on(Input.Changed)
    def search_again(self, event: Input.Changed) -> None:
        event.stop()
        self._search_for(event.value)

    def _search_for(self, typed: str) -> None:
        self._hits = []
        self.query_one(OptionList).clear_options()
        try:
            self._pattern = compiled(typed)
        except ValueError as error:
            self._pattern = None
            if self._worker is not None:
                self._worker.cancel()
            self.say(str(error) if typed else "", wrong=bool(typed))
            return
        self._worker = self._search(self._pattern)

    @work(exclusive=True)
    async def _search(self, pattern: re.Pattern[str]) -> None:
        rows = self.query_one(OptionList)
        width = max((len(view.name) for view in self._views), default=0)
        self.say("searching …")
        async for batch in find_all(self._views, pattern):
            self._hits += batch
            rows.add_options([Option(_row(hit, width)) for hit in batch])
            if rows.highlighted is None:
                rows.highlighted = 0
            self.say(self._summary("so far"))
        self.say(self._summary(""))

    def _summary(self, state: str) -> str:
        panes = len({hit.view.key for hit in self._hits})
        more = " or more" if len(self._hits) >= MAX_HITS else ""
        lines = "1 line" if len(self._hits) == 1 else f"{len(self._hits)} lines"
        where = f"in {panes} of {len(self._views)} panes"
        return f"{lines}{more} {where} {state}".rstrip() if self._hits else f"nothing {state}"

    def action_step(self, by: int) -> None:
        rows = self.query_one(OptionList)
        if self._hits:
            rows.highlighted = min(max((rows.highlighted or 0) + by, 0), len(self._hits) - 1)

    @on(Input.Submitted)
    def accept(self) -> None:
        highlighted = self.query_one(OptionList).highlighted
        if highlighted is not None:
            self._answer(highlighted)

    @on(OptionList.OptionSelected)
    def accept_clicked(self, event: OptionList.OptionSelected) -> None:
        self._answer(event.option_index)

    def _answer(self, index: int) -> None:
        if self._pattern is not None and index < len(self._hits):
            self.dismiss((self._hits[index], self._pattern))


def _row(hit: Hit, width: int) -> Text:
    """The pane and the line, the match marked; what guests wrote is never taken for markup."""
    text = hit.match.text
    first, last = (characters(text, column) for column in (hit.match.start, hit.match.end))
    before = max(first - 40, 0)
    line = text[before : before + MAX_SHOWN_LINE]
    shown = "".join(c if c.isprintable() else " " for c in line)
    row = Text(no_wrap=True, overflow="ellipsis")
    row.append(hit.view.name.ljust(width) + "  ", style="bold")
    row.append("…" if before else "")
    row.append(shown[: first - before])
    row.append(shown[first - before : last - before], style="reverse")
    row.append(shown[last - before :])
    return row
