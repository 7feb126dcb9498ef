"""gc of directories that no registry entry speaks of."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from machinen_runtime.gc import run_gc
from machinen_runtime.gc_orphans import (
    MIN_AGE_S,
    ephemeral_bundle_name,
    orphaned_paths,
    unfinished_path,
)
from machinen_runtime.paths import cache_root, snapshots_root, state_root
from machinen_runtime.registry import claim_name, registry_root


@pytest.fixture
def state(machinen_home: Path) -> Path:
    """The empty directory that holds one directory per VM."""
    state_root().mkdir(parents=True)
    return state_root()


def make_old(path: Path) -> Path:
    """A directory that was last touched before the age of orphans."""
    path.mkdir()
    os.utime(path, (0, 0))
    return path


def test_an_old_directory_that_nobody_speaks_of_is_removed(state: Path) -> None:
    orphan = make_old(state / "0badcafe")
    results = run_gc()
    assert [result.removed_paths for result in results] == [[str(orphan)]]
    assert not orphan.exists()


def test_a_dry_run_only_says_so(state: Path) -> None:
    orphan = make_old(state / "0badcafe")
    assert run_gc(dry_run=True)[0].removed_paths == [str(orphan)]
    assert orphan.exists()


def test_the_name_of_a_vm_that_died_before_it_had_an_entry_is_freed(state: Path) -> None:
    """Its starter was killed between the two; who lives keeps the name it has."""
    with subprocess.Popen(["sleep", "1000"]) as monitor:
        claim_name("team/doomed", monitor.pid)
        claim_name("alive", os.getpid())
        run_gc()
        assert (registry_root() / "names/team/doomed").exists()
        monitor.kill()
    run_gc(dry_run=True)
    assert (registry_root() / "names/team/doomed").exists()
    run_gc()
    assert [path.name for path in (registry_root() / "names").iterdir()] == ["alive"]


def test_a_young_directory_may_be_a_vm_that_just_starts(state: Path) -> None:
    (state / "12345678").mkdir()
    assert orphaned_paths([]) == []
    later = (state / "12345678").stat().st_mtime + MIN_AGE_S + 1
    assert orphaned_paths([], now=later) == [state / "12345678"]


def test_directories_of_registry_entries_are_not_orphans(state: Path) -> None:
    known = make_old(state / "abcdef01")
    assert orphaned_paths([str(known)]) == []


def test_a_bundle_goes_when_the_process_that_made_it_is_gone(state: Path) -> None:
    mine = state / ephemeral_bundle_name("aa")
    mine.mkdir()
    child = subprocess.Popen(["true"])
    child.wait()
    of_the_dead = [state / f"bundle-{child.pid}-aa", state / f".bundle-{child.pid}-aa.bb"]
    for path in of_the_dead:
        path.mkdir()
    assert sorted(orphaned_paths([])) == sorted(of_the_dead)


def test_what_the_dead_began_in_shared_places_goes_and_the_rest_stays(state: Path) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    rootfs, snapshots = cache_root() / "rootfs", snapshots_root()
    for place in (rootfs, snapshots):
        place.mkdir(parents=True)
    half_image = rootfs / f".staging.{child.pid}-0badcafe"
    half_note = rootfs / f".x.sha256.{child.pid}.0badcafe"
    half_bundle = snapshots / f".shop-1.{child.pid}-0badcafe"
    for directory in (half_image, half_bundle):
        directory.mkdir()
        (directory / "part").touch()
    half_note.touch()
    mine = unfinished_path(snapshots / "shop-1")
    assert not half_bundle.exists()  # who begins anew there clears up
    mine.mkdir()
    half_bundle.mkdir()
    (snapshots / ".hidden").touch()
    (snapshots / "shop-1").mkdir()
    assert sorted(orphaned_paths([])) == sorted([half_image, half_note, half_bundle])
    run_gc()
    assert sorted(path.name for path in snapshots.iterdir()) == [".hidden", mine.name, "shop-1"]
    assert list(rootfs.iterdir()) == []
