"""How costs grow: with memory touched, disk written, siblings and generations.

Each point is a measurement of its own, one after the other, smallest first. Nothing but the pages
themselves may grow in step.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import anyio

from bench.forks import timed
from bench.world import World, family, pss_mib
from machinen_runtime.boot import boot
from machinen_runtime.handle import VmHandle

RAM_MIB = (128, 512, 2048, 4096)
DISK_MIB = (16, 64, 256, 1024)
SIBLINGS = (1, 10, 30, 100)
GUEST_MIB = 5120
"""Room for the largest of RAM_MIB beside the guest itself."""
NEXT_FORKS = 2
"""After the first one, which saves all there is; the better of them counts."""
TOUCH = """
import sys, time
memory = bytearray(int(sys.argv[1]) << 20)
for place in range(0, len(memory), 4096):
    memory[place] = 1
open("/run/touched", "w").close()
time.sleep(1 << 20)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Lines over one quantity: points are (x, y)."""

    title: str
    x_title: str
    unit: str
    lines: dict[str, list[tuple[float, float]]] = field(
        default_factory=dict[str, list[tuple[float, float]]]
    )

    def add(self, name: str, x: float, y: float) -> None:
        """One point more of the line `name`."""
        self.lines.setdefault(name, []).append((x, round(y, 2)))


async def grow_memory(world: World) -> list[Curve]:
    """Guests that touched ever more memory: the first fork, and the ones after it."""
    answers, pauses = _pair("memory touched before it")
    for mib in RAM_MIB:
        async with await boot(name=f"ram-{mib}", memory=GUEST_MIB) as vm:
            await vm.write_file("/root/touch.py", TOUCH)
            await vm.exec(f"setsid python3 /root/touch.py {mib} </dev/null >/dev/null 2>&1 &")
            done = "for i in $(seq 3000); do [ -e /run/touched ] && exit; sleep 0.1; done; exit 1"
            await vm.exec(done)
            await _forks(vm, answers, pauses, mib)
        world.say(f"{mib} MiB touched: {_last(answers)}; paused: {_last(pauses)}")
    return [answers, pauses]


async def grow_disk(world: World) -> list[Curve]:
    """Guests that wrote ever more to their disk since it was new."""
    answers, pauses = _pair("written to disk before it")
    for mib in DISK_MIB:
        async with await boot(name=f"disk-{mib}") as vm:
            written = f"dd if=/dev/urandom of=/root/file bs=1M count={mib} oflag=direct 2>&1"
            await vm.exec(f"{written} && sync")
            await _forks(vm, answers, pauses, mib)
        world.say(f"{mib} MiB written: {_last(answers)}; paused: {_last(pauses)}")
    return [answers, pauses]


def _pair(before: str) -> tuple[Curve, Curve]:
    """How long until a fork answers, and how long its source stands still."""
    return (
        Curve(title=f"a fork answers, by {before}", x_title="MiB", unit="ms"),
        Curve(title=f"its source paused, by {before}", x_title="MiB", unit="ms"),
    )


async def _forks(vm: VmHandle, answers: Curve, pauses: Curve, x: float) -> None:
    """The first fork of `vm`, which saves all there is, and the best of those after it."""
    asked, paused = list[float](), list[float]()
    for _ in range(1 + NEXT_FORKS):
        elapsed_ms, fork = await timed(lambda: vm.fork(name="grown"))
        async with fork:
            assert fork.forked_by is not None
            asked.append(elapsed_ms)
            paused.append(fork.forked_by.paused_ms)
    for curve, values in ((answers, asked), (pauses, paused)):
        curve.add("first fork", x, values[0])
        curve.add("next one", x, min(values[1:]))


async def grow_siblings(world: World, source: VmHandle) -> Curve:
    """Forks in one call, ever more: time and memory of each."""
    curve = Curve(title="siblings in one call, each of them", x_title="siblings", unit="ms, MiB")
    for count in SIBLINGS:
        elapsed_ms = 0.0
        siblings: list[VmHandle] = []
        try:
            started = anyio.current_time()
            siblings = await source.fork_many(count, name=f"of{count}", detached=True)
            elapsed_ms = (anyio.current_time() - started) * 1000
            sizes = [sum(map(pss_mib, family(each.pid)[0])) for each in siblings]
        finally:
            with anyio.CancelScope(shield=True):
                for sibling in siblings:
                    await sibling.kill()
        curve.add("ms", count, elapsed_ms / count)
        curve.add("MiB (PSS)", count, sum(sizes) / count)
        world.say(f"{count} siblings: {_last(curve)}")
    return curve


def generations(series: list[tuple[float, float]]) -> Curve:
    """What a chain of forks took, generation by generation (bench/forks.py)."""
    curve = Curve(title="generations", x_title="generation", unit="ms")
    for x, y in series:
        curve.add("fork answers", x, y)
    return curve


def _last(curve: Curve) -> str:
    return ", ".join(f"{name} {points[-1][1]:.0f}" for name, points in curve.lines.items())
