"""Launching: with a monitor that fails at each step, and nothing left whatever happens."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinen_runtime import paths
from machinen_runtime.errors import BootError, ErrorCode, RegistryError
from machinen_runtime.launch import (
    Launched,
    LaunchRequest,
    TemplateUnusableError,
    check_socket_path,
    end_launched,
    hostname_for,
    launch,
    start_monitor,
)
from machinen_runtime.monitor_process import MACHINE_FAILURES
from machinen_runtime.pids import child_pids
from machinen_runtime.registry import claim_name, find, live_entries, release_name
from tests.fakes import until
from vmm.spec import MachineSpec, RestoreSpec

FAKE_VMM = Path(__file__).with_name("fake_vmm.py")
MACHINE = MachineSpec(arch="amd64", accel="tcg", machine_type="q35", cpu_model="max", memory_mib=64)


@pytest.fixture
def request_of(machinen_home: Path, tmp_path: Path) -> LaunchRequest:
    """A request whose monitor becomes ready; tests say which step shall fail instead."""
    base = tmp_path / "base.ext4"
    base.write_bytes(bytes(1 << 20))
    return LaunchRequest(
        machine=MACHINE,
        qemu_binary="/opt/qemu",
        passt_binary=None,
        name="web",
        base_disk=base,
        vmm_command=[sys.executable, "-I", str(FAKE_VMM)],
        vmm_env={"FAKE_VMM": "ready"},
    )


def failing(request: LaunchRequest, step: str) -> LaunchRequest:
    return replace(request, vmm_env={"FAKE_VMM": step})


def held() -> set[str]:
    """The children of this process, and the pipes and pidfds it has open."""
    found = {f"child {pid}" for pid in child_pids(os.getpid())}
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the descriptor of the listing itself
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return {each for each in found if any(kind in each for kind in ("child", "pipe:", "pidfd"))}


def files_below(*roots: Path) -> Iterator[Path]:
    for root in roots:
        yield from (path for path in root.rglob("*") if path.name != ".lock" and path.is_file())


def assert_nothing_is_left(before: set[str]) -> None:
    assert held() == before
    assert live_entries() == []
    left = files_below(paths.registry_root_path(), paths.state_root(), paths.runtime_root())
    assert [*left] == []
    for root in (paths.state_root(), paths.runtime_root()):
        assert not root.exists() or [*root.iterdir()] == []


# -- a launch that works --------------------------------------------------------------------------


async def test_a_monitor_that_is_ready_is_registered_under_its_name(
    request_of: LaunchRequest,
) -> None:
    before = held()
    launched = await launch(request_of)
    process = cast("subprocess.Popen[bytes]", launched.process)
    assert launched.entry.pid == process.pid
    assert launched.phases == {"agent": 12.5}
    assert find(name="web") == launched.entry
    assert launched.entry.memory_ceiling_mib == 64
    assert launched.lifeline_fd is not None
    await end_launched(launched)
    assert process.returncode == 143
    assert_nothing_is_left(before)


async def test_a_starter_that_asks_for_stdio_gets_three_pipes(request_of: LaunchRequest) -> None:
    before = held()
    launched = await launch(replace(request_of, with_stdio=True))
    assert None not in (launched.console_fd, launched.input_fd, launched.output_fd)
    await end_launched(launched)
    assert_nothing_is_left(before)


async def test_a_name_may_hold_the_monitors_pid(request_of: LaunchRequest) -> None:
    launched = await launch(replace(request_of, name="web~{pid}"))
    try:
        assert find(name=f"web~{launched.entry.pid}") == launched.entry
    finally:
        await end_launched(launched)


async def test_a_detached_vm_is_nobodys_child_and_needs_nothing_of_us(
    request_of: LaunchRequest,
) -> None:
    before = held()
    launched = await launch(replace(request_of, detached=True))
    assert launched.process is None
    assert launched.lifeline_fd is None
    assert held() == before
    assert find(pid=launched.entry.pid).name == "web"
    await end_launched(launched)
    assert_nothing_is_left(before)


async def test_a_waiting_monitor_is_used(request_of: LaunchRequest) -> None:
    monitor = start_monitor(request_of)
    launched = await launch(request_of, monitor)
    assert launched.process is monitor.process
    await end_launched(launched)


async def test_a_waiting_monitor_that_is_not_needed_goes(request_of: LaunchRequest) -> None:
    before = held()
    async with start_monitor(request_of):
        pass
    assert_nothing_is_left(before)


# -- a launch from a template ---------------------------------------------------------------------


def from_template(request: LaunchRequest, step: str, **changes: Any) -> LaunchRequest:
    restore = RestoreSpec(state="/s", ram_image="/r", template=True)
    return replace(failing(request, step), restore=restore, **changes)


@pytest.mark.parametrize("code", sorted(MACHINE_FAILURES))
async def test_a_machine_that_does_not_come_up_may_be_the_templates_fault(
    request_of: LaunchRequest, code: str
) -> None:
    before = held()
    step = f"started, then code {code}"
    with pytest.raises(TemplateUnusableError):
        await launch(from_template(request_of, step))
    assert_nothing_is_left(before)
    with pytest.raises(BootError) as caught:
        await launch(failing(request_of, step))
    assert not isinstance(caught.value, TemplateUnusableError)


@pytest.mark.parametrize(
    ("step", "changes"),
    [
        ("started, then code PORT_IN_USE", {}),
        ("started, then code TERMINATED", {}),
        ("agent, then code WORKLOAD_FAILED", {}),
        ("agent, then code QEMU_DIED", {}),
        ("started, then code AGENT_UNAVAILABLE", {"boot_timeout_ms": 300}),
    ],
)
async def test_what_is_not_the_templates_fault_is_the_callers_to_hear(
    request_of: LaunchRequest, step: str, changes: dict[str, Any]
) -> None:
    with pytest.raises(BootError) as caught:
        await launch(from_template(request_of, step, **changes))
    assert not isinstance(caught.value, TemplateUnusableError)


# -- a launch that fails --------------------------------------------------------------------------

STEPS = {
    "exit": ErrorCode.BOOT_VMM_PACKAGE_BROKEN,
    "silent": ErrorCode.BOOT_VMM_PACKAGE_BROKEN,
    "garbage": ErrorCode.BOOT_VMM_PACKAGE_BROKEN,
    "no pid": ErrorCode.BOOT_VMM_PACKAGE_BROKEN,
    "endless": ErrorCode.BOOT_VMM_PACKAGE_BROKEN,
    "failed": ErrorCode.BOOT_PORT_FORWARD_IN_USE,
    "started, then silent": ErrorCode.VM_DIED,
    "started, then killed": ErrorCode.VM_DIED,
    "started, then failed": ErrorCode.BOOT_PORT_FORWARD_IN_USE,
}


@pytest.mark.parametrize("detached", [False, True], ids=["attached", "detached"])
@pytest.mark.parametrize(("step", "code"), STEPS.items(), ids=STEPS)
async def test_a_monitor_that_fails_leaves_nothing(
    request_of: LaunchRequest, step: str, code: ErrorCode, detached: bool
) -> None:
    before = held()
    with pytest.raises(BootError) as caught:
        await launch(replace(failing(request_of, step), detached=detached))
    assert caught.value.code is code
    assert_nothing_is_left(before)


async def test_a_failure_shows_the_last_words_of_console_and_qemu(
    request_of: LaunchRequest,
) -> None:
    with pytest.raises(BootError) as caught:
        await launch(failing(request_of, "failed"))
    lines = str(caught.value).splitlines()
    assert lines[0] == "cannot listen on port 80"
    assert lines[1:3] == ["console: console line 25", "console: console line 26"]
    assert lines[-1] == "QEMU: qemu: no such device"


@pytest.mark.parametrize("step", ["hang", "started, then hang"])
async def test_a_cancelled_launch_leaves_nothing_even_of_a_monitor_that_hangs(
    request_of: LaunchRequest, step: str
) -> None:
    before = held()
    with anyio.move_on_after(0.5) as scope:
        await launch(failing(request_of, step))
    assert scope.cancelled_caught
    assert_nothing_is_left(before)


async def test_a_detached_monitor_that_did_not_say_who_it_is_is_waited_for(
    request_of: LaunchRequest, tmp_path: Path
) -> None:
    before, lives = held(), tmp_path / "lives"
    request = replace(failing(request_of, "late"), detached=True)
    request = replace(request, vmm_env={**(request.vmm_env or {}), "FAKE_VMM_LIVES": str(lives)})
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(launch, request)
        await until(lives.exists)
        tasks.cancel_scope.cancel()
    assert not lives.exists()
    assert_nothing_is_left(before)


async def test_a_monitor_that_does_not_exist_is_missing(request_of: LaunchRequest) -> None:
    before = held()
    with pytest.raises(BootError, match="absent") as caught:
        await launch(replace(request_of, vmm_command=["/absent/machinen-vmm"]))
    assert caught.value.code is ErrorCode.BOOT_VMM_MISSING
    assert_nothing_is_left(before)


async def test_a_base_disk_that_does_not_exist_is_missing(request_of: LaunchRequest) -> None:
    before = held()
    with pytest.raises(BootError) as caught:
        await launch(replace(request_of, base_disk=Path("/absent/base.ext4")))
    assert caught.value.code is ErrorCode.BOOT_IMAGE_NOT_FOUND
    assert_nothing_is_left(before)


async def test_a_name_that_is_taken_is_refused_and_stays_with_its_vm(
    request_of: LaunchRequest,
) -> None:
    before = held()
    claim_name("web", os.getppid())
    with pytest.raises(RegistryError) as caught:
        await launch(request_of)
    assert caught.value.code is ErrorCode.REGISTRY_NAME_IN_USE
    release_name("web", os.getppid())
    assert_nothing_is_left(before)


async def test_a_failed_launch_frees_its_name_for_the_next(request_of: LaunchRequest) -> None:
    with pytest.raises(BootError):
        await launch(failing(request_of, "started, then failed"))
    await end_launched(await launch(request_of))


async def test_two_launches_at_once_with_one_name_make_one_vm(request_of: LaunchRequest) -> None:
    before = held()
    launched: list[Launched] = []
    refused: list[ErrorCode] = []

    async def attempt() -> None:
        try:
            launched.append(await launch(request_of))
        except RegistryError as error:
            refused.append(error.code)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(attempt)
        tasks.start_soon(attempt)
    assert refused == [ErrorCode.REGISTRY_NAME_IN_USE]
    await end_launched(launched[0])
    assert_nothing_is_left(before)


# -- names ----------------------------------------------------------------------------------------


@given(st.text(max_size=200))
def test_a_hostname_is_one_whatever_the_name(name: str) -> None:
    hostname = hostname_for(name).replace("{pid}", "1234567")
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?", hostname)
    assert len(hostname) <= 63


@pytest.mark.parametrize(
    ("name", "hostname"),
    [(None, "vm-{pid}"), ("web", "web"), ("a/b.c", "a-b-c"), ("web~{pid}", "web-{pid}")],
)
def test_a_hostname_follows_the_name(name: str | None, hostname: str) -> None:
    assert hostname_for(name) == hostname


def test_a_socket_path_the_kernel_would_refuse_is_refused_first() -> None:
    check_socket_path(Path("/" + "a" * 106))
    with pytest.raises(BootError, match="MACHINEN_RUNTIME_DIR") as caught:
        check_socket_path(Path("/" + "a" * 107))
    assert caught.value.code is ErrorCode.BOOT_OPTION_INVALID
