"""A log over the whole window: it follows, and what is typed filters it at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input, Static

from machinen_tui.gateway import Console
from machinen_tui.log_lines import LogLines
from machinen_tui.widgets.dialogs import FilteredDialog, KeyHint, plain
from machinen_tui.widgets.log_view import LogView

READ_S = 0.3
"""A file tells nobody that it has grown."""


class LogScreen(FilteredDialog[None]):
    """Shows a console. Owns and closes it. `name`: whose it is; empty: everybody's.

    With `from_top` it is a text to read, and does not follow its end.
    """

    SHAPE = "dialog -full"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "leave", show=False, priority=True),
        Binding("up", "scroll(-1)", show=False, priority=True),
        Binding("down", "scroll(1)", show=False, priority=True),
        Binding("pageup", "page(-1)", show=False, priority=True),
        Binding("pagedown", "page(1)", show=False, priority=True),
        Binding("ctrl+left", "aside(-1)", show=False, priority=True),
        Binding("ctrl+right", "aside(1)", show=False, priority=True),
        Binding("ctrl+home", "top", show=False, priority=True),
        Binding("ctrl+end", "bottom", show=False, priority=True),
    ]

    def __init__(self, name: str, console: Console, *, from_top: bool = False) -> None:
        super().__init__()
        self._subject, self._from_top = name, from_top
        self._log_file = console
        self._lines = LogLines()

    def title_text(self) -> str:
        title = self._log_file.title
        return plain(f"{title} of {self._subject}" if self._subject else title)

    def keys(self) -> Sequence[KeyHint]:
        return (("pageup", "pgup"), ("pagedown", "pgdn"), ("ctrl+right", "ctrl-→ aside"),
                ("ctrl+end", "ctrl-end follows"), ("escape", "esc closes"))  # fmt: skip

    def fields(self) -> ComposeResult:
        yield LogView(self._lines)
        yield Input(placeholder="type to filter", id="filter", compact=True)
        yield Static("", id="where", markup=False)

    def on_mount(self) -> None:
        self.query_one("#filter").focus()
        self.set_interval(READ_S, self._read)
        self.call_after_refresh(self._read)

    def on_unmount(self) -> None:
        self._log_file.close()

    def _read(self) -> None:
        data = self._log_file.read()
        if data:
            self._lines.feed(data)
            view = self.query_one(LogView)
            view.show_lines()
            if self._from_top:
                view.scroll_home(animate=False)
        self._say_where()

    def _say_where(self) -> None:
        view = self.query_one(LogView)
        matching = len(self._lines.shown())
        counted = f"{matching} of {self._lines.total} lines" if self._lines.needle else (
            f"{self._lines.total} lines"
        )  # fmt: skip
        state = "following" if view.follows else "scrolled back"
        said = counted if self._from_top else f"{counted} · {state}"
        self.query_one("#where", Static).update(said)

    @on(Input.Changed, "#filter")
    def _filter(self, event: Input.Changed) -> None:
        event.stop()
        self._lines.filter(event.value)
        view = self.query_one(LogView)
        view.show_lines()
        view.scroll_end(animate=False)
        self._say_where()

    def action_scroll(self, by: int) -> None:
        self.query_one(LogView).scroll_relative(y=by, animate=False)
        self.call_after_refresh(self._say_where)

    def action_page(self, by: int) -> None:
        view = self.query_one(LogView)
        view.scroll_relative(y=by * max(view.size.height - 1, 1), animate=False)
        self.call_after_refresh(self._say_where)

    def action_aside(self, by: int) -> None:
        view = self.query_one(LogView)
        view.scroll_relative(x=by * max(view.size.width // 2, 1), animate=False)

    def action_top(self) -> None:
        self.query_one(LogView).scroll_home(animate=False)

    def action_bottom(self) -> None:
        self.query_one(LogView).scroll_end(animate=False)
