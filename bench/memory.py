"""Memory a fork gives back: how much of what its guest frees is the host's again."""

from __future__ import annotations

import anyio

from bench.figures import Figure
from bench.world import World
from machinen_runtime.handle import VmHandle
from vmm.requests import StatsEvent

FREED_MIB = 200
SETTLED_FOR = 6
"""So many looks in a row that show no less of its own memory: it has given back what it will."""
LOOK_MS = 1000
TIMEOUT_S = 120
_MIB = 1 << 20


async def measure_given_back(world: World, source: VmHandle) -> list[Figure]:
    """A fork fills and frees memory; beside it what it has of its own then.

    Raises:
        TimeoutError: its memory never settles.
    """
    async with await source.fork(name="giver") as fork:
        await fork.exec(f"head -c {FREED_MIB}M /dev/urandom > /dev/shm/filled")
        full = await _own_mib(fork)
        await fork.exec("rm /dev/shm/filled")
        left = await _settled_mib(fork)
    world.say(f"a fork of {full:.0f} MiB freed {FREED_MIB} and gave {full - left:.0f} back")
    title = f"memory a fork gives back, of {FREED_MIB} MiB its guest frees"
    return [Figure(title=title, unit="MiB", values=[full - left])]


async def _own_mib(vm: VmHandle) -> float:
    async with vm.events(stats_interval_ms=LOOK_MS) as events:
        async for event in events:
            if isinstance(event, StatsEvent):
                return event.private_bytes / _MIB
    raise RuntimeError("the fork ended while it was measured")


async def _settled_mib(vm: VmHandle) -> float:
    """What it has of its own once that has stopped to fall."""
    least, since = float("inf"), 0
    with anyio.fail_after(TIMEOUT_S):
        async with vm.events(stats_interval_ms=LOOK_MS) as events:
            async for event in events:
                if not isinstance(event, StatsEvent):
                    continue
                own = event.private_bytes / _MIB
                least, since = (own, 0) if own < least - 1 else (least, since + 1)
                if since == SETTLED_FOR:
                    return least
    raise RuntimeError("the fork ended while it was measured")
