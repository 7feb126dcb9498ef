"""Codes that no other test provokes: each by the shortest way a caller can meet it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from machinen_runtime import VsockWinsize, ensure_mount_disk_image
from machinen_runtime.channel_format import Failure, failure_error
from machinen_runtime.detached_boot import launch_detached
from machinen_runtime.errors import ErrorCode, MachinenError
from machinen_runtime.fork import fork_entry
from machinen_runtime.launch import LaunchRequest
from machinen_runtime.monitor_client import translate
from machinen_runtime.options import ForkOptions
from machinen_runtime.registry_entry import RegistryEntry
from tests.runtime.test_launch import FAKE_VMM, MACHINE
from vmm.errors import VmmError


async def test_a_vm_booted_without_snapshots_is_not_forked(
    tmp_path: Path,
) -> None:
    entry = RegistryEntry(pid=1, socket_path=str(tmp_path / "vsock.sock"), started_at=0)
    with pytest.raises(MachinenError) as caught:
        await fork_entry(entry, 1, ForkOptions())
    assert caught.value.code is ErrorCode.SNAPSHOT_NO_DISK
    assert [*tmp_path.iterdir()] == []


async def test_a_window_size_service_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(MachinenError) as caught:
        await VsockWinsize.connect(tmp_path / "vsock.sock", timeout_ms=1, retry_ms=1)
    assert caught.value.code is ErrorCode.WINSIZE_AGENT_UNAVAILABLE
    assert caught.value.retryable


def test_a_mount_without_its_tool_is_told_which(
    machinen_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MACHINEN_MKSQUASHFS", "/absent/mksquashfs")
    with pytest.raises(MachinenError) as caught:
        ensure_mount_disk_image(tmp_path)
    assert caught.value.code is ErrorCode.BOOT_MOUNTDISK_TOOL_MISSING


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("SPAWN_FAILED", ErrorCode.EXEC_SPAWN_FAILED),
        ("TOO_MANY_SESSIONS", ErrorCode.EXEC_TOO_MANY_SESSIONS),
    ],
)
def test_what_the_guest_refuses_has_a_code(word: str, code: ErrorCode) -> None:
    error = failure_error(Failure(word, "because"))
    assert error.code is code
    assert "because" in str(error)


def test_a_live_mount_that_does_not_come_up_has_a_code() -> None:
    error = translate(VmmError("MOUNT_FAILED", "the guest has no /dev/fuse"), "")
    assert error.code is ErrorCode.MOUNT_SERVER_SPAWN_FAILED


async def test_a_detached_vm_that_does_not_come_up_names_its_log(
    machinen_home: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base.ext4"
    base.write_bytes(bytes(1 << 20))
    script = tmp_path / "vmm.py"
    script.write_text(FAKE_VMM.read_text().replace('"PORT_IN_USE"', '"QEMU_DIED"'))
    request = LaunchRequest(
        machine=MACHINE,
        qemu_binary="/opt/qemu",
        passt_binary=None,
        name="web",
        base_disk=base,
        detached=True,
        vmm_command=[sys.executable, "-I", str(script)],
        vmm_env={"FAKE_VMM": "started, then failed"},
    )
    with pytest.raises(MachinenError) as caught:
        await launch_detached(replace(request, name=None), 60_000)
    assert caught.value.code is ErrorCode.BOOT_DETACHED_READINESS_FAILED
    (log,) = (machinen_home / "logs").glob("*.boot.log")
    assert str(log) in str(caught.value)
