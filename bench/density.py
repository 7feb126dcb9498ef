"""How many fit on a host: a monitor's start, and what an idle fork costs."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import anyio

from bench.figures import Figure, Goal, Peer
from bench.world import World, family, pss_mib
from machinen_runtime.attach import attach
from machinen_runtime.handle import VmHandle
from machinen_runtime.registry import live_entries

MAX_START_MS, MAX_MONITOR_MIB = 60, 20
MAX_FORK_MIB = 45
MAX_IDLE_PERCENT, MAX_PAUSED_PERCENT = 0.3, 0.05
"""Paused: 5 ms in 10 s, what the monitor takes to look at it."""
MAX_LS_RATIO, MAX_EXEC_RATIO = 4, 6
SIBLINGS, SANDBOXES = 8, 10
SETTLE_S = 15
"""A fresh fork still works off what its epoch woke up: its new names go to the disk five seconds
later, what it freed is reported. 0.07 s of a processor, once; idle figures begin after that."""
IDLE_S = 10
MONITOR_IMPORTS = "import gc; gc.disable(); import vmm.__main__, vmm.monitor"
"""What `python -m vmm` does until it could serve."""
_CPUCLOCK_SCHED = 2
LEAVE = "import os; os._exit(0)"
"""As a monitor ends, without taking apart what it has imported; its peer, too."""


async def measure_monitor_start(world: World, repeat: int) -> Figure:
    """A monitor until it could serve: Python, and all that it imports."""
    ours, peers = list[float](), list[float]()
    for _ in range(repeat):
        ours.append(await world.run_ms([sys.executable, "-I", "-c", f"{MONITOR_IMPORTS}; {LEAVE}"]))
        peers.append(await world.run_ms([sys.executable, "-I", "-c", LEAVE]))
    world.say(f"monitor start: {min(ours):.0f} ms, Python alone {min(peers):.0f} ms at best")
    return Figure(
        title="start of a monitor",
        unit="ms",
        values=ours,
        peer=Peer(title="python -c pass", values=peers),
        goal=Goal(limit=MAX_START_MS, of="median"),
    )


async def measure_siblings(world: World, source: VmHandle) -> list[Figure]:
    """`machinen fork --count 8`: what each costs when idle. They are left running."""
    count = ("--count", str(SIBLINGS), "--new-name", "idle", "--json")
    forked_ms = await world.machinen_ms("fork", str(source.pid), *count)
    siblings = [await attach(name=f"idle-{number}") for number in range(1, SIBLINGS + 1)]
    for sibling in siblings:
        await sibling.exec("true")
    await anyio.sleep(SETTLE_S)
    vms, private = list[float](), list[float]()
    for sibling in siblings:
        vm, network = family(sibling.pid)
        vms.append(sum(map(pss_mib, [*vm, *network])))
        private.append(private_mib(sibling.pid))
    idle = await _idle_percent(siblings)
    await siblings[0].pause()
    paused = await _idle_percent(siblings[:1])
    await siblings[0].resume()
    passts = [await _passt_mib(sibling) for sibling in siblings]
    world.say(f"idle fork: {min(vms):.0f} MiB, {min(idle):.2f} % of a core at best")
    return [
        Figure(title=f"machinen fork --count {SIBLINGS}", unit="ms", values=[forked_ms]),
        Figure(
            title="private memory of a monitor",
            unit="MiB",
            values=private,
            goal=Goal(limit=MAX_MONITOR_MIB, of="median"),
        ),
        Figure(
            title="PSS of an idle fork (QEMU + monitor + passt)",
            unit="MiB",
            values=vms,
            goal=Goal(limit=MAX_FORK_MIB, of="median"),
        ),
        Figure(
            title="PSS of a passt, once its guest has sent something", unit="MiB", values=passts
        ),
        Figure(
            title=f"CPU of an idle fork over {IDLE_S} s",
            unit="%",
            values=idle,
            goal=Goal(limit=MAX_IDLE_PERCENT, of="median"),
        ),
        Figure(
            title="of the same when paused",
            unit="%",
            values=paused,
            goal=Goal(limit=MAX_PAUSED_PERCENT, of="median"),
        ),
    ]


async def _passt_mib(sibling: VmHandle) -> float:
    """PSS of a VM's passt, which starts when its guest sends something."""
    await sibling.exec("bash -c 'echo > /dev/udp/10.0.2.2/9'")
    with anyio.fail_after(SETTLE_S):
        while not (passt := family(sibling.pid)[1]):
            await anyio.sleep(0.05)
    await anyio.sleep(0.1)  # while it starts it has two lives: passt, then passt for this processor
    return sum(map(pss_mib, passt))


async def _idle_percent(vms: list[VmHandle]) -> list[float]:
    """Percent of a core each VM used over IDLE_S, monitor included."""
    processes = [[pid for part in family(vm.pid) for pid in part] for vm in vms]
    before = [sum(map(_processor_s, each)) for each in processes]
    started = time.monotonic()
    await anyio.sleep(IDLE_S)
    elapsed = time.monotonic() - started
    after = [sum(map(_processor_s, each)) for each in processes]
    return [100 * (end - begin) / elapsed for begin, end in zip(before, after, strict=True)]


def _processor_s(pid: int) -> float:
    """Processor time of a process and of the threads it has had, to the nanosecond.

    /proc counts in hundredths of a second, a third of what an idle VM may take in ten. The clock's
    number is made as clock_getcpuclockid(3) makes it.
    """
    return time.clock_gettime((~pid << 3) | _CPUCLOCK_SCHED)


def private_mib(pid: int) -> float:
    """Memory of a process that nobody shares, MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


async def measure_commands(world: World, source: VmHandle, repeat: int) -> list[Figure]:
    """`machinen exec` and `machinen ls` in turns with a Python that only imports asyncio.

    Raises:
        RuntimeError: there are not SANDBOXES sandboxes for `ls` to list.
    """
    if len(live_entries()) != SANDBOXES:
        raise RuntimeError(f"{len(live_entries())} sandboxes run, not {SANDBOXES}")
    execs, lists, peers = list[float](), list[float](), list[float]()
    for _ in range(repeat):
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
    ]
