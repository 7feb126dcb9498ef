"""Forks: beside the same QEMU started by hand, and how long the source stands still."""

from __future__ import annotations

import ctypes
import resource
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import anyio
from anyio import to_thread

from bench.figures import Figure, Goal, Peer, median_phases
from bench.plain_qemu import Took, restored
from bench.world import World, family
from machinen_runtime.fork import launches_at_once
from machinen_runtime.handle import VmHandle
from machinen_runtime.paths import remove_tree
from vmm.stats import cpu_seconds

MAX_FORK_RATIO = 2
MAX_PAUSE_EXTRA_MS, MAX_PAUSE_COPIES = 10, 2
MAX_GENERATION_RATIO = 1.2
MAX_SIBLINGS_CPU_RATIO = 1.3
GENERATIONS = 20
DIRTY_MIB = 8
"""What the source writes between two forks, of memory it had before."""
QUESTION = ("hostname",)
"""What each sibling is asked, and each bare QEMU beside them."""


async def measure_forks(world: World, source: VmHandle, repeat: int) -> list[Figure]:
    """Forks of one source in turns with bare QEMUs that go on from the same kind of bundle.

    Between two forks the source writes DIRTY_MIB of its memory.
    """
    asked, bare = list[float](), list[float]()
    paused, copies = list[float](), list[float]()
    phases, pauses = list[Mapping[str, float]](), list[Mapping[str, float]]()
    bundle = world.directory / "bare"
    await source.snapshot(out_dir=bundle, leave_running=True)
    await _start_writer(source)
    for _ in range(repeat):
        await source.exec(f"kill -USR1 $(cat {WRITER_PID}) && read x < {WRITER_DONE}")
        elapsed_ms, fork = await timed(lambda: source.fork(name="fork"))
        async with fork:
            assert fork.forked_by is not None
            asked.append(elapsed_ms)
            phases.append(fork.phases)
            pauses.append(fork.forked_by.phases)
            paused.append(fork.forked_by.paused_ms)
        took = await to_thread.run_sync(_bare_once, bundle)
        bare.append(took.answer_ms)
        copies.append(memcpy_ms(DIRTY_MIB << 20))
    await source.exec(f"kill $(cat {WRITER_PID})")
    world.say(f"fork: {min(asked):.0f} ms, bare QEMU {min(bare):.0f} ms at best")
    world.say(f"source paused: {min(paused):.0f} ms at best")
    allowed = [MAX_PAUSE_EXTRA_MS + MAX_PAUSE_COPIES * each for each in copies]
    return [
        Figure(
            title="fork request to first answer",
            unit="ms",
            values=asked,
            peer=Peer(title="bare qemu -incoming", values=bare),
            goal=Goal(limit=MAX_FORK_RATIO, of="ratio"),
            phases=median_phases(phases),
        ),
        Figure(
            title=f"source paused, {DIRTY_MIB} MiB written since the last fork",
            unit="ms",
            values=paused,
            peer=Peer(title=f"{MAX_PAUSE_EXTRA_MS} ms + {MAX_PAUSE_COPIES} memcpy", values=allowed),
            goal=Goal(limit=1, of="ratio"),
            phases=median_phases(pauses),
        ),
    ]


WRITER_PID, WRITER_DONE = "/run/bench-writer.pid", "/run/bench-writer.done"
WRITER = f"""
import os, signal
memory, piece = bytearray({DIRTY_MIB} << 20), 0
os.mkfifo("{WRITER_DONE}")
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
with open("{WRITER_PID}.new", "w") as file:
    file.write(str(os.getpid()))
os.rename("{WRITER_PID}.new", "{WRITER_PID}")
while True:
    signal.sigwait([signal.SIGUSR1])
    piece = (piece + 1) % 256
    for place in range(0, len(memory), 4096):
        memory[place] = piece
    with open("{WRITER_DONE}", "w") as done:
        done.write("done\\n")
"""


async def _start_writer(source: VmHandle) -> None:
    await source.write_file("/root/bench-writer.py", WRITER)
    await source.exec("setsid python3 /root/bench-writer.py </dev/null >/dev/null 2>&1 &")
    await source.exec(
        f"for i in $(seq 600); do [ -s {WRITER_PID} ] && exit; sleep 0.1; done; exit 1"
    )


def memcpy_ms(size_bytes: int) -> float:
    """Milliseconds the C library takes to copy so much, both sides in memory already."""
    source, target = (ctypes.create_string_buffer(size_bytes) for _ in range(2))
    for each in (source, target):
        ctypes.memset(each, 1, size_bytes)
    started = time.monotonic()
    ctypes.memmove(target, source, size_bytes)
    return (time.monotonic() - started) * 1000


def _bare_once(bundle: Path) -> Took:
    with restored(bundle) as took:
        return took


