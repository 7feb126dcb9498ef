"""What the two bottom lines say: the keys that work now, and what is selected. Pure."""

from __future__ import annotations

from machinen_tui import theme
from machinen_tui.figures import ceiling, mib
from machinen_tui.keymap import Keymap
from machinen_tui.roster import Node, Roster

Hint = tuple[str, str]
DEFAULTS = Keymap()

LOCKED: list[Hint] = [("Ctrl-] Ctrl-] Ctrl-]", "back to the list")]
"""Every key is the guest's, see `ctrl+l`."""
ATTACHED: list[Hint] = [
    ("Ctrl-] Ctrl-]", "back to the list"),
    ("Shift-PgUp", "scroll back"),
]
COPYING: list[Hint] = [
    ("y", "copy"), ("v", "select"), ("V", "lines"), ("ctrl+v", "block"), ("/", "search"),
    ("n", "next"), ("N", "back"), ("g", "top"), ("G", "bottom"),
    ("o", "other end"), ("escape", "leave"),
]  # fmt: skip
Named = tuple[str, str]
"""An action's name in the keymap, and what it does in few letters."""

SANDBOX: list[Named] = [
    ("open", "type"), ("new", "new"), ("fork", "fork"), ("snapshot", "snapshot"),
    ("restore", "restore"), ("stop", "stop"), ("zoom", "zoom"), ("help", "help"), ("quit", "quit"),
    ("pause", "pause"), ("command", "command"), ("grid", "tabs"), ("details", "details"),
    ("graphs", "graphs"),
    ("ports", "ports"), ("logs", "log"), ("bundles", "snapshots"), ("image", "image"),
    ("secrets", "secrets"), ("table", "table"), ("wall", "wall"), ("rename", "rename"),
    ("copy", "copy"), ("mark", "mark"),
    ("broadcast", "to marked"), ("fork-with", "fork N"), ("snapshot-with", "save as"),
    ("lineage", "lineage"), ("compare", "compare"), ("rewind", "rewind"), ("promote", "promote"),
    ("run-in-many", "run in many"),
]  # fmt: skip
SNAPSHOT: list[Named] = [
    ("open", "restore"), ("bundles", "snapshots"), ("lineage", "lineage"), ("new", "new"),
    ("command", "command"), ("help", "help"), ("quit", "quit"),
]  # fmt: skip
ENDED: list[Named] = [
    ("stop", "dismiss"), ("logs", "log"), ("new", "new"), ("restore", "restore"),
    ("command", "command"), ("help", "help"), ("quit", "quit"),
]  # fmt: skip
EMPTY: list[Named] = [
    ("new", "new"), ("restore", "restore"), ("bundles", "snapshots"), ("command", "command"),
    ("help", "help"), ("quit", "quit"),
]  # fmt: skip


def hints_for(mode: str, node: Node | None, keymap: Keymap = DEFAULTS) -> list[Hint]:
    """Keys in force and what they do, the most useful first."""
    if mode == "copy":
        return COPYING
    if mode != "navigate":
        ended = node is not None and node.sandbox is not None and node.sandbox.gone
        if ended:
            return [("↵", "back to the list")]
        locked = node is not None and node.sandbox is not None and node.sandbox.locked
        return LOCKED if locked else ATTACHED
    enter = "enter" if theme.is_plain() else "↵"
    keys = [(keymap.shown(name).replace("enter", enter), text) for name, text in named_for(node)]
    return [(key, text) for key, text in keys if key]


def named_for(node: Node | None) -> list[Named]:
    """The actions that make sense on `node`."""
    if node is None:
        return EMPTY
    if node.sandbox is None:
        return SNAPSHOT
    if node.sandbox.gone:
        return ENDED
    if node.sandbox.state in ("paused", "disk-full"):
        return [(name, "resume" if name == "pause" else text) for name, text in SANDBOX]
    return SANDBOX


def subject_for(roster: Roster, node: Node | None, mode: str) -> str:
    """One line about the selection."""
    if mode == "broadcast":
        return "typing into " + ", ".join(view.name for view in roster.live() if view.marked)
    if node is None:
        return "no sandboxes yet"
    if node.snapshot is not None:
        return f"snapshot of {node.snapshot.name} · {node.snapshot.path.name}"
    view = node.sandbox
    if view is None or view.gone:
        return f"{view.name} · {view.shown_state}" if view else ""
    parts = [view.name, view.state, f"pid {view.pid}"]
    if view.source_name:
        parts.append(f"fork of {view.source_name}")
    parts += [f"{each.host_port}→{each.guest_port}" for each in view.ports]
    if view.last is not None and mode == "navigate":
        parts.append(f"{mib(view.last.rss_bytes)} of {ceiling(view.last.ceiling_mib)}")
    return " · ".join(parts)
