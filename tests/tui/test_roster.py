"""The tree of sandboxes and snapshots, and the small texts about them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinen_runtime.registry_entry import RegistryEntry
from machinen_tui.figures import clip, mib, uptime
from machinen_tui.gateway import SnapshotInfo
from machinen_tui.hints import hints_for, subject_for
from machinen_tui.roster import Roster
from machinen_tui.theme import spark


def entry(
    pid: int, name: str, source: int | None = None, forked_from: str | None = None
) -> RegistryEntry:
    return RegistryEntry(
        pid=pid, socket_path="", started_at=pid * 1000.0, name=name, forked_from_pid=source,
        forked_from_name="source" if source else None, forked_from=forked_from,
    )  # fmt: skip


def drawn(roster: Roster) -> list[str]:
    """The tree as text."""
    rows: list[str] = []
    for node in roster.nodes():
        shown = (
            node.sandbox.name
            if node.sandbox
            else f"<{node.snapshot.path.name}>"
            if node.snapshot
            else ""
        )
        rows.append(node.branches + shown)
    return rows


def test_forks_lie_under_their_source_by_age() -> None:
    roster = Roster()
    roster.update(
        [entry(1, "a"), entry(4, "a2", 1), entry(2, "b"), entry(3, "a1", 1), entry(5, "a1x", 3)]
    )
    assert drawn(roster) == ["a", "├ a1", "│ └ a1x", "└ a2", "b"]


def test_a_fork_whose_source_is_gone_stands_alone_and_one_that_ended_keeps_its_place() -> None:
    roster = Roster()
    roster.update([entry(1, "a"), entry(2, "a1", 1)])
    _, went = roster.update([entry(2, "a1", 1)])
    assert [view.name for view in went] == ["a"]
    assert drawn(roster) == ["a", "└ a1"]
    roster.dismiss(went[0].key)
    assert drawn(roster) == ["a1"]


def test_a_live_sandbox_is_not_dismissed() -> None:
    roster = Roster()
    came, _ = roster.update([entry(1, "a")])
    roster.dismiss(came[0].key)
    assert drawn(roster) == ["a"]


def test_of_many_that_ended_only_the_last_few_stay() -> None:
    roster = Roster()
    for pid in range(1, 20):
        roster.update([entry(pid, f"n{pid}")])
    roster.update([])
    assert [view.pid for view in roster.shown()] == list(range(14, 20))


def test_snapshots_are_nodes_of_their_source_and_restores_lie_under_them() -> None:
    roster = Roster()
    path = Path("/snapshots/a-1")
    roster.snapshots = [
        SnapshotInfo(path=path, name="a", taken_at_ms=2500, source_pid=1, source_started_at=1000),
        SnapshotInfo(path=Path("/snapshots/gone-1"), name="gone", taken_at_ms=10, source_pid=77),
    ]
    roster.update([entry(1, "a"), entry(2, "a1", 1), entry(3, "back", 1, str(path))])
    assert drawn(roster) == ["a", "├ a1", "└ <a-1>", "  └ back", "<gone-1>"]


def test_a_pid_used_again_is_another_sandbox() -> None:
    roster = Roster()
    roster.update([entry(1, "a")])
    again = RegistryEntry(pid=1, socket_path="", started_at=99_000.0, name="z")
    came, went = roster.update([again])
    assert ([view.name for view in came], [view.name for view in went]) == (["z"], ["a"])


@given(
    st.lists(st.tuples(st.integers(1, 12), st.one_of(st.none(), st.integers(1, 12))), max_size=12)
)
def test_every_sandbox_is_listed_exactly_once(pairs: list[tuple[int, int | None]]) -> None:
    roster = Roster()
    entries = {pid: entry(pid, f"n{pid}", source) for pid, source in pairs}
    roster.update(entries.values())
    assert sorted(view.pid for view in roster.shown()) == sorted(entries)


def test_hints_fit_the_selection() -> None:
    roster = Roster()
    assert hints_for("navigate", None)[0] == ("n", "new")
    came, _ = roster.update([entry(1, "a")])
    node = roster.nodes()[0]
    assert ("f", "fork") in hints_for("navigate", node)
    came[0].state = "paused"
    assert ("p", "resume") in hints_for("navigate", node)
    assert hints_for("attached", node)[0][0] == "Ctrl-] Ctrl-]"
    assert node.sandbox is not None
    node.sandbox.locked = True
    assert hints_for("attached", node) == [("Ctrl-] Ctrl-] Ctrl-]", "back to the list")]
    node.sandbox.locked = False
    assert "a · paused · pid 1" in subject_for(roster, node, "navigate")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0M"),
        (1.6 * 2**20, "1.6M"),
        (118 * 2**20, "118M"),
        (4 * 2**30, "4.0G"),
        (200 * 2**30, "200G"),
    ],
)
def test_sizes_take_at_most_four_cells(size: float, text: str) -> None:
    assert mib(size) == text
    assert len(mib(size)) <= 4


@given(st.floats(0, 99 * 86400))
def test_uptimes_take_at_most_five_cells(seconds: float) -> None:
    assert len(uptime(seconds)) <= 5


def test_clipping_marks_the_cut() -> None:
    assert (clip("counter", 7), clip("counter", 5), clip("counter", 0)) == ("counter", "coun…", "")


def test_a_sparkline_is_as_wide_as_asked_and_scales_to_its_top() -> None:
    assert spark([0, 50, 100], 5, 100) == "  ▁▄█"
    assert len(spark([], 8)) == 8