async def measure_generations(world: World, source: VmHandle, repeat: int) -> list[Figure]:
    """A chain of forks: the first, and the one after GENERATIONS - 1 more, several chains long.

    Raises:
        RuntimeError: the last does not know what the first had in memory.
    """
    chains = max(1, repeat // 7)
    by_generation: list[list[float]] = [[] for _ in range(GENERATIONS)]
    await source.exec("echo from the first > /run/heritage")
    for chain in range(chains):
        async with _Line(source) as line:
            for generation in by_generation:
                generation.append(await line.grow())
            heritage = (await line.youngest.exec("cat /run/heritage")).stdout.strip()
            if heritage != "from the first":
                raise RuntimeError(f"generation {GENERATIONS} read {heritage!r}")
        world.say(f"chain {chain + 1} of {GENERATIONS} generations: {by_generation[-1][-1]:.0f} ms")
    first, last = by_generation[0], by_generation[-1]
    return [
        Figure(
            title=f"fork of generation {GENERATIONS}",
            unit="ms",
            values=last,
            peer=Peer(title="of generation 1", values=first),
            goal=Goal(limit=MAX_GENERATION_RATIO, of="ratio"),
            series=[(number + 1, min(each)) for number, each in enumerate(by_generation)],
        )
    ]


class _Line:
    """A VM and its descendants, one of each generation; only the youngest two run at a time."""

    def __init__(self, source: VmHandle) -> None:
        self.youngest = source
        self._ours: VmHandle | None = None
        self._count = 0

    async def __aenter__(self) -> _Line:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._ours is not None:
            with anyio.CancelScope(shield=True):
                await self._ours.kill()

    async def grow(self) -> float:
        """One generation more; milliseconds to its first answer."""
        parent = self.youngest
        self._count += 1
        name = f"generation-{self._count}"
        elapsed_ms, child = await timed(lambda: parent.fork(name=name))
        if self._ours is not None:
            await self._ours.kill()
        self.youngest = self._ours = child
        return elapsed_ms


async def measure_siblings(world: World, source: VmHandle, count: int) -> list[Figure]:
    """`count` forks in one call beside as many bare QEMUs: seconds of processor until all answered.

    Raises:
        RuntimeError: one did not answer with its own name.
    """
    before = _own_cpu_s()
    started = time.monotonic()
    siblings = await source.fork_many(count, name="sib", detached=True)
    try:
        for number, sibling in enumerate(siblings, start=1):
            if (await sibling.exec(list(QUESTION))).stdout.strip() != f"sib-{number}":
                raise RuntimeError(f"sibling {number} has another's name")
        elapsed_s = time.monotonic() - started
        pids = [pid for sibling in siblings for part in family(sibling.pid) for pid in part]
        ours = sum(map(cpu_seconds, pids)) + _own_cpu_s() - before
    finally:
        with anyio.CancelScope(shield=True):
            for sibling in siblings:
                await sibling.kill()
    world.say(f"{count} forks: {elapsed_s:.0f} s, {ours:.0f} s of processor")
    bundle = world.directory / "siblings"
    await source.snapshot(out_dir=bundle, leave_running=True)
    bare = await to_thread.run_sync(_bare_siblings_cpu_s, bundle, count)
    await to_thread.run_sync(remove_tree, bundle)
    world.say(f"{count} bare QEMUs: {bare:.0f} s of processor")
    return [
        Figure(
            title=f"{count} forks in one call, processor",
            unit="s",
            values=[ours],
            peer=Peer(title=f"{count} bare qemu -incoming", values=[bare]),
            goal=Goal(limit=MAX_SIBLINGS_CPU_RATIO, of="ratio"),
        ),
        Figure(title="until all of them answered", unit="s", values=[elapsed_s]),
    ]


def _bare_siblings_cpu_s(bundle: Path, count: int) -> float:
    """Seconds of processor of `count` bare QEMUs when all have answered, as many started at once
    as forks are: one alone on the machine would have its caches to itself.
    """
    running: deque[AbstractContextManager[Took]] = deque()

    def start(_: int) -> int:
        one = restored(bundle, QUESTION)
        pid = one.__enter__().pid
        running.append(one)
        return pid

    with ThreadPoolExecutor(launches_at_once()) as pool:  # a QEMU ends with the thread it is of
        try:
            return sum(map(cpu_seconds, list(pool.map(start, range(count)))))
        finally:
            for one in running:
                one.__exit__(None, None, None)


def _own_cpu_s() -> float:
    """Of this process and of the children it has reaped."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


async def timed(start: Callable[[], Awaitable[VmHandle]]) -> tuple[float, VmHandle]:
    """Milliseconds from the call to the VM's first answer, and the VM."""
    started = time.monotonic()
    vm = await start()
    await vm.exec("true")
    return (time.monotonic() - started) * 1000, vm
