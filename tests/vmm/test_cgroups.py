"""Limits by control groups: a made-up version 2, and version 1 where this machine has it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vmm import cgroups
from vmm.cgroups import (
    CgroupFigures,
    Cgroups,
    CgroupSpec,
    is_group_of_ours,
    own_cgroups,
    place_cgroups,
    remove_cgroup,
)
from vmm.errors import VmmError
from vmm.limits import Limits

BOTH = Limits(cpus=0.5, memory_bytes=512 << 20)


@pytest.fixture(autouse=True)
def no_place_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MACHINEN_CGROUP", raising=False)


class Tree:
    """A directory in the shape of version 2: a slice of the user's, and a scope in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.slice = root / "user.slice"
        self.scope = self.slice / "run-1.scope"
        for group in (root, self.slice, self.scope):
            group.mkdir(exist_ok=True)
            (group / "cgroup.controllers").write_text("cpu io memory pids\n")
            (group / "cgroup.subtree_control").write_text("cpu memory\n")
            (group / "cgroup.procs").touch()
        self.mounts = f"cgroup2 {root} cgroup2 rw,nosuid 0 0\n"
        self.own = "0::/user.slice/run-1.scope\n"

    def place(self, limits: Limits) -> list[CgroupSpec]:
        return place_cgroups(limits, "abcd", mounts=self.mounts, own_groups=self.own)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "cgroup")


@pytest.fixture
def cgroup_root(tmp_path: Path) -> Path:
    root = tmp_path / "v1"
    for name in ("cpu", "memory"):
        (root / name / "mine").mkdir(parents=True)
    return root


def test_version_2_has_one_group_beside_our_own(tree: Tree) -> None:
    values = {"cpu.max": "50000 100000", "memory.max": str(512 << 20)}
    path = str(tree.slice / "machinen-abcd")
    assert tree.place(BOTH) == [CgroupSpec(path=path, values=values)]
    assert tree.place(Limits(cpus=2)) == [
        CgroupSpec(path=path, values={"cpu.max": "200000 100000"})
    ]


def test_no_limit_needs_no_group(tree: Tree) -> None:
    assert tree.place(Limits()) == []
    assert tree.place(Limits(io_bytes_per_s=1 << 20)) == []
    assert place_cgroups(Limits(cpus=0), "abcd", mounts="", own_groups="") == []


def test_a_controller_that_is_not_handed_down_yet_is(tree: Tree) -> None:
    handed_down = tree.slice / "cgroup.subtree_control"
    handed_down.write_text("pids\n")
    assert tree.place(Limits(cpus=1))[0].path.startswith(str(tree.slice))
    assert handed_down.read_text() == "+cpu"  # what the kernel would turn into `pids cpu`


