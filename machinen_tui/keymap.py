"""Which key does what while navigating: the actions there are, their default keys, and the file
that changes them. Pure but for `read`.

The one source of bindings, of help and of the hints at the bottom.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, cast

from textual.keys import KEY_NAME_REPLACEMENTS, Keys

from machinen_tui.action_types import APP, MOVE, SANDBOX, VIEW, Action
from machinen_tui.action_types import verb_action as _verb
from machinen_tui.config import Problem, read_toml, toml_value, unknown
from machinen_tui.pane_keys import ARROWS, PANE_ACTIONS

ACTIONS = (
    Action("down", ("down", "j"), "step(1)", MOVE, "next sandbox or snapshot"),
    Action("up", ("up", "k"), "step(-1)", MOVE, "the one before"),
    Action("left", ("left", "h"), "beside('left')", MOVE, "the pane to the left"),
    Action("right", ("right", "l"), "beside('right')", MOVE, "the pane to the right"),
    Action("next-pane", ("tab",), "cycle(1)", MOVE, "the next pane"),
    Action("previous-pane", ("shift+tab",), "cycle(-1)", MOVE, "the pane before"),
    Action("open", ("enter",), "open", MOVE, "type into the sandbox; restore the snapshot"),
    Action("scroll-up", ("pageup",), "scroll_pane(1)", MOVE, "scroll back"),
    Action("scroll-down", ("pagedown",), "scroll_pane(-1)", MOVE, "scroll towards now"),
    _verb("new", "n", "new_dialog", SANDBOX, "new sandbox: image, memory, ports, mounts, …"),
    _verb("fork", "f", "fork_one", SANDBOX, "fork it"),
    _verb("fork-with", "F", "fork_dialog", SANDBOX, "fork it with options: count, ports, mounts"),
    _verb("snapshot", "s", "snapshot_selected", SANDBOX, "snapshot it; it runs on"),
    _verb("snapshot-with", "S", "snapshot_dialog", SANDBOX, "snapshot with options"),
    _verb("restore", "r", "restore_selected", SANDBOX, "restore one of its snapshots"),
    _verb("rewind", "u", "rewind_dialog", SANDBOX, "rewind it to a snapshot: name and pane stay"),
    _verb("rewind-back", "U", "rewind_back", SANDBOX, "undo its last rewind"),
    _verb("promote", "M", "promote", SANDBOX, "promote it: its relatives become snapshots (asks)"),
    _verb("pause", "p", "pause_selected", SANDBOX, "pause, resume"),
    _verb("stop", "x", "stop_selected", SANDBOX, "power it off (asks), or dismiss it"),
    _verb("dismiss", "X", "dismiss_ended", SANDBOX, "dismiss all that ended"),
    _verb("rename", "m", "rename", SANDBOX, "another name"),
    _verb("ports", "P", "ports", SANDBOX, "its ports: add, remove, copy the address"),
    _verb("secrets", "e", "secrets", SANDBOX, "send secrets: masked, never kept"),
    _verb("copy", "c", "copy_files", SANDBOX, "copy files in or out"),
    _verb("mark", "space", "mark_selected", SANDBOX, "mark it"),
    _verb("broadcast", "b", "broadcast", SANDBOX, "type into all marked"),
    _verb("details", "d", "details", VIEW, "details: machine, memory, ports, mounts"),
    _verb("logs", "L", "logs", VIEW, "its console: follow, filter as you type"),
    _verb("bundles", "B", "bundles", VIEW, "browse all snapshots"),
    _verb("compare", "D", "compare", VIEW, "compare two: screens, files, processes, memory"),
    _verb("run-in-many", "E", "run_in_many", VIEW, "one command in all marked, outputs grouped"),
    _verb("lineage", "A", "lineage", VIEW, "lineage: who was forked from whom, snapshots"),
    _verb("table", "w", "table", VIEW, "all as a table: sort, filter"),
    _verb("wall", "W", "wall", VIEW, "all as tiles, fifty at once"),
    _verb("graphs", "G", "graphs", VIEW, "its last hour: cpu, memory, disk, network, latency"),
    _verb("journal", "J", "journal", VIEW, "what happened: states, phases, operations, alerts"),
    _verb("record", "V", "record", VIEW, "record its terminal (asciicast), or end that"),
    _verb("zoom", "z", "zoom", VIEW, "zoom one pane, and back"),
    _verb("grid", "g", "grid", VIEW, "grid, or one pane with tabs"),
    *PANE_ACTIONS,
    _verb("image", "i", "build_image", APP, "build an image: form, live log, boot the result"),
    Action("command", ("/",), "command", APP, "command line"),
    _verb("theme", "C", "choose_theme", APP, "colours: dark, light, ansi, high-contrast"),
    _verb("settings", "K", "settings", APP, "settings: the files, their problems, reload"),
    _verb("help", "?", "help", APP, "what the keys do here"),
    _verb("quit", "q", "leave", APP, "leave; sandboxes run on"),
)  # fmt: skip
BY_NAME: dict[str, Action] = {action.name: action for action in ACTIONS}

FIXED = {
    "ctrl+p": "the palette",
    "ctrl+q": "leave",
    "ctrl+right_square_bracket": "stop typing (twice)",
}
"""Keys that always do the same."""

MODIFIERS = ("ctrl", "shift", "alt", "super", "hyper", "meta")
NAMED = frozenset(
    str(key.value) for key in Keys if "+" not in str(key.value) and key.value[0] != "<"
)
SIGNS = {"question_mark": "?", "slash": "/", "comma": ",", "enter": "↵"}
"""How a key is shown in little room."""


class Keymap:
    """The keys in force."""

    def __init__(self, keys: Mapping[str, Sequence[str]] | None = None) -> None:
        """`keys` changes the defaults: Textual's names of keys by action; empty takes them away."""
        self.changed = dict(keys or {})
        taken = {key for own in self.changed.values() for key in own}
        self._keys: dict[str, tuple[str, ...]] = {}
        for action in ACTIONS:
            default = [textual_key(key) for key in action.keys]
            kept = tuple(key for key in default if key and key not in taken)
            self._keys[action.name] = tuple(self.changed.get(action.name, kept))
        self._actions = {key: BY_NAME[name] for name, own in self._keys.items() for key in own}

    def action_for(self, key: str) -> Action | None:
        """What a key (Textual's name) does."""
        return self._actions.get(key)

    def keys_of(self, name: str) -> tuple[str, ...]:
        """The keys of an action, Textual's names."""
        return self._keys[name]

    def shown(self, name: str) -> str:
        """The first key of an action, as it is shown; empty if it has none."""
        keys = self._keys[name]
        return shown_key(keys[0]) if keys else ""

    def rows(self, group: str | None = None) -> list[tuple[str, str]]:
        """Keys and what they do, for help."""
        shown = [action for action in ACTIONS if group in (None, action.group)]
        rows: list[tuple[str, str]] = []
        for help, actions in groupby(shown, key=lambda action: action.help):
            keys = [shown_key(key) for action in actions for key in self._keys[action.name]]
            rows.append((_folded(keys) or "-", help))
        return rows

    def moved(self) -> list[str]:
        """What changed against the defaults, a line each: the report on conflicts."""
        lines: list[str] = []
        for name, keys in self.changed.items():
            for key in keys:
                losers = [a.name for a in ACTIONS if a.name != name and a.name not in self.changed
                          and key in map(textual_key, a.keys)]  # fmt: skip
                for loser in losers:
                    left = self.shown(loser)
                    rest = f"it still has {left}" if left else "it has no key now"
                    lines.append(f"{shown_key(key)} does {name}, no longer {loser}: {rest}")
        return lines


