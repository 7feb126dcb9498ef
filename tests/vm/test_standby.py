"""Standbys of real guests: one becomes somebody, is like any warm boot, and leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest

from machinen_runtime import standby, standbys
from machinen_runtime.boot import boot
from machinen_runtime.handle import VmHandle
from machinen_runtime.option_types import LiveMount, PortForward
from machinen_runtime.restore import restore
from machinen_runtime.standbys import Standby, list_standbys
from machinen_runtime.template_cache import prune_templates
from tests.vm.conftest import MEMORY_MIB, qemu_of
from tests.vm.test_network import answering, outer_address
from tests.vm.test_warm import IDENTITY, console_of, said

pytestmark = pytest.mark.vm

SMALL: dict[str, Any] = {"memory": MEMORY_MIB, "network": "none"}
WAIT_S = 120


@pytest.fixture(scope="module")
async def on(
    vm_home: Path, anyio_backend: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Path]:
    """Standbys are made, at once; one boot has left a template of SMALL."""
    patch = pytest.MonkeyPatch()
    cache = tmp_path_factory.mktemp("cache")
    patch.setenv("MACHINEN_CACHE_DIR", str(cache))
    patch.setenv(standby.VARIABLE, "1")
    patch.setattr(standby, "DELAY_S", 0)
    patch.setattr(standby, "PATIENCE_S", 0)
    try:
        async with await boot(**SMALL):
            await ready()
        yield cache
    finally:
        standbys.end_standbys()
        patch.undo()
    assert not standbys.standbys_root().exists() or not list(standbys.standbys_root().iterdir())
    standbys.standbys_root().rmdir()


async def waiting() -> Standby:
    """A standby of SMALL; a boot leaves one where there is none."""
    if not list_standbys():
        async with await boot(**SMALL):
            pass
    return await ready()


async def ready() -> Standby:
    """The standby, once it can be taken."""
    with anyio.fail_after(WAIT_S):
        while not (found := [each for each in list_standbys() if each.is_ready]):
            await anyio.sleep(0.05)
    return found[0]


async def gone(pid: int) -> None:
    with anyio.fail_after(WAIT_S):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await anyio.sleep(0.05)


async def test_a_standby_becomes_somebody_with_all_that_a_warm_boot_has(
    on: Path, tmp_path: Path
) -> None:
    before = await waiting()
    (tmp_path / "shown").write_text("live\n")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    async with await boot(
        **SMALL,
        name="first",
        cmd=["sh", "-c", 'echo "$WHO $PWD" > /run/told; exec sleep 1000'],
        env={"WHO": "somebody"},
        guest_cwd="/usr",
        live_mounts=[LiveMount(host=tmp_path, guest="/mnt/shown")],
        port_forward=[PortForward(host_port=port, guest_port=8000)],
    ) as first:
        assert first.pid == before.pid
        assert first.booted == "warm"
        assert "from a standby of template" in console_of(first).splitlines()[0]
        assert list(first.phases)[:3] == ["standby", "resume", "agent"]
        status = await first.status()
        assert (status.warm, status.restored, status.state) == (True, False, "running")

        next_one = await ready()
        assert next_one.pid != first.pid
        async with await boot(**SMALL, name="second") as second:
            assert second.pid == next_one.pid
            mine = (await said(first, IDENTITY)).split()
            others = (await said(second, IDENTITY)).split()
            assert mine[:3] == ["first"] * 3
            assert others[:3] == ["second"] * 3
            assert not set(mine) & set(others)
            now = time.time()
            assert now - 1 <= float(await said(second, "date +%s.%N")) <= time.time() + 1
            assert await said(second, "grep -c standby /etc/hosts /etc/hostname || true") == (
                "/etc/hosts:0\n/etc/hostname:0"
            )
            await first.exec("echo mine > /root/mine; sync")
            assert await said(second, "ls /root/mine 2>/dev/null || echo none") == "none"

        assert await said(first, "cat /run/told") == "somebody /usr"
        assert await said(first, "cat /mnt/shown/shown") == "live"
        await first.exec("setsid python3 -m http.server 8000 >/dev/null 2>&1 </dev/null &")
        dial = 'import socket; socket.create_connection(("127.0.0.1", 8000))'
        await first.exec(f"until python3 -c '{dial}' 2>/dev/null; do sleep 0.1; done")
        async with await anyio.connect_tcp("127.0.0.1", port) as client:
            await client.send(b"GET / HTTP/1.0\r\n\r\n")
            assert (await client.receive()).startswith(b"HTTP/1.0 200")


async def test_what_comes_of_a_standby_is_snapshotted_forked_and_restored(
    on: Path, tmp_path: Path
) -> None:
    taken = await waiting()
    async with await boot(**SMALL, name="parent") as vm:
        assert vm.pid == taken.pid
        await vm.exec("echo kept > /root/kept; echo kept > /dev/shm/kept")
        kept = "cat /root/kept /dev/shm/kept; hostname"
        async with await vm.fork(name="child") as child:
            assert await said(child, kept) == "kept\nkept\nchild"
        await vm.snapshot(out_dir=tmp_path / "bundle", leave_running=True)
    async with await restore(snap_dir=tmp_path / "bundle", name="again") as again:
        assert await said(again, kept) == "kept\nkept\nagain"


async def test_a_workloads_status_is_that_of_the_vm(on: Path) -> None:
    taken = await waiting()
    vm = await boot(**SMALL, cmd=["sh", "-c", "echo said; exit 7"])
    assert vm.pid == taken.pid
    ended = await vm.wait()
    assert (ended.code, ended.signal) == (7, None)
    assert "said" in await vm.output()
    await ready()
    async with await boot(**SMALL) as killed:
        os.kill(killed.pid, signal.SIGKILL)
        ended = await killed.wait()
        assert (ended.code, ended.signal) == (None, "SIGKILL")


async def test_of_two_boots_at_once_one_takes_it_and_both_come_up(on: Path) -> None:
    taken = await waiting()
    booted: list[VmHandle] = []

    async def boot_one(name: str) -> None:
        booted.append(await boot(**SMALL, name=name))

    async with anyio.create_task_group() as tasks:
        for name in ("one", "two"):
            tasks.start_soon(boot_one, name)
    names = sorted([await said(vm, "hostname") for vm in booted])
    assert names == ["one", "two"]
    assert [vm.pid for vm in booted].count(taken.pid) == 1
    assert [vm.booted for vm in booted] == ["warm", "warm"]
    for vm in booted:
        await vm.kill()


ONCE = """
import anyio, sys
from machinen_runtime.boot import boot

