"""Templates, the monitor's part: kept before the guest is anybody, and begun with like a boot."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.vmm.fake_guest import mux_and_guest
from tests.vmm.specs import MACHINE, make_spec, restored
from tests.vmm.test_monitor import FAKE_QEMU, Monitor, Start
from vmm import frames
from vmm.errors import VmmError
from vmm.frames import FrameType
from vmm.machine import machine_sum
from vmm.requests import CONSOLE_LOG
from vmm.spec import DiskSpec, ForwardSpec, RestoreSpec, VmSpec, WorkloadSpec
from vmm.template import check_template

CARDLESS = replace(MACHINE, network="none")


@pytest.fixture
def start(tmp_path: Path) -> Generator[Start]:
    """Starts a monitor on a fake QEMU: `start("what goes wrong", field=value)`."""
    qemu = tmp_path / "qemu"
    qemu.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{FAKE_QEMU}" "$@"\n')
    qemu.chmod(0o755)
    workload = WorkloadSpec(cmd=["sh"])
    spec = make_spec(
        tmp_path, qemu_binary=str(qemu), machine=CARDLESS, workload=workload, confine=False
    )
    (tmp_path / "ram.img").write_bytes(bytes(4096))

    def start_one(mode: str = "", **changes: Any) -> Monitor:
        return Monitor(replace(spec, **changes), stack, mode)

    with ExitStack() as stack:
        yield start_one


def template_of(spec: VmSpec, directory: Path, **changes: Any) -> RestoreSpec:
    restore = restored(spec, directory).restore
    assert restore is not None
    return replace(restore, template=True, **changes)


# -- keeping one ----------------------------------------------------------------------------------


async def test_a_reserved_agent_is_greeted_by_nobody_and_ready_for_nobody(tmp_path: Path) -> None:
    async with mux_and_guest(tmp_path, reserved=True) as (mux, guest):
        port = await guest.connected()
        first, _ = await port.hello()
        await port.answer_hello(first)
        await mux.met.wait()
        assert not mux.ready.is_set()
        assert not mux.was_ready
        with pytest.raises(VmmError):
            async with mux.open_stream(1978):
                pass
        await port.send(FrameType.WORKLOAD_EXIT, 0, b"\1\0")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mux.open_up)
            second, _ = await port.hello()
            assert second != first
            assert not mux.ready.is_set()
            await port.answer_hello(second)
        assert mux.ready.is_set()
        assert mux.workload_exit is None


async def test_a_reserved_channel_that_is_lost_is_opened_up_on_the_next(tmp_path: Path) -> None:
    async with mux_and_guest(tmp_path, reserved=True) as (mux, guest):
        port = await guest.connected()
        nonce, _ = await port.hello()
        await port.answer_hello(nonce)
        await mux.met.wait()
        await port.stream.send(b"\xff" * 64)  # a violation: the mux connects anew
        port = await guest.connected()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(mux.open_up)
            await port.greet()
        assert mux.ready.is_set()


def test_a_template_that_cannot_be_kept_costs_nothing_but_the_template(
    start: Start, tmp_path: Path
) -> None:
    monitor = start(template_dir=str(tmp_path / "template"), note="cold boot: for a test")
    monitor.event("agent")
    assert monitor.event("template")["error"]["code"] == "SNAPSHOT_FAILED"  # it has no RAM
    phases = monitor.event("ready")["phases"]
    assert [*phases][-3:] == ["agent", "template", "workload"]
    assert not (tmp_path / "template").exists()
    status = monitor.ask("status")["result"]
    assert (status["state"], status["warm"], status["restored"]) == ("running", False, False)
    console = Path(monitor.spec.state_dir, CONSOLE_LOG).read_text()
    assert console.startswith("machinen ")
    assert "cold boot: for a test\n" in console.splitlines(keepends=True)[0]
    greetings = [line for line in console.splitlines() if line.startswith("HELLO with flags")]
    assert greetings[0] == f"HELLO with flags {frames.HELLO_SET_TIME}"  # nobody yet: no epoch
    assert greetings[-1] == f"HELLO with flags {frames.HELLO_SET_TIME | frames.HELLO_NEW_EPOCH}"


# -- beginning with one ---------------------------------------------------------------------------


def test_a_vm_that_begins_with_a_template_is_a_boot(start: Start, tmp_path: Path) -> None:
    spec = make_spec(tmp_path, machine=CARDLESS)
    template = template_of(spec, tmp_path, machine_sum=machine_sum(spec))
    monitor = start("template", restore=template)
    phases = monitor.event("ready")["phases"]
    assert [*phases][-4:] == ["device-state", "resume", "agent", "workload"]
    status = monitor.ask("status")["result"]
    assert (status["state"], status["warm"], status["restored"]) == ("running", True, False)


def test_a_template_of_another_machine_is_refused_before_qemu_starts(
    start: Start, tmp_path: Path
) -> None:
    template = template_of(make_spec(tmp_path), tmp_path, machine_sum="0" * 32)
    monitor = start("template", restore=template)
    assert monitor.event("failed")["error"]["code"] == "RESTORE_FAILED"
    assert monitor.exit_status() == 122
    assert monitor.left_files() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"machine": replace(CARDLESS, memory_mib=8)},
        {"machine": replace(CARDLESS, cpus=1)},
        {"machine": replace(CARDLESS, mount_disk=True)},
        {"machine": replace(CARDLESS, network="full")},
        {"extra_args": ["-s"]},
    ],
)
def test_another_machine_has_another_sum(tmp_path: Path, changes: dict[str, Any]) -> None:
    spec = make_spec(tmp_path, machine=CARDLESS)
    changed = replace(spec, **changes)
    assert machine_sum(changed) != machine_sum(spec)
    with pytest.raises(VmmError) as caught:
        check_template(replace(changed, restore=template_of(spec, tmp_path, machine_sum="1")))
    assert caught.value.code == "RESTORE_FAILED"


def test_another_vm_of_the_same_machine_has_the_same_sum(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, machine=CARDLESS)
    other = replace(
        spec,
        id="efgh",
        name="other",
        hostname="other",
        run_dir="/other/run",
        state_dir="/other/state",
        kernel="/elsewhere/vmlinux",
        initrd="/elsewhere/initramfs",
        qemu_binary="/elsewhere/qemu",
        machine=replace(CARDLESS, network="allowlist"),
        disk=DiskSpec(base="/b", layers=["/l"], overlay_template="/t"),
        workload=WorkloadSpec(cmd=["x"]),
        port_forward=[ForwardSpec(host_port=1, guest_port=2)],
        restore=template_of(spec, tmp_path),
    )
    assert machine_sum(other) == machine_sum(spec)
