"""Control groups that hold a VM's QEMU within its limits: found, made, read, removed.

Version 2 (Documentation/admin-guide/cgroup-v2.rst) where it has the controllers, else version 1
(cgroup-v1/), controller by controller. A VM's groups are called `machinen-<id>`. They are made
beside our own group, or in it with version 1, where any process may have groups below its own;
`MACHINEN_CGROUP` names another place. The client looks for the place, so that what is missing is
said before anything starts; the monitor makes the groups and removes them when QEMU has ended. A
monitor that was killed leaves empty groups to `machinen gc`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vmm.errors import VmmError
from vmm.limits import Limits

PREFIX = "machinen-"
PERIOD_US = 100_000
MOUNTS, OWN_GROUPS = "/proc/self/mounts", "/proc/self/cgroup"
HELP = (
    "run it by `systemd-run --user --scope -p Delegate=yes -- …`, set MACHINEN_CGROUP to a group"
    " you may write to, or ask for no such limit (0)"
)
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupSpec:
    """One group to make: its directory, and the files to write into it, in order."""

    path: str
    values: dict[str, str]


@dataclass(frozen=True, slots=True)
class CgroupFigures:
    """What the limits did so far."""

    throttled: int = 0
    """Periods of 0.1 s in which QEMU had used up its processor time."""
    memory_at_limit: int = 0
    """How often it wanted more memory than it may have."""
    oom_kills: int = 0
    """How often the kernel ended a process for that."""


@dataclass(frozen=True, slots=True)
class _Hierarchy:
    """One mounted tree of groups, and where in it this process is."""

    root: Path
    own: Path
    controllers: frozenset[str]
    unified: bool


def place_cgroups(
    limits: Limits, vm_id: str, *, mounts: str | None = None, own_groups: str | None = None
) -> list[CgroupSpec]:
    """The groups that enforce `limits` for the VM `vm_id`; none if none is needed.

    `mounts` and `own_groups` are the texts of /proc/self/mounts and /proc/self/cgroup.

    Raises:
        VmmError: LIMITS_UNAVAILABLE: this process may make none, with what to do.
    """
    wanted = {"cpu": bool(limits.cpus), "memory": bool(limits.memory_bytes)}
    hierarchies = _hierarchies(
        Path(MOUNTS).read_text() if mounts is None else mounts,
        Path(OWN_GROUPS).read_text() if own_groups is None else own_groups,
    )
    values: dict[Path, dict[str, str]] = {}
    for controller in (name for name, is_wanted in wanted.items() if is_wanted):
        place, unified = _place(hierarchies, controller)
        group = values.setdefault(place / f"{PREFIX}{vm_id}", {})
        group.update(_values(controller, limits, unified=unified))
    return [CgroupSpec(path=str(path), values=each) for path, each in values.items()]


def _values(controller: str, limits: Limits, *, unified: bool) -> dict[str, str]:
    if controller == "memory":
        name = "memory.max" if unified else "memory.limit_in_bytes"
        return {name: str(limits.memory_bytes)}
    quota = str(max(1000, round((limits.cpus or 0) * PERIOD_US)))
    if unified:
        return {"cpu.max": f"{quota} {PERIOD_US}"}
    return {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": quota}


def _hierarchies(mounts: str, own_groups: str) -> list[_Hierarchy]:
    """Every tree of groups that is mounted, version 2 first."""
    own: dict[str, str] = {}
    for line in own_groups.splitlines():
        _, controllers, path = line.split(":", 2)
        own |= dict.fromkeys(controllers.split(","), path)
    found: list[_Hierarchy] = []
    for line in mounts.splitlines():
        _, where, kind, options, *_ = line.split()
        root = Path(_OCTAL.sub(lambda octal: chr(int(octal[1], 8)), where))
        if kind == "cgroup2" and "" in own:
            names = _words(root / "cgroup.controllers")
            found.insert(0, _Hierarchy(root, _below(root, own[""]), names, True))
        elif kind == "cgroup":
            names = frozenset(options.split(",")) & set(own)
            for name in list(names)[:1]:
                found.append(_Hierarchy(root, _below(root, own[name]), names, False))
    return found


def _place(hierarchies: Sequence[_Hierarchy], controller: str) -> tuple[Path, bool]:
    """Where a group with this controller may be made, and whether that is version 2."""
    named = os.environ.get("MACHINEN_CGROUP")
    tried: list[str] = []
    for tree in hierarchies:
        if controller not in tree.controllers:
            continue
        if named:
            candidates = [_below(tree.root, named)]
        elif tree.unified:  # a group with processes in it may have none below with controllers
            candidates = [each for each in tree.own.parents if each.is_relative_to(tree.root)]
        else:
            candidates = [tree.own]
        for candidate in candidates:
            if _may_have_groups(candidate, controller, unified=tree.unified):
                return candidate, tree.unified
            tried.append(str(candidate))
    where = f"not in {', '.join(tried)}" if tried else "no such controller is mounted"
    message = f"the limit needs a control group ({controller}), and none can be made: {where}"
    raise VmmError("LIMITS_UNAVAILABLE", f"{message}; {HELP}")


def _below(root: Path, path: str) -> Path:
    """The group `path` of a tree, given below its root or in full."""
    if Path(path).is_relative_to(root):
        return Path(path)
    return root / path.strip("/")


def _may_have_groups(place: Path, controller: str, *, unified: bool) -> bool:
    """Whether this process may make a group there, and move into it."""
    if not os.access(place, os.W_OK | os.X_OK):
        return False
    if not unified:
        return True
    if not os.access(place / "cgroup.procs", os.W_OK):
        return False
    handed_down = place / "cgroup.subtree_control"
    if controller in _words(handed_down):
        return True
    try:
        handed_down.write_text(f"+{controller}")
    except OSError:  # not ours to change, or there are processes in it
        return False
    return True


def _words(path: Path) -> frozenset[str]:
    try:
        return frozenset(path.read_text().split())
    except OSError:
        return frozenset()


class Cgroups:
    """The groups of one VM."""

    def __init__(self, specs: Sequence[CgroupSpec]) -> None:
        self._paths = [Path(each.path) for each in specs]

    def enter(self) -> None:
        """Move this process into them; for the process that becomes QEMU."""
        for path in self._paths:
            with open(path / "cgroup.procs", "w") as file:
                file.write(str(os.getpid()))

    def figures(self) -> CgroupFigures:
        """What the limits did so far; zeros where there is none."""
        found: dict[str, int] = {}
        for path in self._paths:
            for name in ("cpu.stat", "memory.events", "memory.oom_control"):
                found |= _counters(path / name)
            with suppress(OSError, ValueError):
                found["max"] = int((path / "memory.failcnt").read_text())
        return CgroupFigures(
            found.get("nr_throttled", 0), found.get("max", 0), found.get("oom_kill", 0)
        )


@contextmanager
def own_cgroups(specs: Sequence[CgroupSpec]) -> Generator[Cgroups]:
    """Make the groups for the length of the block, which nobody may be in at its end.

    Raises:
        VmmError: LIMITS_UNAVAILABLE: the kernel refuses the group, or one of its limits.
    """
    made: list[Path] = []
    try:
        for spec in specs:
            path = Path(spec.path)
            try:
                path.mkdir(mode=0o700)
                made.append(path)
                for name, value in spec.values.items():
                    (path / name).write_text(value)
            except OSError as error:
                message = f"the control group {path} cannot be set up: {error.strerror}"
                raise VmmError("LIMITS_UNAVAILABLE", f"{message}; {HELP}") from error
        yield Cgroups(specs)
    finally:
        for path in reversed(made):
            remove_cgroup(path)


def is_group_of_ours(path: Path) -> bool:
    """Whether it is a VM's group, by its name and what every group has in it."""
    return path.name.startswith(PREFIX) and (path / "cgroup.procs").exists()


def remove_cgroup(path: Path) -> bool:
    """Remove an empty group of ours; False if it is still there. Others are left alone."""
    if not path.name.startswith(PREFIX):
        return False
    try:
        path.rmdir()
    except OSError as error:
        return isinstance(error, FileNotFoundError)
    return True


def _counters(path: Path) -> dict[str, int]:
    """`name number` lines of a file that may not be there."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return {}
    pairs = [line.split() for line in lines]
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}
