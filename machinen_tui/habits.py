"""What a person is used to, in force: settings, keys and looks, read from their files and given to
the application. Read again at any time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from machinen_tui import config, keymap, theme
from machinen_tui.config import Config, Problem
from machinen_tui.keymap import Keymap

if TYPE_CHECKING:
    from textual.app import App
    from textual.theme import Theme

CONFIG_FILE, KEYS_FILE = "tui.toml", "keys.toml"


class Habits:
    """`directory` holds the two files; None: the defaults, whatever a disk says."""

    def __init__(self, directory: Path | None = None, *, colorless: bool = False) -> None:
        self.directory = directory
        self.colorless = colorless
        """NO_COLOR: not one colour, whatever the theme."""
        self.config, self.keymap = Config(), Keymap()
        self.problems: list[Problem] = []
        self.load()

    @classmethod
    def of_user(cls) -> Habits:
        """The files of this user and what the environment says (NO_COLOR, no-color.org)."""
        return cls(config.config_directory(), colorless=bool(os.environ.get("NO_COLOR")))

    @property
    def config_path(self) -> Path | None:
        """Where the settings are read from."""
        return self.directory / CONFIG_FILE if self.directory else None

    @property
    def keys_path(self) -> Path | None:
        """Where the keys are read from."""
        if self.directory is None:
            return None
        return self.directory / Path(self.config.keymap or KEYS_FILE).expanduser()

    def load(self) -> None:
        """Read both files; what is wrong in them is in `problems`."""
        if self.config_path is None:
            return
        self.config, self.problems = config.read(self.config_path)
        if self.keys_path is not None:
            self.keymap, more = keymap.read(self.keys_path)
            if self.config.keymap and not self.keys_path.exists():
                more = [Problem(str(self.config_path), "keys.file", "there is no such file")]
            self.problems += more

    # -- looks ------------------------------------------------------------------------------------

    @property
    def look_wanted(self) -> str:
        """The name of the look that is set."""
        return "ansi" if self.colorless else self.config.theme

    @property
    def theme_name(self) -> str:
        """The application's name for the theme that is set."""
        return theme.LOOKS[self.look_wanted].theme.name

    def dress(self, app: App[None]) -> None:
        """Give the application the looks that are set; follow later switches."""
        app.theme_changed_signal.subscribe(app, lambda chosen: self._follow(app, chosen))
        self.wear(app)

    def wear(self, app: App[None]) -> None:
        """Put on what the settings say."""
        plain = self.config.accessible
        app.set_class(plain, "-plain")
        app.set_class(self.colorless, "-colorless")
        app.animation_level = "none" if plain else "full"
        self.put_on(app, self.look_wanted)

    def put_on(self, app: App[None], name: str) -> None:
        """Switch to the look of that name."""
        theme.use(name, plain=self.config.accessible)
        app.theme = theme.look().theme.name

    def _follow(self, app: App[None], chosen: Theme) -> None:
        """The palette chose a theme, perhaps not one of ours: the nearest look goes with it."""
        ours = [name for name, look in theme.LOOKS.items() if look.theme.name == chosen.name]
        nearest = "ansi" if chosen.ansi else "dark" if chosen.dark else "light"
        theme.use(ours[0] if ours else nearest, plain=self.config.accessible)
        app.refresh(layout=True)


def look_name() -> str:
    """The name of the look in force."""
    return next(name for name, look in theme.LOOKS.items() if look is theme.look())
