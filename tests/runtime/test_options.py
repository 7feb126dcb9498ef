"""Options: what is asked for is checked when it is asked for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from machinen_runtime.errors import ErrorCode, MachinenError
from machinen_runtime.options import (
    BootOptions,
    ForkOptions,
    LiveMount,
    Mount,
    PortForward,
    RestoreOptions,
    SnapshotOptions,
    auto_size_memory_mib,
    validate_memory_mib,
)

GIB = 1 << 30


def test_the_defaults_are_those_of_the_declaration() -> None:
    boot = BootOptions()
    assert (boot.timeout_ms, boot.detached, boot.pdeathsig) == (60_000, False, True)
    assert boot.port_forward == ()
    assert ForkOptions().timeout_ms is None
    assert ForkOptions().free_memory_threshold == 0.01
    snapshot = SnapshotOptions(out_dir="x")
    assert (snapshot.timeout_ms, snapshot.leave_running) == (90_000, False)
    assert RestoreOptions(snap_dir="x").snap_dir == Path("x")


@pytest.mark.parametrize(
    ("host_bytes", "mib"),
    [(256 << 20, 512), (1 * GIB, 512), (3 * GIB, 1536), (8 * GIB, 4096), (512 * GIB, 4096)],
)
def test_memory_is_half_the_host_within_bounds(host_bytes: int, mib: int) -> None:
    assert auto_size_memory_mib(host_bytes) == mib


def test_memory_of_this_host_is_valid() -> None:
    assert validate_memory_mib(auto_size_memory_mib()) >= 512


@pytest.mark.parametrize("mib", [511, 0, -1, 1024.0, "1024", True, None, 1 << 40])
def test_what_is_no_memory_size_is_refused(mib: object) -> None:
    with pytest.raises(MachinenError) as caught:
        validate_memory_mib(mib)
    assert caught.value.code is ErrorCode.BOOT_MEMORY_INVALID


def refused(code: ErrorCode, **options: Any) -> None:
    with pytest.raises(MachinenError) as caught:
        BootOptions(**options)
    assert caught.value.code is code


@pytest.mark.parametrize("ports", [(0, 80), (80, 65536), (-1, 1), (1.5, 1), ("80", 80), (True, 1)])
def test_what_is_no_port_is_refused(ports: tuple[Any, Any]) -> None:
    with pytest.raises(MachinenError) as caught:
        PortForward(host_port=ports[0], guest_port=ports[1])
    assert caught.value.code is ErrorCode.BOOT_PORT_FORWARD_INVALID


def test_a_host_port_is_forwarded_once_whatever_the_address() -> None:
    first = PortForward(host_port=8080, guest_port=80)
    second = PortForward(host_port=8080, guest_port=81, host_addr="0.0.0.0")
    refused(ErrorCode.BOOT_PORT_FORWARD_CONFLICT, port_forward=[first, second])
    assert BootOptions(port_forward=[first]).port_forward == (first,)


def test_a_bad_port_is_told_before_a_bad_memory_size() -> None:
    first = PortForward(host_port=1, guest_port=1)
    refused(ErrorCode.BOOT_PORT_FORWARD_CONFLICT, port_forward=[first, first], memory=1)


@pytest.mark.parametrize(
    "guest", ["/mnt", "/mnt/", "/mntfoo", "relative", "/mnt/../etc", "/mnt/a\0"]
)
def test_a_mount_goes_strictly_under_mnt(guest: str) -> None:
    for make in (Mount, LiveMount):
        with pytest.raises(MachinenError) as caught:
            make(host="/", guest=guest)
        assert caught.value.code is ErrorCode.BOOT_MOUNT_INVALID


def test_mounts_are_checked_against_the_host(tmp_path: Path) -> None:
    mount = Mount(host=tmp_path, guest="/mnt/a//")
    assert mount.guest == "/mnt/a"
    live = LiveMount(host=tmp_path, guest="/mnt/b", mode="ro")
    assert BootOptions(mount=mount, live_mounts=[live]).live_mounts == (live,)
    same = LiveMount(host=tmp_path, guest="/mnt/a")
    refused(ErrorCode.BOOT_MOUNT_INVALID, mount=mount, live_mounts=[same])
    (tmp_path / "file").touch()
    for host in (tmp_path / "missing", tmp_path / "file"):
        gone = Mount(host=host, guest="/mnt/a")
        refused(ErrorCode.BOOT_MOUNT_HOST_NOT_FOUND, mount=gone)


@pytest.mark.parametrize("cwd", ["", "relative", "/a\0"])
def test_the_working_directory_is_absolute(cwd: str) -> None:
    refused(ErrorCode.BOOT_CWD_INVALID, guest_cwd=cwd)


@pytest.mark.parametrize("cmd", [[], [""], ["a", "b\0"], "ls -l"])
def test_a_command_is_a_list_of_words(cmd: Any) -> None:
    refused(ErrorCode.BOOT_CMD_MISSING, cmd=cmd)


@pytest.mark.parametrize(
    "options",
    [
        {"env": {"": "x"}},
        {"env": {"A=B": "x"}},
        {"env": {"A": "\0"}},
        {"cpus": 0},
        {"cpus": 1.5},
        {"network": "bridge"},
        {"network": "example.org"},
        {"network": []},
        {"network": ["example.org", "http://example.org/"]},
        {"network": [80]},
        {"timeout_ms": 0},
        {"timeout_ms": math.nan},
        {"root_disk_size_bytes": 0},
        {"snapshot": True},
    ],
)
def test_other_nonsense_is_refused(options: dict[str, Any]) -> None:
    refused(ErrorCode.BOOT_OPTION_INVALID, **options)


def test_sizes_of_uppers_are_whole_pages() -> None:
    for size in (0, -4096, 4097):
        refused(ErrorCode.BOOT_MOUNT_INVALID, mount_disk_upper_size_bytes=size)


def test_no_patience_and_infinite_patience_are_one() -> None:
    assert BootOptions(timeout_ms=math.inf).timeout_ms is None


def test_a_bad_name_is_refused() -> None:
    refused(ErrorCode.REGISTRY_NAME_INVALID, name="a b")


def test_options_are_copies() -> None:
    env = {"A": "1"}
    options = BootOptions(env=env, cmd=["a"])
    env["A"] = "2"
    assert options.env == {"A": "1"}
    assert options.cmd == ("a",)


def test_snapshots_know_their_engines() -> None:
    for options in ({"engine": "magic"}, {"timeout_ms": 0}):
        with pytest.raises(MachinenError):
            SnapshotOptions(out_dir="x", **options)  # pyright: ignore[reportArgumentType]
