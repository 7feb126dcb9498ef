"""Verbs about the application itself: looks, settings, what a key does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from machinen_tui import theme
from machinen_tui.habits import look_name
from machinen_tui.screen_verbs import ScreenVerbs

if TYPE_CHECKING:
    from machinen_tui.hints import Hint


class HabitVerbs(ScreenVerbs):
    """The part of `Verbs` that is about no sandbox."""

    def choose_theme(self) -> None:
        """The next look, at once."""
        names = list(theme.LOOKS)
        self.theme_named(names[(names.index(look_name()) + 1) % len(names)])

    def theme_named(self, name: str) -> None:
        """Switch to a look until the application ends."""
        if self._app.habits.colorless:
            self._app.say("NO_COLOR is set: there are no colours to choose", "warning")
            return
        self._app.habits.put_on(self._app, name)
        self._app.say(f'{name} colours · look.theme = "{name}" in tui.toml keeps them')

    def settings(self) -> None:
        """The files of settings, what is wrong in them, what they change."""
        from machinen_tui.widgets.settings_screen import SettingsScreen

        self._app.push_screen(SettingsScreen(self._app.habits, self.reload))

    def reload(self) -> None:
        """Read the files again; all of it takes effect at once."""
        habits = self._app.habits
        habits.load()
        habits.wear(self._app)
        self._app.sandboxes_changed()
        if not habits.problems:
            self._app.say("settings and keys are read again")

    def tell_problems(self) -> None:
        """Say at the start what is wrong in the files."""
        problems = self._app.habits.problems
        if problems:
            more = f"\n… and {len(problems) - 2} more" if len(problems) > 2 else ""
            key = self._app.habits.keymap.shown("settings")
            shown = "\n".join(str(problem) for problem in problems[:2])
            self._app.say(f"{shown}{more}\n{key} shows the settings", "warning", seconds=12)

    def tour(self) -> None:
        """The guided tour: from the start, or where it was left."""
        self._app.tour.begin()

    def skip_tour(self) -> None:
        """No more of it."""
        self._app.tour.skip()

    def help(self) -> None:
        """What the keys do here and now."""
        from machinen_tui.hints import hints_for
        from machinen_tui.widgets.help_screen import HelpScreen

        node, keymap = self._app.selected_node, self._app.habits.keymap
        here: list[Hint] = hints_for("navigate", node, keymap)
        self._app.push_screen(HelpScreen(keymap, here, _subject(node), width=self._app.size.width))


def _subject(node: object) -> str:
    from machinen_tui.roster import Node

    if not isinstance(node, Node):
        return "here: no sandbox is selected"
    if node.snapshot is not None:
        return f"here: on a snapshot of {node.snapshot.name}"
    assert node.sandbox is not None
    return f"here: on {node.sandbox.name}, {node.sandbox.shown_state}"
