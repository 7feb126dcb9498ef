"""run_gc(): remove what dead VMs left behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from machinen_runtime.crashes import prune_crashes, report_killed
from machinen_runtime.gc_orphans import orphaned_paths
from machinen_runtime.paths import is_ours, remove_tree
from machinen_runtime.pids import PidStatus, validate_pid
from machinen_runtime.registry import (
    RegistryEntry,
    all_entries,
    free_names_of_the_dead,
    unregister,
)
from machinen_runtime.standbys import standby_paths, sweep
from vmm.cgroups import is_group_of_ours, remove_cgroup


@dataclass(frozen=True, slots=True, kw_only=True)
class GcResult:
    """What was done, or with dry_run would be done, about one dead VM."""

    pid: int
    status: PidStatus
    name: str | None = None
    removed_paths: list[str] = field(default_factory=list[str])
    failed_paths: list[str] = field(default_factory=list[str])
    """Still there: not permitted, or outside of every directory of ours."""
    registry_removed: bool = False


def run_gc(*, dry_run: bool = False, pid: int | None = None) -> list[GcResult]:
    """Remove the files and entries of VMs that are dead or whose pid is a stranger's now.

    Live VMs are passed over. A file that cannot be removed is reported and the entry dropped
    nevertheless; a file already gone is not reported. `pid` looks at this VM alone; without it,
    directories of ours that no entry speaks of and old crash reports go too, reported as pid 0,
    and a VM whose monitor was killed leaves a crash report.
    """
    results: list[GcResult] = []
    for entry in all_entries():
        if pid is not None and entry.pid != pid:
            continue
        status = validate_pid(entry.pid, entry)
        if status != "alive":
            if pid is None and not dry_run:  # else whoever asks has ended it
                report_killed(entry)
            results.append(_collect(entry, status, dry_run=dry_run))
    if pid is None:
        results += _collect_orphans(dry_run=dry_run)
    return sorted(results, key=lambda result: result.pid)


def _collect_orphans(*, dry_run: bool) -> list[GcResult]:
    """What no entry speaks of, as one result of pid 0."""
    if not dry_run:
        sweep()
        free_names_of_the_dead()
    known = [path for entry in all_entries() for path in entry.cleanup_paths]
    known += standby_paths()
    orphans = [*orphaned_paths(known), *prune_crashes(dry_run=True)]
    if not orphans:
        return []
    failed = [] if dry_run else [str(path) for path in orphans if not remove_tree(path)]
    removed = [str(path) for path in orphans if str(path) not in failed]
    return [GcResult(pid=0, status="dead", removed_paths=removed, failed_paths=failed)]


def _collect(entry: RegistryEntry, status: PidStatus, *, dry_run: bool) -> GcResult:
    removed: list[str] = []
    failed: list[str] = []
    for text in [*entry.cleanup_paths, *([entry.boot_log_path] if entry.boot_log_path else [])]:
        path = Path(text)
        if not path.exists() and not path.is_symlink():
            continue
        if is_ours(path) and (dry_run or remove_tree(path)):
            removed.append(text)
        else:
            failed.append(text)
    for path in filter(is_group_of_ours, map(Path, entry.cgroups)):
        (removed if dry_run or remove_cgroup(path) else failed).append(str(path))
    if not dry_run:
        unregister(entry.pid)
    return GcResult(
        pid=entry.pid,
        status=status,
        name=entry.name,
        removed_paths=removed,
        failed_paths=failed,
        registry_removed=True,
    )
