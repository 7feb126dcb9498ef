"""The command line: what each word does, and what may follow it. Also the source of the palette."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from machinen_tui.command_types import Command, CommandError, CommandTarget, Runner, named_view
from machinen_tui.config import THEMES
from machinen_tui.pane_commands import PANE_COMMANDS

if TYPE_CHECKING:
    from machinen_tui.roster import Roster

__all__ = ["BY_NAME", "COMMANDS", "CommandError", "completions", "run_line"]


def _first(arguments: Sequence[str]) -> str | None:
    return arguments[0] if arguments else None


def _new(target: CommandTarget, arguments: Sequence[str]) -> None:
    target.new(arguments[0] if arguments else "", " ".join(arguments[1:]))


def _fork(target: CommandTarget, arguments: Sequence[str]) -> None:
    rest = list(arguments)
    view = target.find(rest[0]) if rest and not rest[0].isdecimal() else None
    if view is not None:
        rest.pop(0)
    count = int(rest.pop(0)) if rest and rest[0].isdecimal() else 1
    if not 1 <= count <= 64:
        raise CommandError("a fork makes 1 to 64 siblings")
    target.fork(view or named_view(target, None), count, rest[0] if rest else "")


def _restore(target: CommandTarget, arguments: Sequence[str]) -> None:
    if not arguments:
        target.choose_snapshot()
        return
    info = target.find_snapshot(arguments[0])
    if info is None:
        raise CommandError(f"no snapshot is named {arguments[0]}")
    target.restore(info, arguments[1] if len(arguments) > 1 else "")


def _rewind(target: CommandTarget, arguments: Sequence[str]) -> None:
    """`/rewind [NAME] [SNAPSHOT]`: without a snapshot one is chosen; `back` undoes the last."""
    rest = list(arguments)
    view = target.find(rest[0]) if rest else None
    if view is not None:
        rest.pop(0)
    view = view or named_view(target, None)
    target.select(view)
    if rest:
        target.rewind_to(view, "" if rest == ["back"] else rest[0])
    else:
        target.rewind_dialog()


def _compare(target: CommandTarget, arguments: Sequence[str]) -> None:
    """`/compare [A] [B]`: one name is compared with one that is chosen."""
    if len(arguments) > 2:
        raise CommandError("two are compared: /compare A B")
    first = named_view(target, _first(arguments))
    if len(arguments) == 2:
        target.compare_named(first, named_view(target, arguments[1]))
    else:
        target.select(first)
        target.compare()


def _on_sandbox(verb: str) -> Runner:
    """A command that calls `verb` of the target with the sandbox its argument names."""

    def run(target: CommandTarget, arguments: Sequence[str]) -> None:
        getattr(target, verb)(named_view(target, _first(arguments)))

    return run


def _on_selected(verb: str) -> Runner:
    """A command that selects the sandbox its argument names and opens a screen about it."""

    def run(target: CommandTarget, arguments: Sequence[str]) -> None:
        if len(arguments) > 1:
            raise CommandError("one name is enough; the rest is asked for")
        target.select(named_view(target, _first(arguments)))
        getattr(target, verb)()

    return run


def _port(target: CommandTarget, arguments: Sequence[str]) -> None:
    """`/port [NAME] [HOST:GUEST]`."""
    rest = list(arguments)
    named = bool(rest) and ":" not in rest[0]
    if named and rest[0].isdecimal() and target.find(rest[0]) is None:
        named = False  # `/port 80` is the port 80
    view = named_view(target, rest.pop(0) if named else None)
    target.select(view)
    if rest:
        target.open_port(view, rest[0])
    else:
        target.ports()


def _rename(target: CommandTarget, arguments: Sequence[str]) -> None:
    """`/rename [NAME] [NEW-NAME]`: one word is the new name of the selected one."""
    if len(arguments) > 2:
        raise CommandError("a name has no blanks in it")
    if not arguments:
        target.rename()
        return
    old = arguments[0] if len(arguments) == 2 else None
    target.rename_to(named_view(target, old), arguments[-1])


def _theme(target: CommandTarget, arguments: Sequence[str]) -> None:
    """`/theme [NAME]`: without a name the next one."""
    if not arguments:
        target.choose_theme()
    elif arguments[0] not in THEMES:
        raise CommandError(f"no theme is named {arguments[0]}; there are {', '.join(THEMES)}")
    else:
        target.theme_named(arguments[0])


def _replay(target: CommandTarget, arguments: Sequence[str]) -> None:
    target.replay(" ".join(arguments))


def _plainly(verb: str) -> Runner:
    """A command that calls `verb` of the target."""
    return lambda target, arguments: getattr(target, verb)()


ATTACH, SAVE, PAUSE = (
    _on_sandbox("attach_to"),
    _on_sandbox("snapshot"),
    _on_sandbox("pause_or_resume"),
)
RECORD = _on_sandbox("record_view")
STOP, MARK = _on_sandbox("ask_to_stop"), _on_sandbox("toggle_mark")

COMMANDS = (
    Command("ls", "/ls", "show the list of sandboxes", _plainly("show_list")),
    Command("new", "/new [NAME] [COMMAND]", "boot a sandbox", _new),
    Command("attach", "/attach [NAME]", "type into a sandbox", ATTACH, "sandbox"),
    Command("fork", "/fork [NAME] [COUNT] [NEW-NAME]", "fork a running sandbox", _fork, "sandbox"),
    Command("snapshot", "/snapshot [NAME]", "save a sandbox, which runs on", SAVE, "sandbox"),
    Command("restore", "/restore [SNAPSHOT] [NAME]", "start from a snapshot", _restore, "snapshot"),
    Command(
        "rewind", "/rewind [NAME] [SNAPSHOT|back]", "go back to a snapshot", _rewind, "sandbox"
    ),
    Command("pause", "/pause [NAME]", "pause a sandbox, or let it run on", PAUSE, "sandbox"),
    Command("stop", "/stop [NAME]", "power a sandbox off", STOP, "sandbox"),
    Command("boot", "/boot", "a dialog with every option", _plainly("new_dialog")),
    Command("forks", "/forks [NAME]", "fork with options", _on_selected("fork_dialog"), "sandbox"),
    Command(
        "save",
        "/save [NAME]",
        "snapshot with engine and place",
        _on_selected("snapshot_dialog"),
        "sandbox",
    ),
    Command("bundles", "/bundles", "browse, check, restore, delete snapshots", _plainly("bundles")),
    Command(
        "details",
        "/details [NAME]",
        "everything about it: ports, mounts, memory",
        _on_selected("details"),
        "sandbox",
    ),
    Command("port", "/port [NAME] [HOST:GUEST]", "open a port, or see them", _port, "sandbox"),
    Command("logs", "/logs [NAME]", "its console: follow, filter", _on_selected("logs"), "sandbox"),
    Command(
        "secrets", "/secrets [NAME]", "send secrets, unseen", _on_selected("secrets"), "sandbox"
    ),
    Command("copy", "/copy [NAME]", "copy files in or out", _on_selected("copy_files"), "sandbox"),
    Command("rename", "/rename [NAME] [NEW-NAME]", "another name", _rename, "sandbox"),
    Command("image", "/image", "build an image: form, live log", _plainly("build_image")),
    Command("mark", "/mark [NAME]", "mark it, for typing into all marked", MARK, "sandbox"),
    Command("zoom", "/zoom", "one pane over the whole window, and back", _plainly("zoom")),
    Command("grid", "/grid", "a grid of panes, or one with tabs", _plainly("grid")),
    *PANE_COMMANDS,
    Command("compare", "/compare [A] [B]", "how two forks differ", _compare, "sandbox"),
    Command(
        "each",
        "/each [COMMAND]",
        "one command in all marked",
        lambda target, arguments: target.run_in_many(" ".join(arguments)),
    ),
    Command(
        "promote", "/promote [NAME]", "take the family's place", _on_selected("promote"), "sandbox"
    ),
    Command("lineage", "/lineage", "families of forks and snapshots", _plainly("lineage")),
    Command("table", "/table", "all as a table: sort, filter", _plainly("table")),
    Command("wall", "/wall", "all as tiles, fifty at once", _plainly("wall")),
    Command("graphs", "/graphs [NAME]", "its last hour", _on_selected("graphs"), "sandbox"),
    Command("journal", "/journal", "states, phases, operations, alerts", _plainly("journal")),
    Command("record", "/record [NAME]", "record a terminal, or end that", RECORD, "sandbox"),
    Command("replay", "/replay [FILE]", "play a recording: the newest", _replay),
    Command("theme", "/theme [NAME]", "dark, light, ansi, high-contrast", _theme, words=THEMES),
    Command("settings", "/settings", "settings and keys: problems, values", _plainly("settings")),
    Command("reload", "/reload", "read settings and keys again", _plainly("reload")),
    Command("tour", "/tour", "the guided tour: five things to try", _plainly("tour")),
    Command("help", "/help", "the keys and commands", _plainly("help")),
    Command("quit", "/quit", "leave; sandboxes run on", _plainly("leave")),
)

BY_NAME = {command.name: command for command in COMMANDS}


def run_line(target: CommandTarget, line: str) -> None:
    """Carry out `/fork a 3`; the slash may be missing, or be typed though it stands there.

    Raises:
        CommandError: It is no command, or it names nothing that is there.
    """
    words = line.strip().lstrip("/").split()
    if not words:
        return
    matches = [name for name in BY_NAME if name.startswith(words[0])]
    name = words[0] if words[0] in BY_NAME else matches[0] if len(matches) == 1 else None
    if name is None:
        raise CommandError(f"no command is named {words[0]}; /help lists them")
    BY_NAME[name].run(target, words[1:])


def completions(line: str, roster: Roster) -> list[str]:
    """Whole lines that `line` may become, best first."""
    rest = line.lstrip("/")
    slash, words = line[: len(line) - len(rest)], rest.split(" ")
    if len(words) == 1:
        return [slash + command.name for command in COMMANDS if command.name.startswith(words[0])]
    command = BY_NAME.get(words[0])
    if command is None or len(words) != 2:
        return []
    return [
        f"{slash}{words[0]} {name}" for name in _names(command, roster) if name.startswith(words[1])
    ]


def _names(command: Command, roster: Roster) -> Iterable[str]:
    if command.takes == "sandbox":
        return [view.name for view in roster.live()]
    if command.takes == "snapshot":
        return [info.path.name for info in reversed(roster.snapshots)]
    return command.words
