"""A VM held to its limits: by QEMU's throttling, and by control groups where one may make them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from click.testing import CliRunner

from machinen_runtime.boot import boot
from machinen_runtime.cli_group import cli
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.gc import run_gc
from machinen_runtime.handle import VmHandle
from machinen_runtime.options import Limits
from machinen_runtime.pids import wait_process_gone
from machinen_runtime.registry import find
from machinen_runtime.restore import restore
from tests.vm.conftest import MEMORY_MIB, qemu_of
from vmm.cgroups import place_cgroups
from vmm.errors import VmmError
from vmm.requests import StatsEvent

pytestmark = pytest.mark.vm

MIB = 1 << 20
RATE = 4 * MIB
WRITTEN_MIB = 12
LIMITS = Limits(io_bytes_per_s=RATE)


def groups_may_be_made() -> bool:
    try:
        return bool(place_cgroups(Limits(cpus=0.5), "probe"))
    except VmmError:
        return False


needs_groups = pytest.mark.skipif(not groups_may_be_made(), reason="no control groups here")


@pytest.fixture(scope="module")
async def slow(vm_home: Path, anyio_backend: str) -> AsyncGenerator[VmHandle]:
    """A VM whose disks are slow."""
    async with await boot(name="slow", memory=MEMORY_MIB, network="none", limits=LIMITS) as handle:
        yield handle


async def seconds_to_write(vm: VmHandle) -> float:
    """How long the guest takes for 12 MiB past its page cache. A limit makes a lower bound."""
    started = time.monotonic()
    await vm.exec(f"dd if=/dev/zero of=/root/full bs=1M count={WRITTEN_MIB} oflag=direct")
    return time.monotonic() - started


async def test_disks_are_held_to_their_rate_also_in_forks_and_after_a_snapshot(
    slow: VmHandle, tmp_path: Path
) -> None:
    least = WRITTEN_MIB * MIB / RATE * 0.8
    assert await seconds_to_write(slow) > least
    assert (await slow.status()).limits == {"io_bytes_per_s": RATE}
    bundle = tmp_path / "bundle"
    async with await slow.fork(name="slow-too", out_dir=bundle) as fork:
        assert fork.entry.limits == LIMITS
        assert await seconds_to_write(fork) > least
        assert await seconds_to_write(slow) > least, "its newest layer is another one now"
    async with await restore(snap_dir=bundle, name="later") as later:
        assert later.entry.limits == LIMITS
    async with await restore(snap_dir=bundle, name="free", limits=Limits(io_bytes_per_s=0)) as free:
        assert free.entry.limits is None
        assert (await free.status()).limits == {}


async def test_limits_are_listed(slow: VmHandle) -> None:
    listed = json.loads(CliRunner().invoke(cli, ["ls", "--json"]).stdout)
    assert [each["limits"] for each in listed["vms"]] == [{"io_bytes_per_s": RATE}]
    entry = find(name="slow")
    assert entry.limits == LIMITS
    assert entry.cgroups == ()


@needs_groups
async def test_processor_time_is_limited_counted_and_the_group_goes(slow: VmHandle) -> None:
    limits = Limits(cpus=0.4)
    async with await slow.fork(name="busy", limits=limits) as busy:
        assert busy.entry.limits == Limits(cpus=0.4, io_bytes_per_s=RATE)
        (group,) = busy.entry.cgroups
        members = Path(group, "cgroup.procs").read_text().split()
        assert members == [str(qemu_of(busy).pid)]
        await busy.exec("setsid sh -c 'while :; do :; done' </dev/null >/dev/null 2>&1 &")
        async with busy.events(stats_interval_ms=250) as events:
            async for event in events:
                if isinstance(event, StatsEvent) and event.throttled > 3:
                    break
        async with await busy.fork(name="heir") as heir:
            assert heir.entry.limits == busy.entry.limits
            assert heir.entry.cgroups != busy.entry.cgroups
        async with await busy.fork(name="released", limits=Limits(cpus=0)) as released:
            assert released.entry.limits == LIMITS
            assert released.entry.cgroups == ()
    assert not Path(group).exists()


@needs_groups
async def test_the_group_of_a_killed_monitor_is_collected(slow: VmHandle) -> None:
    victim = await slow.fork(name="victim", limits=Limits(cpus=0.8), detached=True)
    (group,) = victim.entry.cgroups
    qemu = qemu_of(victim)
    os.kill(victim.pid, signal.SIGKILL)
    await wait_process_gone(victim.pid, victim.entry, timeout_ms=30_000)
    qemu.wait(30)
    removed = [path for result in run_gc(pid=victim.pid) for path in result.removed_paths]
    assert group in removed
    assert not Path(group).exists()


@pytest.mark.provokes(ErrorCode.BOOT_LIMIT_UNAVAILABLE)
async def test_a_limit_nobody_can_enforce_is_refused_before_anything_starts(
    slow: VmHandle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MACHINEN_CGROUP", "/no-such-group/of-ours")
    with pytest.raises(BootError, match="MACHINEN_CGROUP") as caught:
        await slow.fork(name="never", limits=Limits(cpus=0.5))
    assert caught.value.code is ErrorCode.BOOT_LIMIT_UNAVAILABLE
    async with await slow.fork(name="fine"):  # only who asks for it needs it
        pass
