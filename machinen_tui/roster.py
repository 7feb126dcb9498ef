"""What the application knows about every sandbox and snapshot, and in which order the list shows
them. Pure state.

The order is by lineage and then by age, so a row never moves because a number changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from machinen_tui.alerts import AlertState
from machinen_tui.attention import News
from machinen_tui.history import History

if TYPE_CHECKING:
    from machinen_runtime.option_types import PortForward
    from machinen_runtime.registry_entry import RegistryEntry
    from machinen_tui.gateway import Sandbox, SnapshotInfo
    from machinen_tui.session import PaneSession
    from vmm.requests import StatsEvent

MAX_ENDED = 6
"""So many that ended stay listed until they are dismissed; of more, the longest gone are
forgotten."""

HISTORY_SAMPLES = 120
"""Two minutes at one sample a second."""


@dataclass(eq=False)
class SandboxView:
    """One sandbox as the application sees it. `key` names it for good: a pid alone may come
    again."""

    key: str
    pid: int
    name: str
    started_at_ms: float
    entry: RegistryEntry
    """As last read, also when it has ended."""
    ceiling_mib: int = 0
    forked_from: str | None = None
    source_name: str | None = None
    source_pid: int | None = None
    state: str = "connecting"
    """What its monitor says, `connecting` until it has said something, `exited` at the end."""
    handle: Sandbox | None = None
    session: PaneSession | None = None
    samples: deque[StatsEvent] = field(default_factory=lambda: deque(maxlen=HISTORY_SAMPLES))
    history: History = field(default_factory=History)
    """Its figures over the last hour."""
    alerts: AlertState = field(default_factory=AlertState)
    probed_ms: tuple[float, float] = (0.0, 0.0)
    """When the last probe began and ended: what it made the guest say is nobody's output."""
    marked: bool = False
    unseen_output: bool = False
    bell: bool = False
    title: str = ""
    own_title: str = ""
    """Given by the user; stands in place of the guest's."""
    read_only: bool = False
    """Nothing can be typed into it here."""
    clipboard_policy: str = ""
    """What its guest may do with the clipboard, if that was decided here; see `clipboard`."""
    clipboard_offer: str = ""
    """What its guest wants to copy and nobody has decided on."""
    locked: bool = False
    """While typing every key is the guest's."""
    news: News = field(default_factory=News)
    exit_code: int | None = None
    gone: bool = False
    dismissed: bool = False
    """Whoever looks at the list stopped it: it need not stay when it is gone."""

    @classmethod
    def from_entry(cls, entry: RegistryEntry) -> SandboxView:
        """A view of a registry entry nobody has asked about yet."""
        return cls(
            key=key_of(entry.pid, entry.started_at),
            pid=entry.pid,
            name=entry.name or str(entry.pid),
            started_at_ms=entry.started_at,
            entry=entry,
            ceiling_mib=entry.memory_ceiling_mib or 0,
            forked_from=entry.forked_from,
            source_name=entry.forked_from_name,
            source_pid=entry.forked_from_pid,
        )

    @property
    def ports(self) -> tuple[PortForward, ...]:
        """The host ports that lead into it."""
        return self.entry.port_forward

    @property
    def last(self) -> StatsEvent | None:
        """The newest sample."""
        return self.samples[-1] if self.samples else None

    @property
    def shown_state(self) -> str:
        """The state, or how it ended."""
        if not self.gone:
            return self.state
        return "exited" if self.exit_code is None else f"exited {self.exit_code}"


@dataclass(frozen=True, slots=True)
class Node:
    """One row of the tree: a sandbox or a snapshot, and the branches drawn before it."""

    key: str
    branches: str
    below: str
    """What continues under the node, for a second line."""
    sandbox: SandboxView | None = None
    snapshot: SnapshotInfo | None = None


def key_of(pid: int, started_at_ms: float) -> str:
    """The lasting name of a sandbox."""
    return f"vm-{pid}-{started_at_ms:.0f}"


def snapshot_key(path: Path) -> str:
    """The lasting name of a snapshot."""
    return f"snapshot-{path.name}"


