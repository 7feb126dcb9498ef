"""What the application looked like, kept as it changes, so that the next one goes on from there,
however this one ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from machinen_tui import layout_store

if TYPE_CHECKING:
    from machinen_tui.app import MachinenApp


def spell(app: MachinenApp) -> dict[str, Any]:
    """Selection, marks, layout and view as values."""
    live = app.roster.live()
    return {
        "selected": app.list.selected,
        "marked": [view.key for view in live if view.marked],
        "single": app.grid.single,
        "zoomed": app.grid.zoomed,
        "layout": layout_store.spell(app.grid.workspace, {view.key: view.name for view in live}),
    }


def apply(app: MachinenApp, given: Mapping[str, object]) -> None:
    """Make it look like that as far as the sandboxes still run; foreign values mean nothing."""
    if not given or not app.roster.live():
        return
    live = {view.name: view.key for view in app.roster.live()}
    order = [view.key for view in app.roster.shown()]
    app.grid.workspace = layout_store.read(given.get("layout"), live, order, app.grid.area)
    marked = given.get("marked")
    wanted = cast("list[object]", marked) if isinstance(marked, list) else []
    for view in app.roster.live():
        view.marked = view.key in wanted
    app.grid.single = given.get("single") is True
    app.grid.zoomed = given.get("zoomed") is True
    app.sandboxes_changed()
    selected = given.get("selected")
    if isinstance(selected, str) and selected in app.roster.sandboxes:
        app.select(selected)


class Resume:
    """Keeps the session of one application; nothing before `begin`."""

    def __init__(self, app: MachinenApp) -> None:
        self._app = app
        self._kept: dict[str, Any] | None = None

    def begin(self) -> None:
        """Go on from where the last one was, if the settings want it."""
        if self._app.habits.config.restore:
            apply(self._app, self._app.gateway.recall_session())
        self._kept = spell(self._app)

    def keep(self) -> None:
        """Once a second: write down what changed."""
        if self._kept is None or not self._app.list.is_attached:
            return
        now = spell(self._app)
        if now != self._kept:
            self._kept = now
            self._app.gateway.remember_session(now)
