"""Codes that no other test provokes: each by the shortest way a caller can meet it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from machinen_runtime import VsockWinsize, ensure_mount_disk_image
from machinen_runtime.channel_exec import VsockExec
from machinen_runtime.channel_format import EXEC_PORT
from machinen_runtime.cli_support import parse_forward
from machinen_runtime.detached_boot import launch_detached
from machinen_runtime.errors import ErrorCode, MachinenError, ParseError, SnapshotError
from machinen_runtime.fork import fork_entry
from machinen_runtime.handle import VmHandle
from machinen_runtime.launch import Launched, LaunchRequest, launch
from machinen_runtime.monitor_client import MonitorClient
from machinen_runtime.options import ForkOptions
from machinen_runtime.registry_entry import RegistryEntry
from tests.fakes import Peer, fake_agent
from tests.runtime.test_cli import register
from tests.runtime.test_launch import FAKE_VMM, MACHINE
from tests.runtime.test_monitor_client import refusal, serving


@pytest.mark.provokes(ErrorCode.SNAPSHOT_NO_DISK)
async def test_a_vm_booted_without_snapshots_is_not_forked(
    tmp_path: Path,
) -> None:
    entry = RegistryEntry(pid=1, socket_path=str(tmp_path / "vsock.sock"), started_at=0)
    with pytest.raises(MachinenError) as caught:
        await fork_entry(entry, 1, ForkOptions())
    assert caught.value.code is ErrorCode.SNAPSHOT_NO_DISK
    assert [*tmp_path.iterdir()] == []


@pytest.mark.provokes(ErrorCode.WINSIZE_AGENT_UNAVAILABLE)
async def test_a_window_size_service_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(MachinenError) as caught:
        await VsockWinsize.connect(tmp_path / "vsock.sock", timeout_ms=1, retry_ms=1)
    assert caught.value.code is ErrorCode.WINSIZE_AGENT_UNAVAILABLE
    assert caught.value.retryable


@pytest.mark.provokes(ErrorCode.BOOT_MOUNTDISK_TOOL_MISSING)
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
        pytest.param(
            "SPAWN_FAILED",
            ErrorCode.EXEC_SPAWN_FAILED,
            marks=pytest.mark.provokes(ErrorCode.EXEC_SPAWN_FAILED),
        ),
        pytest.param(
            "TOO_MANY_SESSIONS",
            ErrorCode.EXEC_TOO_MANY_SESSIONS,
            marks=pytest.mark.provokes(ErrorCode.EXEC_TOO_MANY_SESSIONS),
        ),
        pytest.param(
            "MOUNT_FAILED",
            ErrorCode.MOUNT_SERVER_SPAWN_FAILED,
            marks=pytest.mark.provokes(ErrorCode.MOUNT_SERVER_SPAWN_FAILED),
        ),
        pytest.param(
            "MOUNT_PATH_INVALID",
            ErrorCode.MOUNT_PATH_INVALID,
            marks=pytest.mark.provokes(ErrorCode.MOUNT_PATH_INVALID),
        ),
        pytest.param(
            "AGENT_UNAVAILABLE",
            ErrorCode.BOOT_TIMEOUT,
            marks=pytest.mark.provokes(ErrorCode.BOOT_TIMEOUT),
        ),
    ],
)
async def test_what_guest_and_monitor_refuse_has_a_code(
    machinen_home: Path, tmp_path: Path, word: str, code: ErrorCode
) -> None:
    start = refused_command if code.name.startswith("EXEC_") else refused_launch
    with pytest.raises(MachinenError, match=r"because|port 80") as caught:
        await start(tmp_path, word)
    assert caught.value.code is code


async def refused_command(directory: Path, word: str) -> None:
    """Run a command in a guest that answers F with `word`."""

    async def refuse(peer: Peer) -> None:
        await peer.exactly(int((await peer.line()).split()[1]))
        await peer.frame(b"F", f"{word} because".encode())

    async with fake_agent(directory / "vsock.sock", {EXEC_PORT: refuse}):
        await VsockExec.run(directory / "vsock.sock", "true")


async def refused_launch(directory: Path, word: str) -> None:
    """Launch a VM whose monitor fails with `word`."""
    await launch(failing_request(directory, word))


@pytest.mark.provokes(ErrorCode.BOOT_TIMEOUT)
async def test_waiting_for_an_end_that_does_not_come_is_a_timeout(machinen_home: Path) -> None:
    entry = register(machinen_home)
    with pytest.raises(MachinenError, match="timeout_ms=None") as caught:
        await VmHandle(Launched(entry, {}, None), timeout_ms=1, on_log=None).wait()
    assert caught.value.code is ErrorCode.BOOT_TIMEOUT


@pytest.mark.provokes(ErrorCode.SNAPSHOT_DUMP_FAILED)
async def test_a_snapshot_that_fails_keeps_the_monitors_words(tmp_path: Path) -> None:
    async with serving(tmp_path, refusal("SNAPSHOT_FAILED")):
        with pytest.raises(SnapshotError, match="not now") as caught:
            async with MonitorClient(tmp_path).snapshot(
                Path("/bundle"), leave_running=True, durable=True, timeout_s=20
            ):
                raise AssertionError("there was no snapshot")
    assert caught.value.code is ErrorCode.SNAPSHOT_DUMP_FAILED


@pytest.mark.provokes(ErrorCode.PARSE_PORT_INVALID)
def test_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(ParseError) as caught:
        parse_forward("-p", "80")
    assert caught.value.code is ErrorCode.PARSE_PORT_INVALID


def failing_request(directory: Path, code: str, **options: Any) -> LaunchRequest:
    """A launch whose monitor says `started`, then `failed` with its code `code`."""
    base, script = directory / "base.ext4", directory / "vmm.py"
    base.write_bytes(bytes(1 << 20))
    script.write_text(FAKE_VMM.read_text().replace('"PORT_IN_USE"', f'"{code}"'))
    return LaunchRequest(
        machine=MACHINE,
        qemu_binary="/opt/qemu",
        passt_binary=None,
        name=None,
        base_disk=base,
        vmm_command=[sys.executable, "-I", str(script)],
        vmm_env={"FAKE_VMM": "started, then failed"},
        **options,
    )


@pytest.mark.provokes(ErrorCode.BOOT_DETACHED_READINESS_FAILED)
async def test_a_detached_vm_that_does_not_come_up_names_its_log(
    machinen_home: Path, tmp_path: Path
) -> None:
    request = failing_request(tmp_path, "QEMU_DIED", detached=True)
    with pytest.raises(MachinenError) as caught:
        await launch_detached(request, timeout_ms=60_000)
    assert caught.value.code is ErrorCode.BOOT_DETACHED_READINESS_FAILED
    (log,) = (machinen_home / "logs").glob("*.boot.log")
    assert str(log) in str(caught.value)
