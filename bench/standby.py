"""Warm boots beside boots from a standby: from `boot()` to the first answer, in turns."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

import anyio

from bench.boots import boot_once
from bench.figures import Figure, Goal, median_phases
from bench.world import World
from machinen_runtime import standby, standbys
from machinen_runtime.memory import read_host_rss_bytes
from machinen_runtime.paths import remove_tree

MEMORY_MIB = 512
READY_TIMEOUT_S = 120.0
SETTLE_S = 1.0
"""So that nothing of the standby's own beginning is left to do when it is taken."""
MAX_SHARE_OF_PLAIN = 1 / 20


async def measure_standby_boots(world: World, repeat: int, warm_boots: Figure) -> list[Figure]:
    """Ordinary warm boots and boots from a standby, in turns, and what a standby costs.

    The peer is that of `warm_boots`: plain QEMU to a login, same kernel and root. Leaves no
    standby.

    Raises:
        RuntimeError: no standby came up, or none was taken.
    """
    warm: list[float] = []
    taken: list[float] = []
    phases: list[Mapping[str, float]] = []
    memory_mib: list[float] = []
    with _environment() as count:
        count("0")
        await _boot()  # there is a template from here on
        for number in range(repeat):
            count("0")
            warm.append((await _boot())[0])
            count("1")
            await _boot()
            memory_mib.append(await _wait_ready())
            count("1")
            elapsed_ms, boot_phases = await _boot()
            if "standby" not in boot_phases:
                raise RuntimeError(f"the boot took no standby: {boot_phases}")
            taken.append(elapsed_ms)
            phases.append(boot_phases)
            standbys.end_standbys()
            world.say(f"boot {number + 1}: warm {warm[-1]:.0f} ms, standby {taken[-1]:.0f} ms")
        remove_tree(standbys.standbys_root())
    return [
        Figure(title="warm boot without a standby, to first answer", unit="ms", values=warm),
        Figure(
            title="boot from a standby to first answer",
            unit="ms",
            values=taken,
            peer=warm_boots.peer,
            goal=Goal(limit=MAX_SHARE_OF_PLAIN, of="ratio"),
            phases=median_phases(phases),
        ),
        Figure(title="memory of a standby (RSS)", unit="MiB", values=memory_mib),
    ]


@contextmanager
def _environment() -> Generator[Callable[[str], None]]:
    """Sets how many standbys there shall be, and in the end what it was before."""
    before = os.environ.get(standby.VARIABLE)

    def count(text: str) -> None:
        os.environ[standby.VARIABLE] = text

    try:
        yield count
    finally:
        standbys.end_standbys()
        if before is None:
            os.environ.pop(standby.VARIABLE, None)
        else:
            os.environ[standby.VARIABLE] = before


async def _boot() -> tuple[float, Mapping[str, float]]:
    return await boot_once(None, warm=True, memory=MEMORY_MIB)


async def _wait_ready() -> float:
    """Wait for the standby; its memory in MiB."""
    with anyio.fail_after(READY_TIMEOUT_S):
        while not (found := [each for each in standbys.list_standbys() if each.is_ready]):
            await anyio.sleep(0.1)
    await anyio.sleep(SETTLE_S)
    return (read_host_rss_bytes(found[0].pid) or 0) / (1 << 20)
