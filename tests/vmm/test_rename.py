"""Renaming a running guest: what it is told, what the monitor says afterwards."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.vmm.fake_guest import GuestPort, greeted
from tests.vmm.test_operations import Vm
from vmm import operations, rename
from vmm.errors import VmmError
from vmm.frames import FrameType
from vmm.mux import ChannelMux
from vmm.rename import rename_request, tell_guest


def test_the_request_carries_the_names_as_arguments() -> None:
    request = rename_request("a b$(x)", "a-b")
    head, _, payload = request.partition(b"\n")
    assert head == b"RUN %d" % len(payload)
    assert payload.split(b"\0")[-3:-1] == [b"arg=a b$(x)", b"arg=a-b"]


def test_the_script_keeps_the_other_hosts(tmp_path: Path) -> None:
    script = rename_request("n", "h").split(b"arg=")[3].rstrip(b"\0").decode()
    for directory in ("etc", "proc/sys/kernel", "run"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "etc/hosts").write_text("127.0.0.1 localhost\n127.0.1.1\told\n10.0.0.1 db\n")
    for place in ("/run/", "/proc/", "/etc/"):
        script = script.replace(place, f"{tmp_path}{place}")
    for _ in range(2):
        subprocess.run(["/bin/sh", "-c", script, "rename", "web/2", "web-2"], check=True)
    assert (tmp_path / "run/machinen/name").read_text() == "web/2\n"
    assert (tmp_path / "proc/sys/kernel/hostname").read_text() == "web-2"
    assert (tmp_path / "etc/hostname").read_text() == "web-2\n"
    hosts = (tmp_path / "etc/hosts").read_text()
    assert hosts == "127.0.1.1\tweb-2\n127.0.0.1 localhost\n10.0.0.1 db\n"


async def answered(tmp_path: Path, reply: bytes, *, reset: bool = False) -> bool | VmmError:
    async def guest(port: GuestPort) -> None:
        stream, number = await port.accept()
        assert number == rename.EXEC_PORT
        await port.expect(FrameType.DATA)
        if reset:
            await port.send(FrameType.RESET, stream, bytes(4))
            return
        await port.send(FrameType.DATA, stream, reply)
        await port.send(FrameType.EOF, stream)

    outcome: list[bool | VmmError] = []
    async with greeted(tmp_path) as (mux, port), anyio.create_task_group() as tasks:
        tasks.start_soon(guest, port)
        try:
            outcome.append(await tell_guest(mux, "n", "h"))
        except VmmError as error:  # not raised from here: a task group would wrap it
            outcome.append(error)
    return outcome[0]


@pytest.mark.parametrize(
    ("reply", "done"),
    [
        (b"X 0\n", True),
        (b"E 3\nohX\nX 0\n", True),
        (b"X 127\n", False),
        (b"F 5\nhello", False),
        (b"rubbish", False),
    ],
)
async def test_the_guests_word_counts(tmp_path: Path, reply: bytes, done: bool) -> None:
    assert await answered(tmp_path, reply) is done


async def test_a_guest_that_hangs_up_can_be_asked_again(tmp_path: Path) -> None:
    error = await answered(tmp_path, b"", reset=True)
    assert isinstance(error, VmmError)
    assert (error.code, error.retryable) == ("AGENT_UNAVAILABLE", True)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What the guest was told; it believes everything but `deaf`."""
    seen: list[tuple[str, str]] = []

    async def tell(_mux: ChannelMux, name: str, hostname: str) -> bool:
        seen.append((name, hostname))
        return name != "deaf"

    monkeypatch.setattr(operations, "tell_guest", tell)
    return seen


@pytest.fixture
def vm(tmp_path: Path) -> Any:
    vm = Vm(tmp_path)
    vm.operations.start(vm)
    yield vm
    vm.close()


async def test_status_and_snapshots_have_the_new_name(vm: Vm, told: list[tuple[str, str]]) -> None:
    status = await vm.do("rename", name="shop", hostname="shop")
    assert (status.name, told) == ("shop", [("shop", "shop")])
    assert (await vm.do("snapshot", directory="/b", leave_running=True)).name == "shop"
    assert (vm.operations.name, vm.operations.hostname) == ("shop", "shop")


async def test_a_guest_that_cannot_take_it_does_not_keep_the_vm_from_its_name(
    vm: Vm, told: list[tuple[str, str]]
) -> None:
    assert (await vm.do("rename", name="deaf", hostname="deaf")).name == "deaf"


async def test_a_paused_vm_keeps_its_name(vm: Vm, told: list[tuple[str, str]]) -> None:
    await vm.do("pause")
    with pytest.raises(VmmError, match="resume it first") as caught:
        await vm.do("rename", name="shop", hostname="shop")
    assert caught.value.retryable
    assert told == []


@pytest.mark.parametrize(
    "params",
    [{}, {"name": "x"}, {"name": "", "hostname": "x"}, {"name": "x" * 256, "hostname": "x"}],
)
async def test_what_is_no_name_is_refused(vm: Vm, params: dict[str, str]) -> None:
    with pytest.raises(VmmError) as caught:
        await vm.do("rename", **params)
    assert caught.value.code == "PARAMS_INVALID"
