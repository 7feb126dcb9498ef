"""What a key can do: its name in `keys.toml`, its default keys, what runs, what help says."""

from __future__ import annotations

from dataclasses import dataclass

MOVE, SANDBOX, PANES, VIEW, APP = "move", "sandbox", "panes", "views", "application"
"""Groups, as help shows them."""


@dataclass(frozen=True, slots=True)
class Action:
    """Something a key can do."""

    name: str
    keys: tuple[str, ...]
    """By default, as people write them: `F`, `?`, `ctrl+x`, `pageup`."""
    run: str
    """The application's action, in Textual's spelling."""
    group: str
    help: str
    """Actions that follow each other with the same help are one row of it."""


def verb_action(
    name: str, keys: str, verb: str, group: str, help: str, *arguments: str | int
) -> Action:
    """An action that calls `verb` of the application's verbs; `keys` are apart by blanks."""
    call = f"verb({', '.join(map(repr, (verb, *arguments)))})"
    return Action(name, tuple(keys.split()), call, group, help)