class Roster:
    """All sandboxes, alive or just ended, and the snapshots in our directory."""

    def __init__(self) -> None:
        self.sandboxes: dict[str, SandboxView] = {}
        self._snapshots: list[SnapshotInfo] = []
        self._ended: list[str] = []
        """Keys of those that ended and are still listed, the longest gone first."""
        self._nodes: list[Node] | None = None
        """The tree as last asked for: many ask every second, and it seldom changes."""

    @property
    def snapshots(self) -> list[SnapshotInfo]:
        """Those in our directory, oldest first; set it whole."""
        return self._snapshots

    @snapshots.setter
    def snapshots(self, found: list[SnapshotInfo]) -> None:
        self._snapshots, self._nodes = found, None

    def update(
        self, entries: Iterable[RegistryEntry]
    ) -> tuple[list[SandboxView], list[SandboxView]]:
        """Take over a new reading of the registry; returns what came and what went (marked `gone`,
        still listed)."""
        self._nodes = None
        live = {key_of(entry.pid, entry.started_at): entry for entry in entries}
        came: list[SandboxView] = []
        for key, entry in live.items():
            if key not in self.sandboxes:
                self.sandboxes[key] = SandboxView.from_entry(entry)
                came.append(self.sandboxes[key])
            else:
                self.sandboxes[key].entry = entry
                self.sandboxes[key].name = entry.name or str(entry.pid)
        went = [view for key, view in self.sandboxes.items() if key not in live and not view.gone]
        for view in went:
            view.gone, view.state, view.marked = True, "exited", False
            self._ended.append(view.key)
            if view.dismissed:
                self.dismiss(view.key)
        while len(self._ended) > MAX_ENDED:
            self.dismiss(self._ended[0])
        return came, went

    def dismiss(self, key: str) -> None:
        """Forget a sandbox that ended."""
        if key in self._ended:
            self._nodes = None
            self._ended.remove(key)
            self.sandboxes.pop(key, None)

    def by_name(self, name: str) -> SandboxView | None:
        """The live sandbox of that name or pid."""
        for view in self.live():
            if name in (view.name, str(view.pid)):
                return view
        return None

    def live(self) -> list[SandboxView]:
        """Those that run, in the order of the tree."""
        return [node.sandbox for node in self.nodes() if node.sandbox and not node.sandbox.gone]

    def shown(self) -> list[SandboxView]:
        """All sandboxes in the order of the tree: the order of the panes."""
        return [node.sandbox for node in self.nodes() if node.sandbox]

    def snapshots_of(self, view: SandboxView) -> list[SnapshotInfo]:
        """Its snapshots, newest first."""
        return [info for info in reversed(self.snapshots) if self._is_source(view, info)]

    def nodes(self) -> list[Node]:
        """The tree, flattened: forks under their source, snapshots as nodes, restores under their
        snapshot."""
        if self._nodes is None:
            self._nodes = list(_walk(self._children(), None, ""))
        return list(self._nodes)

    def _children(self) -> dict[str | None, list[Node]]:
        children: dict[str | None, list[Node]] = {}
        paths = {str(info.path): snapshot_key(info.path) for info in self.snapshots}
        for info in sorted(self.snapshots, key=lambda info: info.taken_at_ms):
            source = next(
                (v.key for v in self.sandboxes.values() if self._is_source(v, info)), None
            )
            children.setdefault(source, []).append(
                Node(snapshot_key(info.path), "", "", snapshot=info)
            )
        for view in sorted(
            self.sandboxes.values(), key=lambda view: (view.started_at_ms, view.pid)
        ):
            parent = paths.get(view.forked_from or "") or self._source_of(view)
            children.setdefault(parent, []).append(Node(view.key, "", "", sandbox=view))
        for nodes in children.values():
            nodes.sort(key=_age)
        children.get(None, []).sort(key=lambda node: node.snapshot is not None)
        return children

    def _source_of(self, view: SandboxView) -> str | None:
        """The key of the sandbox this one was forked from, if it is still listed."""
        for each in reversed(view.entry.ancestry):
            key = key_of(each.pid, each.started_at)
            if key in self.sandboxes and each.started_at < view.started_at_ms:
                return key
        if view.source_pid is not None:
            for other in self.sandboxes.values():
                if other.pid == view.source_pid and other.started_at_ms < view.started_at_ms:
                    return other.key
        return None

    @staticmethod
    def _is_source(view: SandboxView, info: SnapshotInfo) -> bool:
        if info.source_pid is None:
            return view.name == info.name and view.started_at_ms <= info.taken_at_ms
        same_start = (
            info.source_started_at is None
            or abs(info.source_started_at - view.started_at_ms) < 5000
        )
        return view.pid == info.source_pid and same_start


def _age(node: Node) -> float:
    if node.snapshot is not None:
        return node.snapshot.taken_at_ms
    return node.sandbox.started_at_ms if node.sandbox is not None else 0.0


def _walk(
    children: dict[str | None, list[Node]], parent: str | None, indent: str
) -> Iterator[Node]:
    nodes = children.get(parent, [])
    for index, node in enumerate(nodes):
        last = index == len(nodes) - 1
        if parent is None:
            branches, below = "", ""
        else:
            branches, below = indent + ("└ " if last else "├ "), indent + ("  " if last else "│ ")
        yield Node(node.key, branches, below, node.sandbox, node.snapshot)
        yield from _walk(children, node.key, below)
