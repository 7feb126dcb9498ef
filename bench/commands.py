"""Commands: the round trip of `machinen`, the throughput of a stream, what an idle VM costs."""

from __future__ import annotations

import sys
import time
from subprocess import DEVNULL, PIPE

import anyio

from bench.figures import Figure, Goal, Peer
from bench.world import MACHINEN, World, family, pss_mib
from machinen_runtime.handle import VmHandle
from machinen_runtime.registry import live_entries
from vmm.stats import cpu_seconds

STREAM_BYTES = 50_000_000
IDLE_S = 5
MAX_LS_RATIO = 4
MAX_EXEC_RATIO = 6
SANDBOXES = 10


async def measure_commands(world: World, source: VmHandle, repeat: int) -> list[Figure]:
    """`machinen exec` and `machinen ls` in turns with a Python that only imports asyncio.

    Raises:
        RuntimeError: there are not SANDBOXES sandboxes for `ls` to list.
    """
    if len(live_entries()) != SANDBOXES:
        raise RuntimeError(f"{len(live_entries())} sandboxes run, not {SANDBOXES}")
    execs: list[float] = []
    lists: list[float] = []
    peers: list[float] = []
    for _ in range(max(repeat, 5)):
        peers.append(await world.run_ms([sys.executable, "-c", "import asyncio"]))
        execs.append(await world.machinen_ms("exec", str(source.pid), "--", "true"))
        lists.append(await world.machinen_ms("ls"))
    world.say(f"machinen exec {min(execs):.0f} ms, ls {min(lists):.0f} ms at best")
    peer = Peer(title="python -c 'import asyncio'", values=peers)
    return [
        Figure(
            title="machinen exec VM -- true",
            unit="ms",
            values=execs,
            peer=peer,
            goal=Goal(limit=MAX_EXEC_RATIO, of="ratio"),
        ),
        Figure(
            title=f"machinen ls, {SANDBOXES} sandboxes",
            unit="ms",
            values=lists,
            peer=peer,
            goal=Goal(limit=MAX_LS_RATIO, of="ratio"),
        ),
        Figure(title="exec of true (API)", unit="ms", values=await _api_execs(source, repeat)),
    ]


async def _api_execs(vm: VmHandle, repeat: int) -> list[float]:
    values: list[float] = []
    for _ in range(max(repeat, 5)):
        started = time.monotonic()
        await vm.exec(["true"])
        values.append((time.monotonic() - started) * 1000)
    return values


async def measure_stream(world: World, source: VmHandle, repeat: int) -> Figure:
    """Megabytes a second from a process in the guest to a pipe on the host.

    The peer is the same output into a pipe that stays in the guest.

    Raises:
        RuntimeError: bytes were lost.
    """
    rates: list[float] = []
    peers: list[float] = []
    inside = f"head -c {STREAM_BYTES} /dev/zero | wc -c"
    for _ in range(repeat):
        elapsed_ms = await world.machinen_ms("exec", str(source.pid), "--", "sh", "-c", inside)
        peers.append(STREAM_BYTES / 1e3 / elapsed_ms)
        started = time.monotonic()
        count = await _count_bytes(source)
        if count != STREAM_BYTES:
            raise RuntimeError(f"{count} of {STREAM_BYTES} bytes arrived")
        rates.append(count / 1e6 / (time.monotonic() - started))
    world.say(f"stream: {rates[-1]:.0f} MB/s")
    peer = Peer(title="pipe in the guest", values=peers)
    return Figure(title="machinen exec, 50 MB of output", unit="MB/s", values=rates, peer=peer)


async def _count_bytes(vm: VmHandle) -> int:
    command = ["head", "-c", str(STREAM_BYTES), "/dev/zero"]
    argv = [MACHINEN, "exec", str(vm.pid), "--", *command]
    count = 0
    async with await anyio.open_process(argv, stdin=DEVNULL, stdout=PIPE, stderr=None) as process:
        assert process.stdout is not None
        async for chunk in process.stdout:
            count += len(chunk)
    return count


async def measure_idle(world: World, source: VmHandle) -> list[Figure]:
    """What one VM costs that nobody uses: memory of its monitor, processor time of all of it."""
    vm, network = family(source.pid)
    before = sum(map(cpu_seconds, [*vm, *network]))
    started = time.monotonic()
    await anyio.sleep(IDLE_S)
    used = sum(map(cpu_seconds, [*vm, *network])) - before
    percent = 100 * used / (time.monotonic() - started)
    world.say(f"idle: {percent:.1f} % of a core")
    return [
        Figure(title="PSS of a monitor", unit="MiB", values=[pss_mib(source.pid)]),
        Figure(
            title="PSS of a booted VM (QEMU + monitor)", unit="MiB", values=[sum(map(pss_mib, vm))]
        ),
        Figure(title=f"CPU of an idle VM over {IDLE_S} s", unit="%", values=[percent]),
    ]
