"""A clock that was set back: files of ours have times in the future, and nothing waits for it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from machinen_runtime import templates
from machinen_runtime.bundle_notes import change_notes
from machinen_runtime.content_sum import known_sum
from machinen_runtime.crashes import crash_of, list_crashes
from machinen_runtime.file_age import seconds_unchanged
from machinen_runtime.gc_orphans import MIN_AGE_S, orphaned_paths
from machinen_runtime.initramfs import ensure_initramfs
from machinen_runtime.paths import cache_root, crashes_root, snapshots_root, state_root
from machinen_runtime.pids import process_identity, validate_pid
from machinen_runtime.registry_entry import RegistryEntry
from machinen_runtime.shelf import kept_snapshots, prune_automatic
from machinen_runtime.standbys import TAKEN_SOCKET, TAKING_S, Standby
from machinen_tui.history import Ring
from vmm.crash_report import MAX_REPORTS, CrashReport, report_id, timestamp, write_report

DAYS_S = 3 * 86400.0


def from_the_future(path: Path, by_s: float = DAYS_S) -> Path:
    """The file as it is after the clock was set back by so much."""
    then = time.time() + by_s
    os.utime(path, (then, then))
    return path


def test_a_file_from_the_future_ages_from_now_on(tmp_path: Path) -> None:
    file = from_the_future(tmp_path)
    assert seconds_unchanged(file) == 0.0
    assert seconds_unchanged(file, time.time() + 100) >= 99
    with pytest.raises(FileNotFoundError):
        seconds_unchanged(tmp_path / "gone")


def test_templates_that_failed_before_are_made_again(machinen_home: Path) -> None:
    templates.templates_root().mkdir(parents=True)
    for _ in range(3):
        templates.note_failure("key")
    assert templates.failures("key") == 3
    from_the_future(templates.templates_root() / "key.failures")
    assert templates.failures("key") == 0
    templates.note_failure("key")
    assert templates.failures("key") == 1


def test_a_template_used_now_is_not_older_than_one_from_the_future(machinen_home: Path) -> None:
    templates.templates_root().mkdir(parents=True)
    for key in ("then", "now"):
        templates.lock_path(key).touch()
    from_the_future(templates.lock_path("then"))
    assert templates.last_used("then") <= time.time()
    assert templates.last_used("now") <= time.time()
    templates.mark_used("now")
    assert templates.last_used("now") >= templates.last_used("then")


def test_what_a_dead_vm_left_is_found_a_minute_later(machinen_home: Path) -> None:
    left = state_root() / "0badcafe"
    left.mkdir(parents=True)
    from_the_future(left)
    assert orphaned_paths([]) == []  # it may be a VM that just starts
    assert orphaned_paths([], now=time.time() + MIN_AGE_S + 1) == [left]


def test_a_checksum_is_remembered_all_the_same(machinen_home: Path, tmp_path: Path) -> None:
    file = tmp_path / "ram.img"
    file.write_bytes(b"contents")
    known_sum(from_the_future(file))
    assert len(list((cache_root() / "sums").iterdir())) == 1


def test_what_the_cache_holds_is_removed_when_it_has_aged(
    machinen_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "load").write_text("one.ko\n")
    (modules / "one.ko").write_bytes(b"one")
    first = from_the_future(ensure_initramfs(tmp_path, modules), by_s=365 * 86400)
    (modules / "one.ko").write_bytes(b"two")
    ensure_initramfs(tmp_path, modules)
    assert first.exists()
    now = time.time()
    monkeypatch.setattr("machinen_runtime.file_age.time.time", lambda: now + 8 * 86400)
    (modules / "one.ko").write_bytes(b"three")
    ensure_initramfs(tmp_path, modules)
    assert not first.exists()


@pytest.mark.parametrize("by_s", [TAKING_S + 60, DAYS_S])
def test_a_standby_withdrawn_in_the_future_is_not_being_taken(
    machinen_home: Path, monkeypatch: pytest.MonkeyPatch, by_s: float
) -> None:
    standby = Standby(
        slot=Path("match.0"), id="abcd", key="key", pid=1, process_identity="", made_at=0.0
    )
    standby.run_dir.mkdir(parents=True)
    (standby.run_dir / TAKEN_SOCKET).touch()
    assert standby.is_being_taken
    now = time.time()
    monkeypatch.setattr("machinen_runtime.standbys.time.time", lambda: now - by_s)
    assert not standby.is_being_taken


def test_a_running_vm_is_the_same_process_whatever_the_clock_says() -> None:
    entry = RegistryEntry(
        pid=os.getpid(),
        socket_path="",
        started_at=(time.time() + DAYS_S) * 1000,
        process_identity=process_identity(os.getpid()),
    )
    assert validate_pid(entry.pid, entry) == "alive"


def report(vm_id: str, at_s: float) -> CrashReport:
    return CrashReport(
        id=report_id(vm_id, at_s),
        time=timestamp(at_s),
        reason="QEMU_DIED",
        message="it died",
        vm_id=vm_id,
        pid=1,
    )


def test_the_newest_crash_is_kept_and_shown_first(
    machinen_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MACHINEN_CRASHES_DIR", str(machinen_home / "crashes"))
    for number in range(MAX_REPORTS):
        write_report(crashes_root(), report(f"{number:04}", time.time() + DAYS_S + number))
    kept = write_report(crashes_root(), report("newest", time.time()))
    assert kept.exists()
    assert [each.vm_id for each in list_crashes()][:2] == ["newest", f"{MAX_REPORTS - 1:04}"]
    assert len(list_crashes()) == MAX_REPORTS
    assert crash_of("/run/newest") is not None


def keep_bundle(name: str, at_s: float) -> Path:
    bundle = snapshots_root() / name
    bundle.mkdir(parents=True)
    meta = {"snappedAt": at_s * 1000, "sourceName": "web"}
    (bundle / "meta.json").write_text(json.dumps(meta))
    change_notes(bundle, automatic=True)
    return bundle


def test_the_snapshot_taken_now_is_the_newest_and_the_last_to_be_pruned(
    machinen_home: Path,
) -> None:
    then = [keep_bundle(f"then-{number}", time.time() + DAYS_S + number) for number in range(3)]
    now = keep_bundle("now", time.time() - 1)
    assert [each.path for each in kept_snapshots()] == [*then, now]
    assert prune_automatic("web", 1) == then
    assert now.exists()


def test_graphs_go_on_with_the_time_there_is() -> None:
    ring = Ring()
    ring.add(DAYS_S, 1.0)
    ring.add(DAYS_S - 20, 2.0)  # corrected a little: dropped
    assert ring.last == 1.0
    ring.add(100.0, 3.0)
    assert ring.last == 3.0
    assert ring.values(100.0, 10, 2) == [None, 3.0]
