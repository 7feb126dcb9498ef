"""Verbs that watch: the table, the graphs, the wall, what happened; and the alerts."""

from __future__ import annotations

import time

from machinen_tui import alerts
from machinen_tui.screen_verbs import ScreenVerbs


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

        self._app.push_screen(LogScreen("all sandboxes", JournalTail(self._app.watcher.journal)))

    def watch(self) -> None:
        """Once a second: ask guests what is due, say what goes over a threshold."""
        app, config = self._app, self._app.habits.config
        app.prober.poll(app.roster.live(), app.list.selected, config)
        for view in app.roster.shown():
            for alert in alerts.check(view, view.alerts, config, time.monotonic()):
                app.watcher.journal.add("alert", view.name, alert.text)
                app.say(alert.text, "information" if alert.over else "warning", seconds=8)

    def _select_key(self, key: str | None) -> None:
        if key is not None:
            self._app.select(key)