def textual_key(written: str) -> str | None:
    """Textual's name of a key as people write it (`F`, `?`, `ctrl+x`, `pageup`); None: no key."""
    if len(written) == 1:
        return _character(written)
    *modifiers, base = written.split("+") if not written.endswith("++") else [written[:-2], "+"]
    if base not in NAMED and len(base) != 1 and base not in _CHARACTERS:
        return None
    named = base if base in NAMED or base in _CHARACTERS else _character(base)
    if named is None or any(modifier not in MODIFIERS for modifier in modifiers):
        return None
    if len(set(modifiers)) != len(modifiers):
        return None
    return "+".join([*modifiers, named])


def shown_key(key: str) -> str:
    """A key as people write it."""
    *modifiers, base = key.split("+")
    return "+".join([*modifiers, _CHARACTERS.get(base, base)])


def read(path: Path) -> tuple[Keymap, list[Problem]]:
    """The keys a file changes; a missing file changes none."""
    tables, problems = read_toml(path)
    keymap, more = keymap_from(tables, str(path))
    return keymap, problems + more


def keymap_from(tables: Mapping[str, Any], file: str) -> tuple[Keymap, list[Problem]]:
    """`[keys]` with `action = "key"` or `action = ["key", …]`. The first of two claims stands."""
    problems = [
        Problem(file, name, "only a table [keys] is read") for name in tables if name != "keys"
    ]
    table: object = tables.get("keys", {})
    if not isinstance(table, dict):
        return Keymap(), [*problems, Problem(file, "keys", "is not a table: write [keys] above")]
    chosen: dict[str, list[str]] = {}
    owners: dict[str, str] = {}
    for name, value in cast("dict[str, object]", table).items():
        if name not in BY_NAME:
            problems.append(Problem(file, f"keys.{name}", unknown("action", name, BY_NAME)))
            continue
        keys, wrong = _keys_in(value)
        problems += [Problem(file, f"keys.{name}", text) for text in wrong]
        if wrong and not keys:
            continue
        for key in list(keys):
            owner = FIXED.get(key) or owners.setdefault(key, name)
            if owner != name:
                keys.remove(key)
                text = f"{shown_key(key)} is taken by {owner}; choose another key"
                problems.append(Problem(file, f"keys.{name}", text))
        chosen[name] = keys
    return Keymap(chosen), problems


