"""The options of boot() that change which machine there is and who runs it, in one such machine."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import psutil
import pytest

from machinen_runtime.assets import resolve_base_kernel
from machinen_runtime.boot import boot
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.handle import VmHandle
from machinen_runtime.log_events import ChunkLogEvent, LogEvent, PhaseLogEvent
from machinen_runtime.registry import find, live_entries
from tests.vm.conftest import qemu_of

pytestmark = pytest.mark.vm

NAME = "team/web.1"
PRESET_MIB = 640
MONITOR = f"""#!/bin/sh
env > "$0.env"
exec {sys.executable} -I -m vmm "$@"
"""
WORKLOAD = """
echo "$GREETING from $PWD as $MACHINEN_VM_NAME with [$HELD]" >/run/told
exec sleep 4321
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where relative paths lead: a monitor's program and a kernel."""
    directory = tmp_path_factory.mktemp("cwd")
    (directory / "monitor").write_text(MONITOR)
    (directory / "monitor").chmod(0o755)
    shutil.copy(resolve_base_kernel(), directory / "kernel")
    return directory


@pytest.fixture(scope="module")
def heard() -> list[LogEvent]:
    return []


@pytest.fixture(scope="module")
async def odd(
    vm_home: Path, anyio_backend: str, directory: Path, heard: list[LogEvent]
) -> AsyncGenerator[VmHandle]:
    """A VM for which the caller chose all that can be chosen."""
    async with await boot(
        name=NAME,
        cwd=directory,
        binary="monitor",
        kernel="kernel",
        args=["-device", "edu,addr=1e"],
        vmm_env={"MACHINEN_MEMORY": str(PRESET_MIB), "HELD": "by the monitor alone"},
        memory=2048,
        cpus=2,
        network="none",
        cmd=["sh", "-c", WORKLOAD],
        env={"GREETING": "hello"},
        guest_cwd="/usr/share",
        forked_from="/its/bundle",
        timeout_ms=50,
        on_log=heard.append,
    ) as vm:
        yield vm


async def test_the_monitor_is_the_callers_and_has_the_callers_environment(
    odd: VmHandle, directory: Path
) -> None:
    assert odd.entry.vmm_exe == str(directory / "monitor")
    assert "HELD=by the monitor alone" in (directory / "monitor.env").read_text().splitlines()
    assert "HELD" not in os.environ


async def test_qemu_gets_the_callers_kernel_and_arguments(odd: VmHandle, directory: Path) -> None:
    argv = qemu_of(odd).cmdline()
    assert argv[argv.index("-kernel") + 1] == str(directory / "kernel")
    devices = (await odd.exec("cat /sys/bus/pci/devices/0000:00:1e.0/device")).stdout
    assert devices == "0x11e8\n"


async def test_memory_in_the_environment_wins_and_is_what_the_guest_has(odd: VmHandle) -> None:
    told = await odd.exec("awk '/MemTotal/ {print $2}' /proc/meminfo; nproc")
    total_kib, cpus = map(int, told.stdout.split())
    assert PRESET_MIB * 0.8 < total_kib / 1024 < PRESET_MIB
    assert cpus == 2
    assert odd.entry.memory_ceiling_mib is None
    assert (await odd.status()).memory_mib == PRESET_MIB


async def test_the_workload_is_told_its_words_directory_environment_and_name(odd: VmHandle) -> None:
    told = (await odd.exec("until cat /run/told; do sleep 0.1; done 2>/dev/null")).stdout
    assert told == f"hello from /usr/share as {NAME} with []\n"
    assert (await odd.exec("hostname; cat /run/machinen/name")).stdout == f"team-web-1\n{NAME}\n"


async def test_the_registry_says_who_it_is_and_where_it_comes_from(odd: VmHandle) -> None:
    entry = find(name=NAME)
    assert (entry.pid, entry.forked_from) == (odd.pid, "/its/bundle")
    assert NAME in {each.name for each in live_entries()}


async def test_waiting_for_its_end_is_over_when_it_shall_be(odd: VmHandle) -> None:
    with pytest.raises(BootError) as caught:
        await odd.wait()
    assert caught.value.code is ErrorCode.BOOT_TIMEOUT
    assert "after 50 ms" in str(caught.value)
    assert psutil.Process(odd.pid).is_running()


async def test_its_console_is_logged_as_it_is_read_and_commands_as_they_run(
    odd: VmHandle, heard: list[LogEvent]
) -> None:
    await odd.exec("echo said; echo complained >&2; echo '<0>shouted' >/dev/kmsg")
    with anyio.fail_after(60):
        while b"shouted" not in logged(heard, "guest-console"):
            await odd.stderr.receive()
    assert logged(heard, "exec-stdout").endswith(b"said\n")
    assert logged(heard, "exec-stderr").endswith(b"complained\n")
    phases = next(each for each in heard if isinstance(each, PhaseLogEvent))
    assert phases.kind == "boot"


def logged(heard: list[LogEvent], source: str) -> bytes:
    chunks = (each for each in heard if isinstance(each, ChunkLogEvent) and each.source == source)
    return b"".join(each.chunk for each in chunks)
