"""gc of directories that no registry entry speaks of."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from machinen_runtime.gc import run_gc
from machinen_runtime.gc_orphans import MIN_AGE_S, ephemeral_bundle_name, orphaned_paths
from machinen_runtime.paths import state_root


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
