"""Renaming a VM: registry, pins, and several who want to at once."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream

from machinen_runtime import registry
from machinen_runtime.errors import BootError, ErrorCode, MachinenError, RegistryError
from machinen_runtime.registry import RegistryEntry, claim_name, find
from machinen_runtime.rename import rename_vm
from vmm.requests import CONTROL_SOCKET, VmStatus

STATUS = VmStatus(
    id="x",
    name="n",
    state="running",
    pid=1,
    qemu_pid=2,
    started_at_ms=0,
    accel="tcg",
    memory_mib=512,
    cpus=1,
    network="none",
    agent_ready=True,
    restored=False,
    port_forward=[],
    phases={},
)


@pytest.fixture
def vm(machinen_home: Path) -> Generator[RegistryEntry]:
    """A process that is registered as the VM `old`."""
    process = subprocess.Popen(["sleep", "300"])
    run_dir = machinen_home / "run" / "x"
    run_dir.mkdir(parents=True)
    entry = RegistryEntry(
        pid=process.pid, name="old", socket_path=str(run_dir / "vsock.sock"), started_at=0.0
    )
    claim_name("old", process.pid)
    yield registry.register(entry)
    process.kill()
    process.wait()


@asynccontextmanager
async def monitor(
    entry: RegistryEntry, *, error: dict[str, Any] | None = None
) -> AsyncGenerator[list[dict[str, Any]]]:
    """Answers requests as a monitor does; yields what it was asked."""
    asked: list[dict[str, Any]] = []

    async def serve(client: anyio.abc.SocketStream) -> None:
        async with client:
            line = await BufferedByteReceiveStream(client).receive_until(b"\n", 65536)
            asked.append(json.loads(line))
            answer = {"error": error} if error else {"result": asdict(STATUS)}
            await client.send(json.dumps({"id": 1, **answer}).encode() + b"\n")

    path = Path(entry.socket_path).with_name(CONTROL_SOCKET)
    async with (
        await anyio.create_unix_listener(str(path)) as listener,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(listener.serve, serve)
        yield asked
        tasks.cancel_scope.cancel()


def held(name: str) -> int | None:
    """The pid of the VM with this name."""
    try:
        return find(name=name).pid
    except RegistryError:
        return None


async def test_the_new_name_leads_to_the_vm_and_the_old_is_free(vm: RegistryEntry) -> None:
    async with monitor(vm) as asked:
        renamed = await rename_vm(vm, "team/new")
    assert asked[0]["params"] == {"name": "team/new", "hostname": "team-new"}
    assert (renamed.name, held("team/new"), held("old")) == ("team/new", vm.pid, None)
    claim_name("old", os.getpid())


async def test_its_own_name_changes_nothing(vm: RegistryEntry) -> None:
    assert (await rename_vm(vm, "old")).name == "old"


async def test_a_taken_name_and_no_name_are_refused_before_anybody_is_asked(
    vm: RegistryEntry,
) -> None:
    claim_name("taken", os.getppid())
    async with monitor(vm) as asked:
        for name, code in (
            ("taken", ErrorCode.REGISTRY_NAME_IN_USE),
            ("no name", ErrorCode.REGISTRY_NAME_INVALID),
        ):
            with pytest.raises(RegistryError) as caught:
                await rename_vm(vm, name)
            assert caught.value.code is code
        assert asked == []
    assert held("old") == vm.pid


async def test_what_the_monitor_refuses_leaves_the_registry_as_it_was(vm: RegistryEntry) -> None:
    refusal = {"code": "NOT_RUNNING", "message": "the VM is paused", "retryable": True}
    async with monitor(vm, error=refusal):
        with pytest.raises(BootError) as caught:
            await rename_vm(vm, "new")
    assert (caught.value.code, caught.value.retryable) == (ErrorCode.VM_CONTROL_FAILED, True)
    assert (held("new"), held("old")) == (None, vm.pid)
    claim_name("new", os.getppid())


async def test_of_many_who_rename_one_vm_at_once_the_last_ones_name_holds(
    vm: RegistryEntry,
) -> None:
    refused: list[ErrorCode] = []

    async def rename(name: str) -> None:
        try:
            await rename_vm(vm, name)
        except MachinenError as error:
            refused.append(error.code)

    async with monitor(vm) as asked, anyio.create_task_group() as tasks:
        for number in range(8):
            tasks.start_soon(rename, f"n{number}")
    assert set(refused) <= {ErrorCode.VM_CONTROL_FAILED}
    assert len(refused) + len(asked) == 8
    last = asked[-1]["params"]["name"]
    assert [held(f"n{number}") for number in range(8)].count(vm.pid) == 1
    assert held(last) == vm.pid


async def test_a_vm_that_is_gone_cannot_be_renamed(vm: RegistryEntry) -> None:
    Path(vm.socket_path).parent.rmdir()
    with pytest.raises(BootError) as caught:
        await rename_vm(vm, "new")
    assert caught.value.code is ErrorCode.VM_DIED
    assert held("new") is None


def test_an_entry_that_has_gone_is_not_written_again(machinen_home: Path) -> None:
    claim_name("new", os.getpid())
    with pytest.raises(RegistryError) as caught:
        registry.rename_entry(os.getpid(), "new", os.getpid())
    assert caught.value.code is ErrorCode.REGISTRY_VM_NOT_FOUND
    assert list(registry.all_entries()) == []
