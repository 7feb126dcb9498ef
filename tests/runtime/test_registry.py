"""The registry on real files and real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from machinen_runtime import registry
from machinen_runtime.errors import ErrorCode, RegistryError
from machinen_runtime.gc import run_gc
from machinen_runtime.option_types import LiveMount, PortForward
from machinen_runtime.pids import process_identity
from machinen_runtime.registry import RegistryEntry
from machinen_runtime.registry_entry import MAX_ENTRY_BYTES, MountDiskRecord, entry_from_object
from machinen_runtime.registry_names import names_lock
from vmm.limits import Limits


@pytest.fixture
def sleeper() -> Generator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "300"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def entry(pid: int, **fields: Any) -> RegistryEntry:
    return RegistryEntry(
        pid=pid, socket_path=f"/run/x/{pid}/vsock.sock", started_at=time.time() * 1000, **fields
    )


def dead_entry(pid: int, **fields: Any) -> RegistryEntry:
    return entry(pid, process_identity="another-boot/1", **fields)


def test_an_entry_survives_its_json() -> None:
    full = entry(
        12,
        name="worker/1",
        cleanup_paths=("/run/a", "/state/b"),
        port_forward=(PortForward(host_port=8080, guest_port=80),),
        live_mounts=(LiveMount(host="/srv", guest="/mnt/srv", mode="ro"),),
        mount_disk=MountDiskRecord(guest="/mnt/a", lower_path="/l", upper_path="/u"),
        memory_ceiling_mib=512,
        forked_from="/bundle",
        forked_from_name="a",
        forked_from_pid=11,
        limits=Limits(cpus=0.5, memory_bytes=1 << 30),
        cgroups=("/sys/fs/cgroup/machinen-abcd",),
    )
    assert RegistryEntry.from_json(full.to_json()) == full


@pytest.mark.parametrize(
    "limits", [7, {"cpus": -1}, {"cpus": "1"}, {"disks": 1}, {"cpus": 10**400}]
)
def test_limits_that_make_no_sense_are_none(limits: object) -> None:
    raw = {**json.loads(entry(12).to_json()), "limits": limits, "cgroups": [1, "/a", None]}
    found = entry_from_object(raw)
    assert found is not None
    assert found.limits is None
    assert found.cgroups == ("/a",)


def test_gc_removes_control_groups_of_ours_and_no_others(
    machinen_home: Path, tmp_path: Path, dead_pid: int
) -> None:
    ours, stranger, gone = (tmp_path / name for name in ("machinen-a", "user.slice", "machinen-b"))
    ours.mkdir()
    stranger.mkdir()
    (ours / "cgroup.procs").touch()  # as long as somebody is in it; a real group has it for ever
    registry.register(dead_entry(dead_pid, cgroups=tuple(map(str, (ours, stranger, gone)))))
    (result,) = run_gc(pid=dead_pid)
    assert result.failed_paths == [str(ours)]
    assert stranger.exists()
    assert result.registry_removed


def test_the_json_has_the_keys_of_the_declaration() -> None:
    written = json.loads(
        entry(7, name="a", port_forward=(PortForward(host_port=1, guest_port=2),)).to_json()
    )
    assert written["socketPath"] == "/run/x/7/vsock.sock"
    assert written["portForward"] == [{"hostPort": 1, "guestPort": 2, "hostAddr": "127.0.0.1"}]
    assert "imagePath" not in written


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
entry_keys = st.sampled_from(
    [
        "pid",
        "socketPath",
        "startedAt",
        "name",
        "cleanupPaths",
        "portForward",
        "liveMounts",
        "mountDisk",
        "memoryCeilingMib",
        "forkedFromPid",
        "processIdentity",
    ]
)


@given(st.dictionaries(entry_keys, json_values))
def test_any_object_is_an_entry_or_none(raw: dict[str, Any]) -> None:
    raw.setdefault("pid", 1)
    raw.setdefault("socketPath", "/x")
    raw.setdefault("startedAt", 0)
    read = entry_from_object(raw)
    if read is not None:
        assert RegistryEntry.from_json(read.to_json()) == read


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
def test_a_damaged_file_is_passed_over(machinen_home: Path, content: bytes) -> None:
    directory = registry.registry_root() / "1"
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "meta.json").write_bytes(content)
    assert registry.list() == []


@pytest.mark.parametrize("content", ["[" * 100_000, "{}", "[]", "x" * (MAX_ENTRY_BYTES + 1)])
def test_a_hostile_file_is_passed_over(machinen_home: Path, content: str) -> None:
    directory = registry.registry_root() / str(os.getpid())
    directory.mkdir(parents=True)
    (directory / "meta.json").write_text(content)
    assert registry.list() == []


def test_an_entry_in_a_strangers_directory_is_passed_over(machinen_home: Path) -> None:
    directory = registry.registry_root() / "1"
    directory.mkdir(parents=True)
    (directory / "meta.json").write_text(entry(os.getpid()).to_json())
    assert registry.list() == []


def test_a_live_vm_is_listed_and_found(
    machinen_home: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    registry.claim_name("a", sleeper.pid)
    written = registry.register(entry(sleeper.pid, name="a"))
    assert written.process_identity == process_identity(sleeper.pid)
    assert registry.list() == [written]
    assert registry.find(name="a") == registry.find(pid=sleeper.pid) == written


def test_a_vm_without_its_pin_is_found_by_name(machinen_home: Path) -> None:
    written = registry.register(entry(os.getpid(), name="a"))
    assert registry.find(name="a") == written


@pytest.mark.parametrize("target", [{"name": "nobody"}, {"pid": 4_194_304}, {"name": "../x"}, {}])
@pytest.mark.provokes(ErrorCode.REGISTRY_VM_NOT_FOUND)
def test_an_unknown_vm_is_not_found(machinen_home: Path, target: dict[str, Any]) -> None:
    with pytest.raises(RegistryError) as caught:
        registry.find(**target)
    assert caught.value.code is ErrorCode.REGISTRY_VM_NOT_FOUND


def test_a_dead_vm_is_pruned_with_its_name(machinen_home: Path, dead_pid: int) -> None:
    registry.register(dead_entry(dead_pid, name="a/b"))
    names = registry.registry_root() / "names"
    (names / "a").mkdir(parents=True)
    (names / "a" / "b").write_text(f"{dead_pid}\n")
    assert registry.list() == []
    assert sorted(path.name for path in registry.registry_root().iterdir()) == [".lock", "names"]
    assert list(names.iterdir()) == []


def test_a_list_does_not_wait_for_the_lock(machinen_home: Path, dead_pid: int) -> None:
    registry.register(dead_entry(dead_pid, name="a"))
    with names_lock(registry.registry_root()):
        assert registry.list() == []
    assert list(registry.all_entries()) == []


def test_a_recycled_pid_is_not_listed(
    machinen_home: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    registry.register(dead_entry(sleeper.pid))
    assert registry.list() == []


def test_a_dead_vm_with_leftovers_waits_for_gc(machinen_home: Path, dead_pid: int) -> None:
    left = machinen_home / "machines" / "x"
    left.mkdir(parents=True)
    (left / "console.log").write_text("hello")
    registry.register(dead_entry(dead_pid, cleanup_paths=(str(left),)))
    assert registry.list() == []
    (result,) = run_gc(dry_run=True)
    assert (result.removed_paths, result.registry_removed) == ([str(left)], True)
    assert left.exists()
    (result,) = run_gc()
    assert (result.status, result.removed_paths, result.failed_paths) == ("dead", [str(left)], [])
    assert not left.exists()
    assert run_gc() == []


def test_gc_leaves_the_living_and_foreign_files_alone(
    machinen_home: Path, dead_pid: int, sleeper: subprocess.Popen[bytes]
) -> None:
    registry.register(entry(sleeper.pid))
    foreign = ["/etc", "/", "relative", str(machinen_home), str(machinen_home / "machines/../..")]
    registry.register(dead_entry(dead_pid, cleanup_paths=(*foreign, "/nowhere/at/all")))
    (result,) = run_gc()
    assert result.pid == dead_pid
    assert result.removed_paths == []
    assert set(result.failed_paths) <= set(foreign)
    assert Path("/etc").exists()
    assert machinen_home.exists()
    assert [live.pid for live in registry.list()] == [sleeper.pid]


def test_a_new_vm_with_an_old_pid_clears_what_the_old_one_left(machinen_home: Path) -> None:
    left = machinen_home / "machines" / "old"
    left.mkdir(parents=True)
    registry.register(dead_entry(os.getpid(), cleanup_paths=(str(left),)))
    registry.register(entry(os.getpid()))
    assert not left.exists()


@pytest.mark.provokes(ErrorCode.REGISTRY_NAME_IN_USE)
def test_a_name_is_held_by_one_live_process(
    machinen_home: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    registry.claim_name("a", os.getpid())
    registry.claim_name("a", os.getpid())
    with pytest.raises(RegistryError) as caught:
        registry.claim_name("a", sleeper.pid)
    assert caught.value.code is ErrorCode.REGISTRY_NAME_IN_USE
    registry.release_name("a", sleeper.pid)
    with pytest.raises(RegistryError):
        registry.claim_name("a", sleeper.pid)
    registry.release_name("a", os.getpid())
    registry.claim_name("a", sleeper.pid)


def test_a_name_can_be_handed_over(machinen_home: Path, sleeper: subprocess.Popen[bytes]) -> None:
    registry.claim_name("a", os.getpid())
    registry.transfer_name("a", os.getpid(), sleeper.pid)
    with pytest.raises(RegistryError):
        registry.claim_name("a", os.getpid())


def test_the_name_of_a_dead_or_recycled_holder_is_free(
    machinen_home: Path, dead_pid: int, sleeper: subprocess.Popen[bytes]
) -> None:
    names = registry.registry_root() / "names"
    names.mkdir(parents=True)
    (names / "a").write_text(f"{dead_pid}\n")
    (names / "b").write_text(f"{sleeper.pid}\nanother-boot/1\n")
    (names / "c").write_bytes(b"\xff\x00junk")
    for name in ("a/below", "b", "c"):
        registry.claim_name(name, os.getpid())


def test_path_shaped_names_do_not_mix_with_flat_ones(machinen_home: Path) -> None:
    registry.claim_name("a/b/c", os.getpid())
    for blocked in ("a", "a/b", "a/b/c/d"):
        with pytest.raises(RegistryError):
            registry.claim_name(blocked, 1)
    registry.claim_name("a/b/other", os.getpid())
    registry.release_name("a/b/c", os.getpid())
    registry.release_name("a/b/other", os.getpid())
    assert list((registry.registry_root() / "names").iterdir()) == []
    registry.claim_name("a", os.getpid())


def test_empty_directories_do_not_block_a_name(machinen_home: Path) -> None:
    (registry.registry_root() / "names" / "a" / "b").mkdir(parents=True)
    registry.claim_name("a", os.getpid())


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        "..",
        "a/../b",
        ".lock",
        "-v",
        "a b",
        "a\n",
        "12",
        "x" * 129,
        "é",
    ],
)
@pytest.mark.provokes(ErrorCode.REGISTRY_NAME_INVALID)
def test_what_is_no_name_is_refused(machinen_home: Path, name: str) -> None:
    with pytest.raises(RegistryError) as caught:
        registry.claim_name(name, os.getpid())
    assert caught.value.code is ErrorCode.REGISTRY_NAME_INVALID


CLAIM = """
import sys
from machinen_runtime import registry
from machinen_runtime.errors import RegistryError
import os
sys.stdin.readline()
try:
    registry.claim_name("contested", os.getpid())
    print("won", flush=True)
    sys.stdin.readline()
