"""Verbs that watch: the table, the graphs, the wall, what happened, recordings; and
the alerts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from machinen_tui import alerts
from machinen_tui.screen_verbs import ScreenVerbs

if TYPE_CHECKING:
    from machinen_tui.roster import SandboxView


class WatchVerbs(ScreenVerbs):
    """The part of `Verbs` that only looks."""

    def table(self) -> None:
        """Every sandbox as a row, sorted and filtered."""
        from machinen_tui.widgets.table_screen import TableScreen

        app = self._app
        app.push_screen(TableScreen(app.roster, app.habits.config), self._select_key)

    def wall(self) -> None:
        """Every sandbox as a tile."""
        from machinen_tui.widgets.wall_screen import WallScreen

        app = self._app
        app.push_screen(WallScreen(app.roster, app.list.selected), self._select_key)

    def graphs(self) -> None:
        """The selected sandbox over the last hour."""
        from machinen_tui.widgets.graphs_screen import GraphsScreen

        if (view := self.selected_any()) is not None:
            self._app.push_screen(GraphsScreen(view))

    def journal(self) -> None:
        """What happened to all sandboxes since the application started."""
        from machinen_tui.journal import JournalTail
        from machinen_tui.widgets.log_screen import LogScreen

        self._app.push_screen(LogScreen("", JournalTail(self._app.watcher.journal)))

    def watch(self) -> None:
        """Once a second: ask guests what is due, say what goes over a threshold."""
        app, config = self._app, self._app.habits.config
        app.prober.poll(app.roster.live(), app.list.selected, config)
        self.end_recordings()
        above = len(app.screen_stack) > 1  # a table, a wall: they show all
        app.watcher.look_at(app.roster.sandboxes if above else self._figures_in_view())
        for view in app.roster.shown():
            for alert in alerts.check(view, view.alerts, config, time.monotonic()):
                app.watcher.journal.add("alert", view.name, alert.text)
                app.say(alert.text, "information" if alert.over else "warning", seconds=8)

    def _figures_in_view(self) -> set[str]:
        """The keys of those whose figures one sees: rows of the list, and the graph's."""
        app = self._app
        in_front = app.attachment.key or app.list.selected
        return app.list.keys_in_view() | ({in_front} if in_front else set[str]())

    # -- recordings -------------------------------------------------------------------------------

    def record(self) -> None:
        """Record the selected terminal, or end that."""
        if (view := self.selected_live()) is not None:
            self.record_view(view)

    def record_view(self, view: SandboxView) -> None:
        """Record a terminal into our directory, or end that."""
        from machinen_tui.asciicast import CastError, Recorder

        session = view.session
        if session is None:
            self._app.say(f"{view.name} has no terminal yet", "warning")
        elif session.tap is not None:
            self._end_recording(view)
        else:
            path = self._app.gateway.new_recording(view.name)
            model = session.model
            try:
                size = model.columns, model.lines
                cursor = model.terminal.column(), model.terminal.cursor.y
                screen = model.screen_text()
                session.tap = Recorder(path, view.name, size, screen, cursor=cursor)
            except CastError as error:
                self._app.say(str(error), "error")
            else:
                self._app.say(f"recording {view.name} into {path}")
        self._app.sandboxes_changed()

    def end_recordings(self) -> None:
        """End those of sandboxes that ended and those that are full."""
        for view in self._app.roster.sandboxes.values():
            tap = view.session.tap if view.session else None
            if tap is not None and (view.gone or tap.closed):
                self._end_recording(view)

    def _end_recording(self, view: SandboxView) -> None:
        session = view.session
        if session is not None and session.tap is not None:
            session.tap.close()
            self._app.say(f"{view.name} is recorded: {session.tap.path}")
            session.tap = None

    def replay(self, path: str) -> None:
        """Play a recording; no path: the newest of ours."""
        from machinen_tui.asciicast import CastError, read_cast
        from machinen_tui.widgets.replay_screen import ReplayScreen

        found = Path(path).expanduser() if path else self._app.gateway.newest_recording()
        if found is None:
            self._app.say("there is no recording yet; V makes one", "warning")
            return
        try:
            recorded = read_cast(found)
        except CastError as error:
            self._app.say(str(error), "warning")
            return
        self._app.push_screen(ReplayScreen(recorded))

    def _select_key(self, key: str | None) -> None:
        if key is not None:
            self._app.select(key)
