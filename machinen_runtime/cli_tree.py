"""`machinen tree`: families of sandboxes and snapshots, without an event loop."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from machinen_runtime.cli_support import Verb, format_duration, json_option, print_json
from machinen_runtime.registry import live_entries

if TYPE_CHECKING:
    from machinen_runtime.lineage import FamilyNode
    from machinen_runtime.shelf import KeptSnapshot

SIGNS = {"running": "●", "snapshot": "◆", "gone": "○"}


@click.command("tree", cls=Verb, short_help="Show who was forked from whom.")
@click.argument("directories", metavar="[DIR]...", nargs=-1)
@json_option
def tree_command(directories: tuple[str, ...], as_json: bool) -> None:
    """Show the families of sandboxes: who was forked or restored from whom, with the snapshots
    below ~/.machinen/snapshots and those that DIRs are or hold.

    A sandbox that runs is ●, a snapshot ◆, a sandbox that is gone but has descendants ○.

    \b
    Examples:
      machinen tree
      machinen tree --json | jq -r '.nodes[] | select(.kind == "snapshot").snap_dir'
    """
    from machinen_runtime.lineage import family_tree
    from machinen_runtime.paths import snapshots_root
    from machinen_runtime.shelf import kept_snapshots, readable_roots

    roots = [snapshots_root(), *readable_roots(directories)]
    nodes = family_tree(live_entries(), kept_snapshots(roots))
    if as_json:
        print_json({"nodes": [_as_object(node) for node in nodes]})
    elif not nodes:
        click.echo("(no sandboxes and no snapshots)")
    else:
        for branches, node in with_branches(nodes):
            click.echo(f"{branches}{SIGNS[node.kind]} {_text(node)}")


def with_branches(
    nodes: Iterable[FamilyNode[KeptSnapshot]],
) -> list[tuple[str, FamilyNode[KeptSnapshot]]]:
    """Each node with the lines that lead to it: `├ `, `└ `, `│ `."""
    open_levels: list[bool] = []
    rows: list[tuple[str, FamilyNode[KeptSnapshot]]] = []
    for node in nodes:
        del open_levels[node.depth :]
        above = "".join("│ " if is_open else "  " for is_open in open_levels[1:])
        rows.append((above + ("└ " if node.last else "├ ") if node.depth else "", node))
        open_levels.append(not node.last)
    return rows


def _text(node: FamilyNode[KeptSnapshot]) -> str:
    if node.snapshot is None:
        age = format_duration(time.time() * 1000 - node.at_ms)
        state = f"running, up {age}" if node.kind == "running" else f"gone, was started {age} ago"
        return f"{node.name}  {state}"
    notes, taken = node.snapshot.notes, time.localtime(node.at_ms / 1000)
    said = [node.snapshot.path.name, time.strftime("%Y-%m-%d %H:%M:%S", taken), notes.label]
    said += ["pinned" if notes.pinned else "", "automatic" if notes.automatic else "", notes.note]
    return "  ".join(text for text in said if text)


def _as_object(node: FamilyNode[KeptSnapshot]) -> dict[str, Any]:
    snapshot = node.snapshot
    return {
        "key": node.key,
        "kind": node.kind,
        "name": node.name,
        "at": node.at_ms,
        "parent": node.parent,
        "depth": node.depth,
        "pid": node.entry.pid if node.entry is not None else None,
        "snap_dir": str(snapshot.path) if snapshot is not None else None,
        "label": snapshot.notes.label if snapshot is not None else None,
        "note": snapshot.notes.note if snapshot is not None else None,
        "pinned": snapshot.notes.pinned if snapshot is not None else None,
    }
