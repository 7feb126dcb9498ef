"""Families: ancestors, the tree, notes of snapshots, and what the command line says of them."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinen_runtime import bundle_notes
from machinen_runtime.ancestry import (
    MAX_ANCESTORS,
    Ancestor,
    line_from_object,
    line_to_object,
    with_ancestor,
)
from machinen_runtime.bundle_notes import BundleNotes, change_notes, read_notes
from machinen_runtime.cli_reference import SHAPES, shape_mismatches
from machinen_runtime.errors import BootError, ErrorCode, RegistryError, SnapshotError
from machinen_runtime.lineage import (
    entry_key,
    family_tree,
    parted_at_ms,
    relatives,
    snapshot_key,
    vm_key,
)
from machinen_runtime.paths import snapshots_root
from machinen_runtime.registry import claim_name, find, register, rename_entry, step_aside
from machinen_runtime.registry_entry import RegistryEntry
from machinen_runtime.shelf import (
    KeptSnapshot,
    delete_snapshot,
    find_snapshot,
    kept_snapshots,
    prune_automatic,
)
from tests.runtime.test_cli import machinen

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=12,
)
KEYS = st.sampled_from(["pid", "startedAt", "name", "leftAt", "snapshot"])


def ancestor(number: int, left_at: float = 0, **more: Any) -> Ancestor:
    return Ancestor(pid=number, started_at=number, left_at=left_at, name=f"vm{number}", **more)


def entry(number: int, *line: Ancestor, **more: Any) -> RegistryEntry:
    return RegistryEntry(
        pid=number, socket_path="/s", started_at=number, name=f"vm{number}", ancestry=line, **more
    )


def snapshot(path: str, source: int, at: float, *line: Ancestor) -> KeptSnapshot:
    return KeptSnapshot(
        path=Path(path), name=f"vm{source}", taken_at_ms=at, source_pid=source,
        source_started_at=source, ancestry=line,
    )  # fmt: skip


def make_bundle(path: Path, taken_at: float = 1e12, **meta: Any) -> Path:
    path.mkdir(parents=True)
    (path / "meta.json").write_text(json.dumps({"snappedAt": taken_at, **meta}))
    return path


def drawn(entries: list[RegistryEntry], snapshots: list[KeptSnapshot]) -> list[str]:
    return [f"{'  ' * node.depth}{node.kind} {node.name}" for node in
            family_tree(entries, snapshots)]  # fmt: skip


# -- ancestors ------------------------------------------------------------------------------------


def test_a_line_of_ancestors_survives_json_and_never_grows_for_ever() -> None:
    line: tuple[Ancestor, ...] = ()
    for number in range(1, 2 * MAX_ANCESTORS):
        line = with_ancestor(line, ancestor(number, left_at=number + 0.5, snapshot="/b"))
    assert len(line) == MAX_ANCESTORS
    assert (line[0].pid, line[-1].pid) == (1, 2 * MAX_ANCESTORS - 1)
    assert line_from_object(json.loads(json.dumps(line_to_object(line)))) == line
    assert RegistryEntry.from_json(entry(9, *line).to_json()) == entry(9, *line)


@given(raw=st.lists(st.dictionaries(KEYS, JSON) | JSON) | JSON)
def test_foreign_ancestors_are_passed_over(raw: Any) -> None:
    for each in line_from_object(raw):
        assert each.pid > 0
        assert each.name is None or each.name.isprintable()


# -- the tree -------------------------------------------------------------------------------------


def test_a_family_is_known_when_its_elders_are_gone() -> None:
    old, mid = ancestor(1, left_at=10), ancestor(2, left_at=20)
    entries = [entry(3, old, mid), entry(4, old)]
    assert drawn(entries, []) == [
        "gone vm1",
        "  gone vm2",
        "    running vm3",
        "  running vm4",
    ]
    assert relatives(entries[0], entries) == [entries[1]]


def test_snapshots_stand_between_their_source_and_what_was_restored_from_them() -> None:
    kept = snapshot("/b", 1, 10)
    restored = entry(5, ancestor(1, left_at=10, snapshot="/b"), forked_from="/b")
    assert drawn([restored, entry(1)], [kept]) == [
        "running vm1",
        "  snapshot vm1",
        "    running vm5",
    ]
    assert drawn([restored], [kept])[0] == "gone vm1"
    assert drawn([], [kept]) == ["gone vm1", "  snapshot vm1"]
    elsewhere = replace(restored, forked_from="/copy")
    assert family_tree([elsewhere], [kept])[2].parent == snapshot_key(kept.path)


def test_an_entry_of_an_earlier_version_is_below_its_source() -> None:
    assert drawn([entry(1), entry(2, forked_from_pid=1)], []) == ["running vm1", "  running vm2"]


def test_a_circle_is_cut_and_everybody_is_there_once() -> None:
    circle = [
        snapshot("/a", 1, 1, ancestor(2, snapshot="/a")),
        snapshot("/b", 2, 2, ancestor(1, snapshot="/b")),
    ]
    nodes = family_tree([entry(3, ancestor(3))], circle)
    assert len({node.key for node in nodes}) == len(nodes)
    assert {node.kind for node in nodes} == {"running", "snapshot", "gone"}


def test_two_forks_were_the_same_until_the_first_of_them_left() -> None:
    root = entry(1)
    early, late = entry(2, ancestor(1, left_at=10)), entry(3, ancestor(1, left_at=30))
    assert parted_at_ms(early, late) == 10
    assert parted_at_ms(root, late) == 30
    assert parted_at_ms(early, entry(9)) is None
    grandchild = entry(4, ancestor(1, left_at=30), ancestor(3, left_at=40))
    assert parted_at_ms(grandchild, late) == 40
    assert entry_key(root) == vm_key(1, 1.0)


# -- notes ----------------------------------------------------------------------------------------


def test_notes_lie_in_the_bundle_and_change_one_by_one(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    assert read_notes(bundle) == BundleNotes()
    change_notes(bundle, label="before the upgrade")
    change_notes(bundle, pinned=True)
    assert read_notes(bundle) == BundleNotes(label="before the upgrade", pinned=True)
    assert (bundle / bundle_notes.NOTES_FILE).stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in bundle.iterdir()) == ["meta.json", "notes.json"]


@pytest.mark.parametrize(
    "changes", [{"label": "x" * 61}, {"note": "two\nlines"}, {"label": "\x1b[31m"}, {"note": 3}]
)
def test_a_note_that_cannot_be_drawn_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    bundle = make_bundle(tmp_path / "b")
    with pytest.raises(SnapshotError) as caught:
        change_notes(bundle, **changes)
    assert caught.value.code is ErrorCode.SNAPSHOT_NOTE_INVALID
    assert read_notes(bundle) == BundleNotes()


@pytest.mark.provokes(ErrorCode.SNAPSHOT_NOTE_INVALID)
def test_only_a_bundle_takes_notes(tmp_path: Path) -> None:
    for wrong in (tmp_path, tmp_path / ("a" * 300)):
        with pytest.raises(SnapshotError) as caught:
            change_notes(wrong, label="mine")
        assert caught.value.code is ErrorCode.SNAPSHOT_NOTE_INVALID
    assert list(tmp_path.iterdir()) == []


@given(raw=st.dictionaries(st.sampled_from(["label", "note", "pinned", "automatic"]), JSON) | JSON)
def test_damaged_notes_say_nothing_that_cannot_be_drawn(
    tmp_path_factory: pytest.TempPathFactory, raw: Any
) -> None:
    bundle = tmp_path_factory.mktemp("b")
    (bundle / bundle_notes.NOTES_FILE).write_text(json.dumps(raw))
    assert read_notes(bundle).label.isprintable()


# -- the shelf ------------------------------------------------------------------------------------


@pytest.mark.provokes(ErrorCode.SNAPSHOT_PINNED)
def test_a_pinned_snapshot_goes_only_by_force(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b")
    change_notes(bundle, pinned=True)
    with pytest.raises(SnapshotError) as caught:
        delete_snapshot(bundle)
    assert caught.value.code is ErrorCode.SNAPSHOT_PINNED
    assert bundle.is_dir()
    delete_snapshot(bundle, force=True)
    assert not bundle.exists()


def test_the_oldest_automatic_snapshots_go_unless_pinned_or_in_use(machinen_home: Path) -> None:
    paths = [make_bundle(snapshots_root() / f"web-{n}", 1e12 + n, sourceName="web")
             for n in range(6)]  # fmt: skip
    for path in paths[:5]:
        change_notes(path, automatic=True)
    change_notes(paths[0], pinned=True)
    other = make_bundle(snapshots_root() / "db-1", sourceName="db")
    change_notes(other, automatic=True)
    assert prune_automatic("web", 1, used=[str(paths[1])]) == [paths[2], paths[3]]
    assert {each.path for each in kept_snapshots()} == {other, *paths[:2], *paths[4:]}


def test_a_snapshot_is_found_by_path_or_by_name(machinen_home: Path, tmp_path: Path) -> None:
    ours = make_bundle(snapshots_root() / "web-1")
    there = make_bundle(tmp_path / "there")
    assert find_snapshot("web-1") == ours
    assert find_snapshot(there) == there
    for wrong in ("web-2", "", "a\0b", "a" * 300, str(tmp_path)):
        with pytest.raises(BootError) as caught:
            find_snapshot(wrong)
        assert caught.value.code is ErrorCode.BOOT_SNAPSHOT_NOT_FOUND


# -- the command line -----------------------------------------------------------------------------


async def value_of(*words: str, code: int = 0) -> dict[str, Any]:
    done = await machinen(*words, "--json")
    assert (done.returncode, done.stderr) == (code, b"")
    value = json.loads(done.stdout)
    assert value.pop("schema_version") == 1
    shape = SHAPES[" ".join(words[:2]) if words[0] == "bundles" else words[0]]
    assert shape_mismatches(value, shape) == []
    return value


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_command_line_labels_pins_lists_and_removes(machinen_home: Path) -> None:
    make_bundle(snapshots_root() / "web-1", sourceName="web", sourcePid=7, sourceStartedAt=5)
    await value_of("bundles", "label", "web-1", "before it")
    await value_of("bundles", "note", "web-1", "all green")
    pinned = await value_of("bundles", "pin", "web-1")
    assert (pinned["label"], pinned["note"], pinned["pinned"]) == ("before it", "all green", True)
    (listed,) = (await value_of("bundles", "ls"))["snapshots"]
    assert (listed["label"], listed["pinned"], listed["source_name"]) == ("before it", True, "web")
    shown = (await machinen("bundles", "ls")).stdout.decode()
    assert "web-1" in shown
    assert "before it" in shown
    nodes = (await value_of("tree"))["nodes"]
    assert [(node["kind"], node["depth"]) for node in nodes] == [("gone", 0), ("snapshot", 1)]
    tree = (await machinen("tree")).stdout.decode().splitlines()
    assert tree[0].startswith("○ web  gone")
    assert tree[1].startswith("└ ◆ web-1")
    assert "pinned" in tree[1]
    refused = await machinen("bundles", "rm", "web-1")
    assert refused.returncode == 1
    assert b"SNAPSHOT_PINNED" in refused.stderr
    await value_of("bundles", "unpin", "web-1")
    await value_of("bundles", "rm", "web-1")
    assert kept_snapshots() == []


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("verb", [["tree"], ["bundles", "ls"]], ids=" ".join)
async def test_a_directory_that_is_not_there_is_an_error_and_not_an_empty_list(
    verb: list[str], machinen_home: Path, tmp_path: Path
) -> None:
    refused = await machinen(*verb, str(tmp_path / "mistyped"))
    assert refused.returncode == 1
    assert b"BOOT_SNAPSHOT_NOT_FOUND" in refused.stderr
    assert b"mistyped: No such file or directory" in refused.stderr
    assert refused.stdout == b""
    empty = tmp_path / "empty"
    empty.mkdir()
    assert (await machinen(*verb, str(empty))).returncode == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_rewind_wants_a_snapshot_or_back_but_not_both(machinen_home: Path) -> None:
    for words in (["rewind", "web"], ["rewind", "web", "x", "--back"]):
        assert (await machinen(*words)).returncode == 2
    assert b"REGISTRY_VM_NOT_FOUND" in (await machinen("rewind", "web", "--back")).stderr


def test_a_name_that_steps_aside_is_nobodys_to_take_until_it_is_back(machinen_home: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as vm, subprocess.Popen(["sleep", "60"]) as other:
        try:
            claim_name("web", vm.pid)
            register(RegistryEntry(pid=vm.pid, socket_path="/s", started_at=1, name="web"))
            aside = step_aside(vm.pid, os.getpid())
            assert aside.name == f"web~{vm.pid}"
            assert find(name=f"web~{vm.pid}").pid == vm.pid
            with pytest.raises(RegistryError):
                find(name="web")
            with pytest.raises(RegistryError) as caught:
                claim_name("web", other.pid)
            assert caught.value.code is ErrorCode.REGISTRY_NAME_IN_USE
            rename_entry(vm.pid, "web", os.getpid())
            assert find(name="web").pid == vm.pid
            with pytest.raises(RegistryError):
                find(name=f"web~{vm.pid}")
        finally:
            vm.kill()
            other.kill()