async def main():
    options = {"memory": 512, "network": "none", "detached": sys.argv[1] == "detached"}
    vm = await boot(**options, name="of-a-child")
    print(vm.pid, flush=True)
    await anyio.sleep_forever()

anyio.run(main)
"""


@pytest.mark.parametrize("kind", ["tied", "detached"])
async def test_its_life_is_that_of_its_starter_unless_it_is_detached(on: Path, kind: str) -> None:
    taken = await waiting()
    with subprocess.Popen([sys.executable, "-c", ONCE, kind], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        pid = int(await anyio.to_thread.run_sync(child.stdout.readline))
        assert pid == taken.pid
        qemu = psutil.Process(pid).children()[0].pid
        child.kill()
    if kind == "tied":
        await gone(pid)
        await gone(qemu)
        return
    from machinen_runtime.attach import attach

    vm = await attach(name="of-a-child")
    assert vm.pid == pid
    assert await said(vm, "hostname") == "of-a-child"
    await vm.kill()


async def test_a_standby_waits_without_work_and_shows_up_nowhere(on: Path) -> None:
    idle = await waiting()
    machinen = [str(Path(sys.executable).with_name("machinen"))]
    listed = subprocess.run([*machinen, "ls", "--json"], capture_output=True, check=True)
    assert idle.pid not in [each["pid"] for each in json.loads(listed.stdout)["vms"]]
    processes = [psutil.Process(idle.pid), *psutil.Process(idle.pid).children()]
    before = [sum(process.cpu_times()[:2]) for process in processes]
    await anyio.sleep(2)
    after = [sum(process.cpu_times()[:2]) for process in processes]
    assert max(now - then for now, then in zip(after, before, strict=True)) <= 0.1


@pytest.mark.parametrize("victim", ["monitor", "qemu", "stopped"])
async def test_one_that_dies_costs_an_ordinary_warm_boot(on: Path, victim: str) -> None:
    dead = await waiting()
    monitor = psutil.Process(dead.pid)
    (qemu,) = monitor.children()
    if victim == "stopped":
        monitor.suspend()
    else:
        (monitor if victim == "monitor" else qemu).kill()
        await gone(qemu.pid)
    async with await boot(**SMALL, name="after") as vm:
        assert vm.booted == "warm"
        assert vm.pid != dead.pid
        assert qemu_of(vm).pid != qemu.pid
        assert await said(vm, "hostname") == "after"
    if victim == "stopped":
        monitor.resume()
    await gone(dead.pid)
    standbys.sweep()
    assert not dead.run_dir.exists()
    assert not dead.state_dir.exists()


async def test_its_time_is_over(on: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standbys.end_standbys()
    monkeypatch.setattr(standby, "IDLE_S", 1)
    async with await boot(**SMALL):
        short_lived = await ready()
        qemu = psutil.Process(short_lived.pid).children()[0].pid
        await gone(short_lived.pid)
        await gone(qemu)
        assert not short_lived.slot.exists()
        assert not short_lived.run_dir.exists()
        assert not short_lived.state_dir.exists()


async def test_its_guest_reaches_out_where_it_may(on: Path) -> None:
    machine: dict[str, Any] = {"memory": MEMORY_MIB, "network": "full"}
    async with await boot(**machine):
        with anyio.fail_after(WAIT_S):
            while not (found := [each for each in list_standbys() if has_card(each)]):
                await anyio.sleep(0.05)
    assert not any("passt" in child.name() for child in psutil.Process(found[0].pid).children())
    async with await boot(**machine) as vm:
        assert vm.pid == found[0].pid
        assert await said(vm, "cat /sys/class/net/eth0/carrier") == "1"
        with answering(outer_address()) as (address, port):
            dial = f"import socket; print(socket.create_connection(('{address}', {port}), 60))"
            assert address in await said(vm, f'python3 -c "{dial}"')
    standbys.end_standbys(found[0].key)


def has_card(each: Standby) -> bool:
    if not each.is_ready:
        return False
    qemu = psutil.Process(each.pid).children()[0]
    return "virtio-net-pci" in " ".join(qemu.cmdline())


async def test_pruning_its_template_ends_it(on: Path) -> None:
    pruned = await waiting()
    assert len(prune_templates(everything=True)) >= 1
    await gone(pruned.pid)
    assert list_standbys() == []
