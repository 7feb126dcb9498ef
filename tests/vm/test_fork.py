"""Forks of a running guest: what goes on, what differs, what is never shared."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import psutil
import pytest

from machinen_runtime.boot import boot
from machinen_runtime.channel_sessions import Output, ReplayDone, TerminalSession
from machinen_runtime.errors import BootError, ErrorCode, RegistryError, SnapshotError
from machinen_runtime.handle import VmHandle
from machinen_runtime.monitor_client import MonitorClient
from machinen_runtime.restore import restore
from tests.vm.conftest import MEMORY_MIB, leftovers, qemu_of

pytestmark = pytest.mark.vm

MAX_IDLE_FORK_PSS = 80 << 20
BIG_MIB = 80
COUNTER = """
import time
n = 0
while True:
    n += 1
    with open("/run/count", "w") as file:
        file.write(str(n))
    time.sleep(0.02)
"""

PAGES = """
import mmap, os, signal, sys
SIZE, PAGE = 16 << 20, 4096
memory = os.open("/dev/shm/pages", os.O_RDWR | os.O_CREAT)
if sys.argv[1] == "write":
    os.ftruncate(memory, SIZE)
    words = memoryview(mmap.mmap(memory, SIZE)).cast("Q")
    open("/run/writer", "w").write(str(os.getpid()))
    number = 0
    while True:
        number += 1
        for page in range(0, SIZE // 8, PAGE // 8):
            words[page] = number
pid = int(open("/run/writer").read())
os.kill(pid, signal.SIGSTOP)
while open(f"/proc/{pid}/stat").read().rsplit(")")[-1].split()[0] != "T":
    pass
data = os.pread(memory, SIZE, 0)
numbers = [int.from_bytes(data[at : at + 8], "little") for at in range(0, SIZE, PAGE)]
print(*(a for a, b in zip(numbers, [None, *numbers]) if a != b))
"""


@pytest.fixture(scope="module")
async def source(vm_home: Path, anyio_backend: str) -> AsyncGenerator[VmHandle]:
    """A VM with a counter in memory, a file on disk and a known screen."""
    async with await boot(name="source", memory=MEMORY_MIB) as vm:
        await vm.write_file("/root/counter.py", COUNTER)
        await vm.exec("setsid python3 /root/counter.py </dev/null >/dev/null 2>&1 &")
        await vm.exec("until [ -s /run/count ]; do sleep 0.05; done")
        await vm.exec(
            "echo kept > /root/disk; mkdir -p /run/ram; echo kept > /run/ram/memory; sync"
        )
        async with vm.open_session(cols=80, rows=24) as session:
            await session.send(b"echo screen-of-$((6*7))\n")
            await read_until(session, b"screen-of-42")
        yield vm


async def read_until(session: TerminalSession, wanted: bytes) -> bytes:
    """All output of a session up to and with `wanted`."""
    seen = b""
    with anyio.fail_after(60):
        while wanted not in seen:
            event = await session.receive()
            if isinstance(event, Output):
                seen += event.data
    return seen


async def count_of(vm: VmHandle) -> int:
    """The counter's number; read again if it was just being written."""
    while True:
        text = (await vm.exec("cat /run/count")).stdout
        if text:
            return int(text)


async def counts_past(vm: VmHandle, number: int) -> int:
    """The counter's number once it is larger: on a busy host a guest may stand still a while."""
    with anyio.fail_after(60):
        while (count := await count_of(vm)) <= number:
            pass
    return count


async def test_a_fork_counts_on_from_the_same_number_and_so_does_its_source(
    source: VmHandle,
) -> None:
    before = await count_of(source)
    async with await source.fork(name="counting") as fork:
        counters = (await source.exec("pgrep -fc '^python3 /root/counter.py'")).stdout.strip()
        assert await count_of(fork) >= before, f"{counters} of them count in the source"
        in_fork, in_source = await counts_past(fork, before), await counts_past(source, before)
        await counts_past(fork, in_fork)
        await counts_past(source, in_source)


async def test_the_memory_of_a_fork_is_of_one_moment(source: VmHandle) -> None:
    """A program numbers 16 MiB of pages round after round; a page that was copied too early, or not
    again, would show a number of a round before."""
    await source.write_file("/root/pages.py", PAGES)
    await source.exec("setsid python3 /root/pages.py write </dev/null >/dev/null 2>&1 &")
    try:
        await source.exec("until [ -s /run/writer ]; do sleep 0.05; done")
        for _ in range(3):
            async with await source.fork(name="moment") as fork:
                numbers = (await fork.exec("python3 /root/pages.py read")).stdout.split()
            assert 1 <= len(numbers) <= 2, f"pages of {len(numbers)} rounds: {numbers[:9]}"
            assert int(numbers[0]) - int(numbers[-1]) in (0, 1), numbers
    finally:
        await source.exec("kill $(cat /run/writer)")


async def test_what_one_writes_the_other_never_sees(source: VmHandle) -> None:
    async with await source.fork(name="apart") as fork:
        await fork.exec("echo fork > /root/disk; echo fork > /run/ram/memory; sync")
        assert (await source.exec("cat /root/disk /run/ram/memory")).stdout == "kept\nkept\n"
        await source.exec("echo source > /root/after; sync")
        assert (await fork.exec_raw("cat /root/after")).exit_code != 0
        await source.exec("rm /root/after; sync")
        assert (await fork.exec("cat /root/disk /run/ram/memory")).stdout == "fork\nfork\n"


async def test_hostname_random_numbers_and_clock_are_each_ones_own(source: VmHandle) -> None:
    before = time.time()
    async with await source.fork(name="other/self") as fork:
        probe = "hostname; od -An -tx1 -N16 /dev/urandom; date +%s.%N"
        answers = [(await vm.exec(probe)).stdout.splitlines() for vm in (source, fork)]
        after = time.time()
        assert answers[0][0] == "source"
        assert answers[1][0] == "other-self"
        assert answers[0][1] != answers[1][1]
        for answer in answers:
            assert before <= float(answer[2]) <= after  # both were told the time for the fork


async def test_the_clock_is_right_after_a_long_sleep(source: VmHandle, tmp_path: Path) -> None:
    bundle = tmp_path / "slept"
    await source.snapshot(out_dir=bundle, leave_running=True)
    await anyio.sleep(3)  # the time itself is what is tested
    before = time.time()
    async with await restore(snap_dir=bundle, name="late") as late:
        told = float((await late.exec("date +%s.%N")).stdout)
        assert before <= told <= time.time()


async def test_the_login_shell_shows_the_same_screen_in_both_and_answers_in_both(
    source: VmHandle,
) -> None:
    async with await source.fork(name="screen") as fork:
        for vm, name in ((source, b"source"), (fork, b"screen")):
            async with vm.open_session(cols=80, rows=24) as session:
                replay = b""
                while not isinstance(event := await session.receive(), ReplayDone):
                    replay += event.data if isinstance(event, Output) else b""
                assert b"screen-of-42" in replay
                await session.send(b"echo i-am-$(hostname)\n")
                await read_until(session, b"i-am-" + name)
        async with source.open_session(cols=80, rows=24) as session:
            assert b"i-am-screen" not in await read_until(session, b"i-am-source")


async def test_a_fork_of_a_fork_of_a_fork_works(source: VmHandle) -> None:
    async with AsyncExitStack() as stack:
        vm = source
        for generation in range(3):
            vm = await stack.enter_async_context(await vm.fork(name=f"generation-{generation}"))
            await vm.exec(f"echo {generation} >> /root/generations; sync")
        assert (await vm.exec("cat /root/generations")).stdout == "0\n1\n2\n"
        assert (await vm.exec("sha256sum /usr/bin/python3")).stdout == (
            await source.exec("sha256sum /usr/bin/python3")
        ).stdout
        assert await count_of(vm) > 0


async def test_eight_forks_answer_and_each_is_small(source: VmHandle) -> None:
    forks = await source.fork_many(8, name="eight")
    async with AsyncExitStack() as stack:
        for fork in forks:
            await stack.enter_async_context(fork)
        assert [fork.name for fork in forks] == [f"eight-{number}" for number in range(1, 9)]
        assert len({id(fork.forked_by) for fork in forks}) == 1
        for fork in forks:
            assert (await fork.exec("hostname")).stdout.strip() == fork.name
            processes = [psutil.Process(fork.pid), qemu_of(fork)]
            assert sum(each.memory_full_info().pss for each in processes) < MAX_IDLE_FORK_PSS


async def test_a_second_snapshot_saves_only_what_was_written_since(
    source: VmHandle, tmp_path: Path
) -> None:
    monitor = MonitorClient(source.vsock_path.parent)
    copied: list[int] = []
    await source.exec(f"head -c {BIG_MIB}M /dev/urandom > /dev/shm/big")
    for number in range(3):
        await source.exec(
            f"dd if=/dev/urandom of=/dev/shm/big bs=1M count=2 seek={number} conv=notrunc &&"
            " md5sum /dev/shm/big > /dev/shm/sum"
        )
        async with monitor.snapshot(
            tmp_path / str(number), leave_running=True, durable=False, timeout_s=60
        ) as report:
            copied.append(report.ram_copied_bytes)
    assert copied[0] > BIG_MIB << 20
    assert max(copied[1:]) < BIG_MIB << 19
    async with await source.fork() as fork, await fork.fork() as second:
        for vm in (fork, second):
            await vm.exec("md5sum -c /dev/shm/sum")
    await source.exec("rm /dev/shm/big")


async def test_a_snapshot_outlives_its_source_and_its_directory(
    source: VmHandle, tmp_path: Path
) -> None:
    async with await source.fork(name="mortal") as mortal:
        await mortal.exec("echo written > /root/by-mortal")  # not synced: it is in memory
        result = await mortal.snapshot(out_dir=tmp_path / "one")
        assert (await mortal.wait()).code == 0
    assert result.paused_ms > 0
    before = await count_of(source)
    moved = (tmp_path / "one").rename(tmp_path / "two")
    async with await restore(cwd=tmp_path, snap_dir="two", name="again") as again:
        assert (await again.exec("cat /root/by-mortal")).stdout == "written\n"
        first = await count_of(again)
        assert first <= before + 100
        assert await count_of(again) > first
        assert again.entry.forked_from == str(moved)


async def test_a_snapshot_into_a_full_directory_is_refused_and_the_source_runs_on(
    source: VmHandle, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SnapshotError) as caught:
        await source.snapshot(out_dir=tmp_path, leave_running=True)
    assert caught.value.code is ErrorCode.SNAPSHOT_DUMP_FAILED
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (await source.exec("echo alive")).stdout == "alive\n"


async def test_a_torn_bundle_is_refused_before_anything_starts(
    source: VmHandle, tmp_path: Path, vm_home: Path
) -> None:
    bundle = tmp_path / "torn"
    await source.snapshot(out_dir=bundle, leave_running=True)
    with open(bundle / "vm" / "ram.img", "r+b") as image:
        image.truncate(4096)
    before = leftovers(vm_home)
    with pytest.raises(BootError) as caught:
        await restore(snap_dir=bundle)
    assert caught.value.code is ErrorCode.BOOT_SNAPSHOT_INVALID
    assert "ram.img" in str(caught.value)
    assert leftovers(vm_home) == before


async def test_without_memory_to_spare_a_fork_is_refused_and_may_be_tried_again(
    source: VmHandle,
) -> None:
    with pytest.raises(BootError) as caught:
        await source.fork(free_memory_threshold=1.0)
    assert caught.value.code is ErrorCode.FORK_MEMORY_BACKPRESSURE
    assert caught.value.retryable


async def test_a_fork_cancelled_at_any_moment_leaves_nothing(
    source: VmHandle, vm_home: Path
) -> None:
    before = sorted(leftovers(vm_home))
    for delay in (0.05, 0.2, 0.4, 0.7):
        with anyio.move_on_after(delay):
            async with await source.fork(name="stillborn"):
                pass
        assert (await source.exec("echo alive")).stdout == "alive\n"
    with anyio.fail_after(60):
        while sorted(leftovers(vm_home)) != before:
            await anyio.sleep(0.05)
    with anyio.fail_after(60):  # the source's monitor may still be at the last one
        while (await source.status()).state != "running":
            await anyio.sleep(0.05)


async def test_of_many_forks_all_live_or_none(source: VmHandle, vm_home: Path) -> None:
    async with await source.fork(name="many-2"):
        before = sorted(leftovers(vm_home))
        with pytest.raises(RegistryError) as caught:
            await source.fork_many(3, name="many")
        assert caught.value.code is ErrorCode.REGISTRY_NAME_IN_USE
        assert sorted(leftovers(vm_home)) == before
    assert (await source.exec("echo alive")).stdout == "alive\n"