def test_groups_above_are_tried_where_one_may_not_be_written(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = {tree.slice}

    def access(path: Path, mode: int) -> bool:
        return path not in refused and path.parent not in refused

    monkeypatch.setattr(cgroups.os, "access", access)
    assert tree.place(BOTH)[0].path == str(tree.root / "machinen-abcd")
    refused.add(tree.root)
    with pytest.raises(VmmError, match=r"systemd-run .*MACHINEN_CGROUP") as caught:
        tree.place(BOTH)
    assert caught.value.code == "LIMITS_UNAVAILABLE"
    assert str(tree.slice) in str(caught.value)


def test_another_place_may_be_named(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    for named in ("/user.slice/run-1.scope", str(tree.scope), "user.slice/run-1.scope"):
        monkeypatch.setenv("MACHINEN_CGROUP", named)
        assert tree.place(BOTH)[0].path == str(tree.scope / "machinen-abcd")


def test_version_1_has_a_group_in_each_tree(cgroup_root: Path) -> None:
    mounts = "".join(
        f"cgroup {cgroup_root}/{name} cgroup rw,{name} 0 0\n" for name in ("cpu", "memory")
    )
    mounts += f"cgroup2 {cgroup_root}/unified cgroup2 rw 0 0\n"  # mounted, with nothing in it
    own = "2:memory:/mine\n1:cpu:/\n0::/\n"
    placed = place_cgroups(BOTH, "abcd", mounts=mounts, own_groups=own)
    assert placed == [
        CgroupSpec(
            path=f"{cgroup_root}/cpu/machinen-abcd",
            values={"cpu.cfs_period_us": "100000", "cpu.cfs_quota_us": "50000"},
        ),
        CgroupSpec(
            path=f"{cgroup_root}/memory/mine/machinen-abcd",
            values={"memory.limit_in_bytes": str(512 << 20)},
        ),
    ]


def test_without_the_controller_that_is_said() -> None:
    with pytest.raises(VmmError, match="no such controller is mounted"):
        place_cgroups(BOTH, "abcd", mounts="proc /proc proc rw 0 0\n", own_groups="0::/\n")


def test_a_path_with_a_space_is_read(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "c group")
    tree.mounts = tree.mounts.replace(" group", r"\040group")
    assert tree.place(BOTH)[0].path == str(tmp_path / "c group/user.slice/machinen-abcd")


def test_groups_are_made_with_their_limits_and_removed(tree: Tree) -> None:
    group = Path(tree.place(BOTH)[0].path)
    with own_cgroups(tree.place(BOTH)):
        assert (group / "cpu.max").read_text() == "50000 100000"
        assert (group / "memory.max").read_text() == str(512 << 20)
        for file in group.iterdir():  # which a real group would lose by itself
            file.unlink()
    assert not group.exists()


def test_a_group_that_cannot_be_made_is_said_and_nothing_is_left(tree: Tree) -> None:
    specs = tree.place(Limits(cpus=1))
    specs.append(CgroupSpec(path=str(tree.root / "none/machinen-abcd"), values={}))
    specs[0].values.clear()
    with (
        pytest.raises(VmmError, match="cannot be set up: No such file") as caught,
        own_cgroups(specs),
    ):
        pass
    assert caught.value.code == "LIMITS_UNAVAILABLE"
    assert not Path(specs[0].path).exists()


def test_figures_are_those_of_either_version(tmp_path: Path) -> None:
    groups = Cgroups([CgroupSpec(path=str(tmp_path), values={})])
    assert groups.figures() == CgroupFigures()
    (tmp_path / "cpu.stat").write_text("usage_usec 5\nnr_periods 9\nnr_throttled 7\n")
    (tmp_path / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\n")
    assert groups.figures() == CgroupFigures(throttled=7, memory_at_limit=12, oom_kills=2)
    (tmp_path / "memory.events").unlink()
    (tmp_path / "memory.failcnt").write_text("3\n")
    (tmp_path / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert groups.figures() == CgroupFigures(throttled=7, memory_at_limit=3, oom_kills=1)
    (tmp_path / "memory.failcnt").write_text("many\n")
    (tmp_path / "cpu.stat").write_text("nr_throttled -1\nnonsense\n\n")
    assert groups.figures() == CgroupFigures(oom_kills=1)


def test_only_groups_of_ours_are_removed(tmp_path: Path) -> None:
    stranger, ours = tmp_path / "user.slice", tmp_path / "machinen-abcd"
    for path in (stranger, ours):
        path.mkdir()
    assert not is_group_of_ours(ours), "no group: there is nothing in it"
    assert not remove_cgroup(stranger)
    assert stranger.exists()
    (ours / "cgroup.procs").touch()
    assert is_group_of_ours(ours)
    assert not remove_cgroup(ours), "somebody is in it"
    (ours / "cgroup.procs").unlink()
    assert remove_cgroup(ours)
    assert remove_cgroup(ours), "gone is gone"


BUSY = """
import os, sys, time
start = time.monotonic()
while time.monotonic() < start + 1.5:
    pass
print(time.process_time() / (time.monotonic() - start))
"""


def cpu_tree() -> Path | None:
    """Where this machine lets us make a group with a processor quota."""
    try:
        return Path(place_cgroups(Limits(cpus=0.2), f"test{os.getpid()}")[0].path)
    except VmmError:
        return None


@pytest.mark.skipif(cpu_tree() is None, reason="no control groups may be made here")
def test_the_kernel_holds_a_process_to_its_quota() -> None:
    """No time of ours: what the process got of the processor, by its own count."""
    specs = place_cgroups(Limits(cpus=0.2), f"test{os.getpid()}")
    with own_cgroups(specs) as groups:
        done = subprocess.run(
            [sys.executable, "-I", "-S", "-c", BUSY],
            preexec_fn=groups.enter,
            stdout=subprocess.PIPE,
            check=True,
            timeout=120,
        )
        assert float(done.stdout) < 0.5
        assert groups.figures().throttled > 0
        path = Path(specs[0].path)
        assert is_group_of_ours(path)
    assert not path.exists()
