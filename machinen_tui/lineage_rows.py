"""The family tree as rows that fold: which are seen, and what each says. Pure."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from machinen_runtime.lineage import FamilyNode
from machinen_tui.figures import uptime
from machinen_tui.gateway import SnapshotInfo
from machinen_tui.roster import SandboxView

Member = FamilyNode[SnapshotInfo]

DAY_S = 86400


@dataclass(frozen=True, slots=True)
class Row:
    """One member of a family that is seen."""

    node: Member
    branches: str
    folded: int = 0
    """So many below it are not seen."""


def seen_rows(nodes: Sequence[Member], folded: Collection[str]) -> list[Row]:
    """The rows of a tree (depth first), without what is below a folded member."""
    rows: list[Row] = []
    open_levels: list[bool] = []
    hidden_below: int | None = None
    for at, node in enumerate(nodes):
        if hidden_below is not None and node.depth > hidden_below:
            continue
        hidden_below = node.depth if node.key in folded else None
        del open_levels[node.depth :]
        above = "".join("│ " if is_open else "  " for is_open in open_levels[1:])
        branches = above + ("└ " if node.last else "├ ") if node.depth else ""
        below = len(descendants(nodes, at)) if hidden_below is not None else 0
        rows.append(Row(node, branches, below))
        open_levels.append(not node.last)
    return rows


def descendants(nodes: Sequence[Member], at: int) -> list[Member]:
    """Those below the member number `at`."""
    found: list[Member] = []
    for node in nodes[at + 1 :]:
        if node.depth <= nodes[at].depth:
            break
        found.append(node)
    return found


def title_of(node: Member) -> str:
    """What a member is called: a snapshot by its label, or else by its directory."""
    if node.snapshot is None:
        return node.name
    return node.snapshot.notes.label or node.snapshot.path.name


def state_of(node: Member, view: SandboxView | None) -> str:
    """What is to be said of it in few words."""
    if node.kind == "running":
        age = uptime(time.time() - node.at_ms / 1000)
        return f"{view.shown_state if view is not None else 'running'} · up {age}"
    if node.kind == "gone":
        return "gone"
    info = node.snapshot
    assert info is not None
    marks = ["pinned" if info.notes.pinned else "", "automatic" if info.notes.automatic else ""]
    return " · ".join(["snapshot", *(mark for mark in marks if mark)])


def moment(at_ms: float) -> str:
    """A time of day, or the day if that is long ago."""
    shape = "%H:%M:%S" if abs(time.time() - at_ms / 1000) < DAY_S else "%d %b %H:%M"
    return time.strftime(shape, time.localtime(at_ms / 1000))


def facts_of(node: Member, view: SandboxView | None) -> list[tuple[str, str]]:
    """What is known of a member, as rows of label and text."""
    at = time.strftime("%A %d %B %Y, %H:%M:%S", time.localtime(node.at_ms / 1000))
    if node.snapshot is not None:
        info = node.snapshot
        rows = [("snapshot of", info.name), ("taken", at), ("label", info.notes.label),
                ("note", info.notes.note), ("where", str(info.path))]  # fmt: skip
    elif node.entry is not None:
        line = " → ".join(each.name or str(each.pid) for each in node.entry.ancestry)
        rows = [("sandbox", f"{node.name} · pid {node.entry.pid}"), ("started", at),
                ("state", state_of(node, view)), ("came from", line)]  # fmt: skip
    else:
        rows = [("sandbox", f"{node.name}, which runs no more"), ("started", at)]
    return [row for row in rows if row[1]]
