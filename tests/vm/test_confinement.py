"""How the processes of a real VM are confined, as the kernel tells of them."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from pathlib import Path

import psutil
import pytest

from machinen_runtime.boot import boot
from machinen_runtime.handle import VmHandle
from machinen_runtime.machines import resolve_passt
from tests.fakes import until
from tests.vm.conftest import MEMORY_MIB, qemu_of
from vmm.privileges import MONITOR_CAPS, read_status

pytestmark = pytest.mark.vm

NOBODY = 65534
SECRET = "CONFINEMENT_TEST_SECRET"


@pytest.fixture(scope="module")
async def connected_vm(vm_home: Path, anyio_backend: str) -> AsyncGenerator[VmHandle]:
    """A VM with passt, started by somebody with a secret in the environment."""
    os.environ[SECRET] = "hush"
    try:
        async with await boot(memory=MEMORY_MIB) as handle:
            yield handle
    finally:
        del os.environ[SECRET]


async def test_a_vms_qemu_and_its_monitor_are_confined(connected_vm: VmHandle) -> None:
    qemu, monitor = read_status(qemu_of(connected_vm).pid), read_status(connected_vm.pid)
    assert {qemu[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    for status in (qemu, monitor):
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert int(qemu["Seccomp_filters"]) > int(monitor["Seccomp_filters"])
    assert int(monitor["CapEff"], 16) & ~sum(1 << cap for cap in MONITOR_CAPS) == 0


async def test_qemu_has_no_secret_and_no_directory_of_the_users(connected_vm: VmHandle) -> None:
    qemu = qemu_of(connected_vm)
    assert SECRET in psutil.Process(connected_vm.pid).environ()
    assert SECRET not in qemu.environ()
    assert qemu.cwd() == "/"


@pytest.mark.skipif(resolve_passt() is None, reason="no passt")
async def test_passt_is_not_root(connected_vm: VmHandle) -> None:
    dial = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('10.0.2.2', 9))"
    await connected_vm.exec(f'python3 -c "{dial}"')  # it starts with the first packet
    monitor = psutil.Process(connected_vm.pid)
    await until(lambda: any("passt" in child.name() for child in monitor.children()))
    passt = next(child for child in monitor.children() if "passt" in child.name())
    await until(lambda: read_status(passt.pid)["Uid"].split()[0] != "0" or os.geteuid() != 0)
    uids = set(read_status(passt.pid)["Uid"].split())
    assert uids == ({str(NOBODY)} if os.geteuid() == 0 else {str(os.geteuid())})
    assert read_status(passt.pid)["NoNewPrivs"] == "1"
