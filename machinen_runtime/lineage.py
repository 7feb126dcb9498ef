"""The family tree of the sandboxes that run, the snapshots that were kept, and the dead between
them. Pure.

A VM is known for good by its pid and the time it was started; who is gone is known from what its
descendants and snapshots say of their ancestors.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Generic, Literal, Protocol, TypeVar

from machinen_runtime.ancestry import Ancestor
from machinen_runtime.registry_entry import RegistryEntry

Kind = Literal["running", "snapshot", "gone"]


class SnapshotLike(Protocol):
    """What the tree needs to know of a snapshot."""

    @property
    def path(self) -> Path:
        """Its directory."""
        ...

    @property
    def name(self) -> str:
        """Its source's name."""
        ...

    @property
    def taken_at_ms(self) -> float:
        """Since 1970."""
        ...

    @property
    def source_pid(self) -> int | None:
        """Its source's pid."""
        ...

    @property
    def source_started_at(self) -> float | None:
        """When its source was started, in ms since 1970."""
        ...

    @property
    def ancestry(self) -> tuple[Ancestor, ...]:
        """Its source's ancestors, oldest first."""
        ...


S = TypeVar("S", bound=SnapshotLike)


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyNode(Generic[S]):
    """One member of a family."""

    key: str
    kind: Kind
    name: str
    at_ms: float
    """When it was started, or the snapshot taken."""
    parent: str | None
    depth: int = 0
    """0: a family begins with it."""
    last: bool = False
    """No sibling comes after it."""
    entry: RegistryEntry | None = None
    snapshot: S | None = None


def vm_key(pid: int, started_at: float) -> str:
    """The lasting name of a VM."""
    return f"vm-{pid}-{started_at:.0f}"


def entry_key(entry: RegistryEntry) -> str:
    """The lasting name of a VM that runs."""
    return vm_key(entry.pid, entry.started_at)


def snapshot_key(path: Path) -> str:
    """The lasting name of a snapshot."""
    return f"snapshot-{path}"


def family_tree(entries: Iterable[RegistryEntry], snapshots: Sequence[S]) -> list[FamilyNode[S]]:
    """Every member once, each right after its parent or a sibling's descendants, oldest first."""
    members: dict[str, FamilyNode[S]] = {}
    kept = {str(each.path): snapshot_key(each.path) for each in snapshots}
    everybody = list(entries)
    for entry in everybody:
        parent = _parent(entry.forked_from, entry.ancestry, kept) or _older(entry, everybody)
        members[entry_key(entry)] = FamilyNode(
            key=entry_key(entry), kind="running", name=entry.name or str(entry.pid),
            at_ms=entry.started_at, parent=parent, entry=entry,
        )  # fmt: skip
    for each in snapshots:
        members[snapshot_key(each.path)] = FamilyNode(
            key=snapshot_key(each.path), kind="snapshot", name=each.name, at_ms=each.taken_at_ms,
            parent=_source(each, everybody), snapshot=each,
        )  # fmt: skip
    for entry in everybody:
        _add_dead(members, entry.ancestry, kept)
    for each in snapshots:
        _add_dead(members, _line_of(each), kept)
    return list(_in_order(members))


def relatives(entry: RegistryEntry, entries: Iterable[RegistryEntry]) -> list[RegistryEntry]:
    """The VMs that run and come from the same first ancestor as `entry`; it is not among them."""
    root = root_key(entry)
    return [each for each in entries if each.pid != entry.pid and root_key(each) == root]


def root_key(entry: RegistryEntry) -> str:
    """The lasting name of the VM a family began with."""
    first = entry.ancestry[0] if entry.ancestry else None
    return vm_key(first.pid, first.started_at) if first is not None else entry_key(entry)


def parted_at_ms(one: RegistryEntry, other: RegistryEntry) -> float | None:
    """Until when two VMs were the same, in ms since 1970; None if they are not related."""
    lines = [_moments(each) for each in (one, other)]
    common = [key for key in lines[0] if key in lines[1]]
    if not common:
        return None
    newest = common[-1]
    return min(line[newest] for line in lines)


