"""What the two bottom lines say: the keys that work now, and what is selected. Pure."""

from __future__ import annotations

from machinen_tui.figures import ceiling, mib
from machinen_tui.roster import Node, Roster

Hint = tuple[str, str]

ATTACHED: list[Hint] = [
    ("Ctrl-] Ctrl-]", "back to the list"),
    ("Shift-PgUp", "scroll back"),
]
SANDBOX: list[Hint] = [
    ("↵", "type"), ("n", "new"), ("f", "fork"), ("s", "snapshot"), ("r", "restore"), ("x", "stop"),
    ("z", "zoom"), ("?", "help"), ("q", "quit"), ("p", "pause"), ("/", "command"), ("g", "tabs"),
    ("d", "details"), ("P", "ports"), ("L", "log"), ("B", "snapshots"), ("i", "image"),
    ("e", "secrets"), ("m", "rename"),
    ("c", "copy"), ("space", "mark"), ("b", "to marked"), ("F", "fork N"), ("S", "save as"),
]  # fmt: skip
SNAPSHOT: list[Hint] = [
    ("↵", "restore"), ("B", "snapshots"), ("n", "new"), ("/", "command"), ("?", "help"),
    ("q", "quit"),
]  # fmt: skip
ENDED: list[Hint] = [
    ("x", "dismiss"), ("L", "log"), ("n", "new"), ("r", "restore"), ("/", "command"), ("?", "help"),
    ("q", "quit"),
]  # fmt: skip
EMPTY: list[Hint] = [
    ("n", "new"), ("r", "restore"), ("B", "snapshots"), ("/", "command"), ("?", "help"),
    ("q", "quit"),
]  # fmt: skip


def hints_for(mode: str, node: Node | None) -> list[Hint]:
    """Keys and what they do, the most useful first."""
    if mode != "navigate":
        ended = node is not None and node.sandbox is not None and node.sandbox.gone
        return [("↵", "back to the list")] if ended else ATTACHED
    if node is None:
        return EMPTY
    if node.sandbox is None:
        return SNAPSHOT
    if node.sandbox.gone:
        return ENDED
    if node.sandbox.state == "paused":
        return [(key, "resume" if key == "p" else text) for key, text in SANDBOX]
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
