"""`machinen-tui config`: which settings there are, where they are looked for, what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from machinen_tui import config, keymap
from machinen_tui.habits import CONFIG_FILE, KEYS_FILE, Habits


def config_command(
    arguments: Sequence[str], out: Callable[[str], object], err: Callable[[str], object]
) -> int:
    """Carry out `config [keys | path | check]`; the exit status."""
    match list(arguments):
        case []:
            out(config.default_text())
        case ["keys"]:
            out(keymap.default_text())
        case ["path"]:
            directory = config.config_directory()
            out(f"{directory / CONFIG_FILE}\n{directory / KEYS_FILE}\n")
        case ["check"]:
            return _check(out, err)
        case _:
            err("machinen-tui: config takes nothing, keys, path or check\n")
            return 2
    return 0


def _check(out: Callable[[str], object], err: Callable[[str], object]) -> int:
    habits = Habits.of_user()
    for problem in habits.problems:
        err(f"{problem}\n")
    for line in habits.keymap.moved():
        out(f"{line}\n")
    if not habits.problems:
        out("nothing is wrong\n")
    return 1 if habits.problems else 0
