"""The guided tour: five things one does for real, each told until it has happened.

It is offered once, goes on where it was left, and comes again when it is asked for. Nothing is
simulated: a step ends when the application's own state says that it was done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from machinen_tui.keymap import shown_key

if TYPE_CHECKING:
    from machinen_tui.app import MachinenApp
    from machinen_tui.roster import SandboxView

KEPT = "tour"
"""Where it is kept, see `remembered`: the step one is at, and whether it is over."""


@dataclass(slots=True)
class Seen:
    """What happened since the step began."""

    keys: frozenset[str]
    """The sandboxes there were."""
    happened: set[str] = field(default_factory=set[str])
    """`typed`, `zoomed`, `searched`, `chosen`."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do."""

    title: str
    says: Callable[[MachinenApp, Seen], str]
    done: Callable[[MachinenApp, Seen], bool]


class Tour:
    """The tour of one application; `at` is the step it shows, None while it shows none."""

    def __init__(self, app: MachinenApp) -> None:
        self._app = app
        self.at: int | None = None
        self._seen = Seen(frozenset())

    # -- begin and end ----------------------------------------------------------------------------

    def offer(self) -> None:
        """Begin if it was never begun, go on if it was left."""
        kept = self._kept()
        if kept.get("done") is not True:
            self._go_to(_step_of(kept))

    def begin(self) -> None:
        """Begin, or go on where it was left."""
        kept = self._kept()
        self._go_to(0 if kept.get("done") is True else _step_of(kept))

    def skip(self) -> None:
        """No more of it, unless somebody asks for it."""
        if self.at is not None:
            self._end()
            self._app.say("/tour begins it again", seconds=8)

    def _go_to(self, step: int) -> None:
        self.at = step
        self._seen = Seen(frozenset(view.key for view in self._app.roster.live()))
        self._keep({"step": step, "done": False})
        self._show()

    def _end(self) -> None:
        self.at = None
        self._keep({"step": 0, "done": True})
        self._show()

    # -- what happens -----------------------------------------------------------------------------

    def noticed(self, what: str) -> None:
        """Something that leaves no trace in the application's state (its verbs)."""
        if self.at is not None:
            self._seen.happened.add(what)

    def look(self) -> None:
        """Something may have happened: say what comes next."""
        if self.at is None:
            return
        app, seen = self._app, self._seen
        if app.grid.zoomed:
            seen.happened.add("zoomed")
        mode = app.copying.mode
        if mode is not None and mode.pattern is not None:
            seen.happened.add("searched")
        if not STEPS[self.at].done(app, seen):
            self._show()
        elif self.at + 1 < len(STEPS):
            self._go_to(self.at + 1)
        else:
            self._end()
            app.say("that was the tour; ? lists every key", seconds=12)

    def _show(self) -> None:
        from machinen_tui.widgets.tour_bar import TourBar

        bar = self._app.screen_stack[0].query_one(TourBar)
        if self.at is None:
            bar.hide()
        else:
            step = STEPS[self.at]
            head = f"tour, {self.at + 1} of {len(STEPS)}: {step.title}"
            bar.show(head, step.says(self._app, self._seen))

    # -- what is kept -----------------------------------------------------------------------------

    def _kept(self) -> Mapping[str, object]:
        kept = self._app.gateway.recall().get(KEPT)
        return cast("dict[str, Any]", kept) if isinstance(kept, dict) else {}

    def _keep(self, values: Mapping[str, object]) -> None:
        self._app.gateway.remember({**self._app.gateway.recall(), KEPT: values})


def _step_of(kept: Mapping[str, object]) -> int:
    """The step that was kept; the first if that is none."""
    step = kept.get("step")
    known = isinstance(step, int) and not isinstance(step, bool) and 0 <= step < len(STEPS)
    return cast("int", step) if known else 0


# -- the steps ------------------------------------------------------------------------------------


def _key(app: MachinenApp, action: str) -> str:
    """The key of an action as it is set, or its command."""
    keys = app.habits.keymap.keys_of(action)
    return shown_key(keys[0]) if keys else f"/{action}"


def _subject(app: MachinenApp) -> SandboxView | None:
    """The sandbox a step is about: the selected one, or any."""
    view = app.attachment.view or app.selected_view
    return view if view is not None and not view.gone else None


def _without_one(app: MachinenApp) -> str:
    """What to do while there is no sandbox to try anything with; empty if there is one."""
    live = app.roster.live()
    if not live:
        under_way = app.operations.summary()
        if under_way:
            return f"{under_way}: it appears at the left as soon as its kernel runs."
        return f"First a sandbox: {_key(app, 'new')} asks for one, enter takes what stands there."
    if _subject(app) is None:
        return f"Select a sandbox: {_key(app, 'down')} and {_key(app, 'up')} move through the list."
    return ""


def _say_type(app: MachinenApp, seen: Seen) -> str:
    view = _subject(app)
    if view is None:
        return _without_one(app)
    if view.session is None or not view.session.connected:
        return f"{view.name} is coming up; its terminal will be here in a moment."
    if app.mode != "attached":
        return f"{_key(app, 'open')} gives your keys to {view.name}."
    if "typed" in seen.happened:
        return "That ran in the guest. Ctrl-] twice gives the keys back to the list."
    return f"Every key goes to {view.name} now. Type a command, ls for instance, and enter."


def _say_fork(app: MachinenApp, seen: Seen) -> str:
    view = _subject(app)
    if view is None:
        return _without_one(app)
    if under_way := app.operations.summary():
        return f"{under_way} …"
    return (
        f"{_key(app, 'fork')} forks {view.name} while it runs: the fork has its memory, its disk "
        "and its screen, and both go on apart."
    )


def _say_zoom(app: MachinenApp, seen: Seen) -> str:
    key = _key(app, "zoom")
    if app.grid.zoomed:
        return f"{key} again brings the others back."
    return _without_one(app) or f"{key} lets the selected pane fill the window."


def _say_search(app: MachinenApp, seen: Seen) -> str:
    if app.copying.mode is not None:
        return "n and N go from match to match, v selects, y copies. esc comes back."
    key = _key(app, "search-all")
    return _without_one(app) or (
        f"{key} searches every pane: type a word you see, root for instance; "
        "enter goes to the line."
    )


def _say_palette(app: MachinenApp, seen: Seen) -> str:
    return "Ctrl-P lists every command by name: type some letters of wall, and enter."


def _forked(app: MachinenApp, seen: Seen) -> bool:
    return any(view.source_name and view.key not in seen.keys for view in app.roster.live())


def _back_after(what: str) -> Callable[[MachinenApp, Seen], bool]:
    """It happened, and the list has the keys again."""
    return lambda app, seen: what in seen.happened and app.mode == "navigate"


STEPS = (
    Step("type into it", _say_type, _back_after("typed")),
    Step("fork it", _say_fork, _forked),
    Step("zoom", _say_zoom, lambda app, seen: "zoomed" in seen.happened and not app.grid.zoomed),
    Step("search", _say_search, _back_after("searched")),
    Step("the palette", _say_palette, lambda app, seen: "chosen" in seen.happened),
)