except RegistryError:
    print("lost", flush=True)
"""


def test_one_of_many_processes_wins_a_name(machinen_home: Path) -> None:
    names = registry.registry_root() / "names"
    names.mkdir(parents=True)
    (names / "contested").write_text("4194303\n")  # a stale pin that all want to replace
    claimers = [
        subprocess.Popen(
            [sys.executable, "-c", CLAIM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    for claimer in claimers:
        assert claimer.stdin is not None
        claimer.stdin.write("go\n")
        claimer.stdin.flush()
    outcomes = [claimer.stdout.readline().strip() for claimer in claimers if claimer.stdout]
    for claimer in claimers:
        claimer.communicate("done\n")
    assert sorted(outcomes) == ["lost"] * 7 + ["won"]


def test_unregister_frees_the_name(machinen_home: Path) -> None:
    registry.claim_name("a", os.getpid())
    registry.register(entry(os.getpid(), name="a"))
    registry.unregister(os.getpid())
    registry.unregister(os.getpid())
    assert registry.list() == []
    assert not (registry.registry_root() / "names" / "a").exists()


def test_entries_are_private(machinen_home: Path) -> None:
    registry.register(entry(os.getpid()))
    directory = registry.registry_root() / str(os.getpid())
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "meta.json").stat().st_mode & 0o777 == 0o600


def test_an_entry_is_replaced_whole(machinen_home: Path) -> None:
    first = registry.register(entry(os.getpid()))
    registry.register(replace(first, memory_ceiling_mib=1024))
    assert registry.find(pid=os.getpid()).memory_ceiling_mib == 1024