def _moments(entry: RegistryEntry) -> dict[str, float]:
    """The VMs `entry` was, oldest first, and until when it was each."""
    line = {vm_key(each.pid, each.started_at): each.left_at for each in entry.ancestry}
    return {**line, entry_key(entry): float("inf")}


def _parent(forked_from: str | None, line: Sequence[Ancestor], kept: dict[str, str]) -> str | None:
    """The snapshot a VM was restored from if that was kept, else its source."""
    if forked_from in kept:
        return kept[forked_from]
    if not line:
        return None
    if line[-1].snapshot in kept:
        return kept[line[-1].snapshot]
    return vm_key(line[-1].pid, line[-1].started_at)


def _older(entry: RegistryEntry, entries: Iterable[RegistryEntry]) -> str | None:
    """The source of an entry that an earlier version wrote: it has no ancestry."""
    for each in entries:
        if each.pid == entry.forked_from_pid and each.started_at < entry.started_at:
            return entry_key(each)
    return None


def _source(snapshot: SnapshotLike, entries: Iterable[RegistryEntry]) -> str | None:
    if snapshot.source_pid is None:
        return None
    if snapshot.source_started_at is not None:
        return vm_key(snapshot.source_pid, snapshot.source_started_at)
    return next((entry_key(e) for e in entries if e.pid == snapshot.source_pid), None)


def _line_of(snapshot: SnapshotLike) -> tuple[Ancestor, ...]:
    """The ancestors of a snapshot: its source's, and that."""
    if snapshot.source_pid is None or snapshot.source_started_at is None:
        return snapshot.ancestry
    source = Ancestor(
        pid=snapshot.source_pid, started_at=snapshot.source_started_at, name=snapshot.name,
        left_at=snapshot.taken_at_ms,
    )  # fmt: skip
    return (*snapshot.ancestry, source)


def _add_dead(
    members: dict[str, FamilyNode[S]], line: Sequence[Ancestor], kept: dict[str, str]
) -> None:
    """Those of a line of ancestors who run no more."""
    for at, each in enumerate(line):
        key = vm_key(each.pid, each.started_at)
        if key not in members:
            members[key] = FamilyNode(
                key=key, kind="gone", name=each.name or str(each.pid), at_ms=each.started_at,
                parent=_parent(None, line[:at], kept),
            )  # fmt: skip


def _in_order(members: dict[str, FamilyNode[S]]) -> Iterator[FamilyNode[S]]:
    """Depth first. Whose parent is unknown is the first of a family; a circle is cut."""
    children: dict[str | None, list[FamilyNode[S]]] = {}
    for node in members.values():
        parent = node.parent if node.parent in members and _is_rooted(node, members) else None
        children.setdefault(parent, []).append(replace(node, parent=parent))
    waiting = [(node, 0) for node in reversed(_by_age(children.get(None, [])))]
    lasts = {siblings[-1].key for group in children.values() if (siblings := _by_age(group))}
    while waiting:
        node, depth = waiting.pop()
        yield replace(node, depth=depth, last=node.key in lasts)
        waiting += [(each, depth + 1) for each in reversed(_by_age(children.get(node.key, [])))]


def _is_rooted(node: FamilyNode[S], members: dict[str, FamilyNode[S]]) -> bool:
    """Whether going up from a node ends: files that anybody may write can tell of a circle."""
    seen: set[str] = set()
    at: FamilyNode[S] | None = node
    while at is not None:
        if at.key in seen:
            return False
        seen.add(at.key)
        at = members.get(at.parent) if at.parent is not None else None
    return True


def _by_age(nodes: Iterable[FamilyNode[S]]) -> list[FamilyNode[S]]:
    return sorted(nodes, key=lambda node: (node.at_ms, node.key))
