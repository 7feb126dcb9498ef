"""Small names of the API: records that unpack, the monitor's program, first byte, debug lines."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

import machinen_runtime
from machinen_runtime import (
    BootOptions,
    LiveMount,
    RssTarget,
    RunGcOptions,
    build_machinen_config,
    measure_first_byte,
    read_host_rss_bytes_multi,
    resolve_vmm_binary,
    run_gc,
)
from machinen_runtime.debug import debug
from machinen_runtime.errors import ErrorCode, ExecError, MachinenError, format_machinen_error
from machinen_runtime.handle import VmHandle
from machinen_runtime.launch import Launched
from machinen_runtime.log_events import PhaseTimer
from machinen_runtime.registry_entry import RegistryEntry
from machinen_runtime.stdio import PipeReceiveStream
from machinen_runtime.vmm_binary import resolve_vmm_command

INTERNAL = getattr(machinen_runtime, "_internal")  # noqa: B009  # pyright: ignore


def test_a_record_of_options_unpacks_into_the_keywords_it_was_made_of(machinen_home: Path) -> None:
    options = RunGcOptions(dry_run=True, pid=7)
    assert dict(**options) == {"dry_run": True, "pid": 7}
    assert run_gc(**options) == []
    changed: dict[str, Any] = {**BootOptions(name="a", env={"A": "1"}), "name": "b"}
    again = BootOptions(**changed)
    assert (again.name, again.env) == ("b", {"A": "1"})
    with pytest.raises(KeyError):
        options["keys"]


def test_a_config_has_a_directory_and_mounts_only_if_there_are_some() -> None:
    config = build_machinen_config(cmd=["true"], env={"A": "1"}, live_mounts=[])
    assert config == {"cmd": ["true"], "env": {"A": "1"}}
    mount = LiveMount(host="/secret/place", guest="/mnt/x")
    config = build_machinen_config(
        cmd=["true"], env={}, live_mounts=[mount], guest_cwd="/mine", image_cwd="/its"
    )
    assert config["cwd"] == "/mine"
    assert config["liveMounts"] == [{"guest": "/mnt/x", "port": 1977}]
    assert build_machinen_config(cmd=[], env={}, live_mounts=[], image_cwd="/its")["cwd"] == "/its"


def test_the_monitor_is_ours_unless_a_variable_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MACHINEN_VMM", raising=False)
    assert os.access(resolve_vmm_binary(), os.X_OK)
    assert resolve_vmm_command(None) == []
    monkeypatch.setenv("MACHINEN_VMM", "true")
    assert resolve_vmm_binary().endswith("/true")
    assert resolve_vmm_command(None) == [resolve_vmm_binary()]
    (tmp_path / "vmm").touch(mode=0o755)
    assert resolve_vmm_command("vmm", tmp_path) == [str(tmp_path / "vmm")]
    for absent in ("/absent/vmm", "absent-vmm", str(tmp_path)):
        monkeypatch.setenv("MACHINEN_VMM", absent)
        with pytest.raises(MachinenError) as caught:
            resolve_vmm_binary()
        assert caught.value.code is ErrorCode.BOOT_VMM_MISSING


@pytest.mark.provokes(ErrorCode.BOOT_VMM_PACKAGE_BROKEN)
def test_a_package_without_its_monitor_is_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MACHINEN_VMM", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MachinenError) as caught:
        resolve_vmm_binary()
    assert caught.value.code is ErrorCode.BOOT_VMM_PACKAGE_BROKEN


def handle_of(*, console_fd: int | None = None, output_fd: int | None = None) -> VmHandle:
    entry = RegistryEntry(pid=os.getpid(), socket_path="/nowhere/vsock.sock", started_at=0)
    launched = Launched(entry, {}, None, console_fd=console_fd, output_fd=output_fd)
    return VmHandle(launched, timeout_ms=None, on_log=None)


async def test_the_first_byte_of_either_stream_counts() -> None:
    console, console_end = os.pipe()
    output, output_end = os.pipe()
    vm = handle_of(console_fd=console, output_fd=output)
    elapsed: list[float] = []

    async def measure() -> None:
        elapsed.append(await measure_first_byte(vm))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(measure)
        await anyio.wait_all_tasks_blocked()
        os.write(output_end, b"hello")
    assert 0 <= elapsed[0] < 60_000
    os.close(console_end)
    os.close(output_end)
    assert await vm.output() == "hello"
    await vm.detach()


async def test_a_vm_without_a_word_has_no_first_byte() -> None:
    with pytest.raises(MachinenError) as caught:
        await measure_first_byte(handle_of())
    assert caught.value.code is ErrorCode.VM_DIED


@given(st.lists(st.binary(min_size=1, max_size=50), max_size=10), st.integers(1, 60))
def test_collecting_keeps_the_end(chunks: list[bytes], cap: int) -> None:
    async def collected() -> str:
        read_end, write_end = os.pipe()
        os.write(write_end, b"".join(chunks))
        os.close(write_end)
        stream = PipeReceiveStream(read_end)
        return await INTERNAL.collect(stream, cap)

    assert anyio.run(collected) == b"".join(chunks)[-cap:].decode("utf-8", "replace")
    assert INTERNAL.CONSOLE_TAIL_BYTES == 1 << 20
    assert INTERNAL.validate_memory_mib(512) == 512


def test_memory_is_read_of_pids_and_of_targets() -> None:
    found = read_host_rss_bytes_multi([RssTarget(pid=os.getpid(), stats_path="/x"), os.getppid()])
    assert set(found) == {os.getpid(), os.getppid()}


def test_a_cause_may_be_given_and_a_circle_of_causes_ends() -> None:
    inner = OSError("disk")
    error = ExecError(ErrorCode.EXEC_PROTOCOL, "why", cause=inner)
    assert error.__cause__ is inner
    inner.__cause__ = error
    assert format_machinen_error(error) == "(EXEC_PROTOCOL): why\n  caused by: disk"


def test_debug_lines_come_for_the_areas_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timer = PhaseTimer("boot")
    for wanted, shown in [("", 0), ("other", 0), ("machinen:exec", 0), ("x, machinen:b*", 1)]:
        monkeypatch.setenv("DEBUG", wanted)
        timer.mark("spawn", 12.34)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == shown
        assert all(line.endswith("machinen:boot spawn 12.3 ms") for line in lines)
    debug("boot", "one line")
    assert "one line" in capsys.readouterr().err