def default_text() -> str:
    """A file of keys with the defaults, commented out, each explained."""
    lines = ["# Keys of machinen-tui while navigating. What is commented out is the default.",
             '# One key, or a list; [] takes the keys away. As in "F", "?", "ctrl+x", "pageup".',
             "[keys]"]  # fmt: skip
    for action in ACTIONS:
        value: object = action.keys[0] if len(action.keys) == 1 else action.keys
        lines.append(f"# {action.name} = {toml_value(value)}".ljust(36) + f"  # {action.help}")
    return "\n".join(lines) + "\n"


def _folded(keys: Sequence[str]) -> str:
    """Keys in few words: `shift+arrows`, `1-9`."""
    if list(keys) == [str(number) for number in range(1, 10)]:
        return "1-9"
    modifiers = {key.rpartition("+")[0] for key in keys}
    if len(modifiers) == 1 and [key.rpartition("+")[2] for key in keys] == list(ARROWS):
        return f"{modifiers.pop()}+arrows"
    return " ".join(keys)


def _keys_in(value: object) -> tuple[list[str], list[str]]:
    """Textual's names of the keys in a value, and what is wrong with it."""
    written = [value] if isinstance(value, str) else value
    if not isinstance(written, list):
        return [], ['not a key such as "f", or a list of keys']
    keys: list[str] = []
    wrong: list[str] = []
    for each in cast("list[object]", written):
        key = textual_key(each) if isinstance(each, str) and 0 < len(each) < 60 else None
        if key is None:
            wrong.append(f'{each!r} is no key: write a character, or a name as in "ctrl+x", "f5"')
        elif key not in keys:
            keys.append(key)
    return keys, wrong


def _character(character: str) -> str | None:
    """Textual's name of the key that types a character; None if none does."""
    if character == " ":
        return "space"
    if not character.isprintable():
        return None
    if character.isalnum():
        return character
    if not character.isascii():
        return None  # a terminal may send it; nobody could read back what the key is called
    name = unicodedata.name(character, "").lower().replace("-", "_").replace(" ", "_")
    return KEY_NAME_REPLACEMENTS.get(name, name) or None


_CHARACTERS = {
    name: chr(code) for code in range(33, 127) if (name := _character(chr(code))) and len(name) > 1
}
"""Signs of ASCII by Textual's names of their keys."""
