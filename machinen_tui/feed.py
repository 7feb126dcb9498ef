"""What happens when a terminal was fed: its rows are shown, or it is noted that there is something
to see; and in which order terminals are fed."""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from machinen_tui import attention
from machinen_tui.cursor_line import line_before_cursor
from machinen_tui.drain import Drain
from machinen_tui.frame_driver import lags
from machinen_tui.garbage import Sweeper
from machinen_tui.row_painter import RowPainter

if TYPE_CHECKING:
    from machinen_tui.app import MachinenApp
    from machinen_tui.roster import SandboxView
    from machinen_tui.session import PaneSession
    from machinen_tui.widgets.terminal_pane import TerminalPane

REDRAW_S = 1.0
"""A prompt one has seen, written so soon after its terminal changed size, is no news."""


class Feed:
    """Owns the drain and the painter of `app`."""

    def __init__(self, app: MachinenApp) -> None:
        self._app = app
        self.painter = RowPainter(app)
        self.drain = Drain(self._in_order, self._fed, self.painter.flush, self._terminal_lags)
        self._sweeper = Sweeper()

    def _terminal_lags(self) -> bool:
        return lags(self._app._driver)  # pyright: ignore[reportPrivateUsage]

    @property
    def front(self) -> str | None:
        """The sandbox one looks at."""
        return self._app.attachment.key or self._app.list.selected

    def _fed(self, session: PaneSession) -> None:
        """A terminal was fed: show its rows, or say that there is something to see."""
        for pane in self._app.grid.panes():
            if pane.view.session is session:
                self._pane_fed(pane, session)

    def _pane_fed(self, pane: TerminalPane, session: PaneSession) -> None:
        view, terminal = pane.view, session.model.terminal
        rang, terminal.bells = terminal.bells > 0, 0
        if terminal.title != view.title:
            view.title = terminal.title
            pane.update_frame()
        if pane.display:
            pane.show_changes()
        before = attention.why(view)
        now = time.monotonic()
        redrawn = (
            now - session.asked_size_at < REDRAW_S
            and view.news.seen_line
            and view.news.seen_line == line_before_cursor(session.model)
        )
        if session.connected and view.key != self.front and not redrawn:  # a replay is no news
            attention.spoke(view, now, rang=rang, shown=pane.display)
        if attention.why(view) != before:
            self._app.list.refresh()

    def look_around(self) -> None:
        """Once a second: who waits, who fell silent, who ended; what is in front was seen."""
        self._sweeper.tick(self.drain.turns)
        now = time.monotonic()
        for view in self._app.roster.shown():
            if view.key == self.front:
                attention.looked_at(view)
                view.news.seen_line = _line(view)
            else:
                attention.check(view, now, partial(_line, view))

    def _in_order(self) -> Iterable[PaneSession]:
        """The pane in front first, then those on screen, then the hidden. Readers ask for the first
        with all they receive: the others are put in order only for who goes on asking."""
        view = self._app.roster.sandboxes.get(self.front or "")
        front = view.session if view is not None else None
        if front is not None:
            yield front
        for pane in sorted(self._app.grid.panes(), key=lambda pane: not pane.display):
            if (session := pane.view.session) is not None and session is not front:
                yield session


def _line(view: SandboxView) -> str:
    """What stands before its cursor."""
    return line_before_cursor(view.session.model) if view.session is not None else ""
