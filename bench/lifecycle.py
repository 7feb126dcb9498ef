"""Boot, fork, restore: from the request to the first answer of a command in the guest."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio
from anyio import to_thread

from bench.figures import Figure, Goal, Peer
from bench.plain_qemu import boot_plain_qemu_ms
from bench.world import World, family, pss_mib
from machinen_runtime.attach import attach
from machinen_runtime.boot import boot
from machinen_runtime.errors import MachinenError
from machinen_runtime.handle import VmHandle
from machinen_runtime.paths import remove_tree
from machinen_runtime.restore import restore
from machinen_runtime.template_cache import list_templates

MAX_PAUSE_MS = 250
MAX_FORK_MS = 1000
MAX_PSS_MIB = 80
SIBLINGS = 8
SETTLE_S = 3
"""A fresh fork still works off what its epoch woke up; idle figures begin after that."""


async def measure_boots(world: World, repeat: int) -> Figure:
    """Cold boots in turns with plain QEMU."""
    ours: list[float] = []
    peers: list[float] = []
    phases: list[Mapping[str, float]] = []
    for number in range(1, repeat + 1):
        elapsed_ms, boot_phases = await _boot_once(f"boot-{number}", warm=False)
        ours.append(elapsed_ms)
        phases.append(boot_phases)
        peers.append(await to_thread.run_sync(boot_plain_qemu_ms))
        world.say(f"boot {number}: {elapsed_ms:.0f} ms, plain QEMU {peers[-1]:.0f} ms")
    return Figure(
        title="cold boot to first answer",
        unit="ms",
        values=ours,
        peer=Peer(title="plain QEMU to HELLO", values=peers),
        phases=median_phases(phases),
    )


async def measure_warm_boots(world: World, repeat: int, cold: Figure) -> list[Figure]:
    """Boots from a template, which a boot before them keeps, beside plain QEMU as measured there.

    Raises:
        RuntimeError: a boot was cold all the same.
    """
    ours: list[float] = []
    phases: list[Mapping[str, float]] = []
    await _boot_once("template", warm=True)
    for number in range(1, repeat + 1):
        elapsed_ms, boot_phases = await _boot_once(f"warm-{number}", warm=True)
        if "device-state" not in boot_phases:
            raise RuntimeError("a boot was cold though there should be a template")
        ours.append(elapsed_ms)
        phases.append(boot_phases)
        world.say(f"warm boot {number}: {elapsed_ms:.0f} ms")
    assert cold.peer is not None
    sizes = [each.size_bytes / (1 << 20) for each in list_templates()[:1]]
    return [
        Figure(
            title="warm boot to first answer",
            unit="ms",
            values=ours,
            peer=cold.peer,
            phases=median_phases(phases),
        ),
        Figure(
            title="the same beside a cold boot",
            unit="ms",
            values=ours,
            peer=Peer(title="cold boot", values=cold.values),
        ),
        Figure(title="size of its template", unit="MiB", values=sizes),
    ]


async def measure_boots_in_a_row(world: World, boots: int) -> Figure:
    """How many of `boots` answer; the last thing of a run, since it takes the longest."""
    answered = 0
    for number in range(1, boots + 1):
        try:
            elapsed_ms, _ = await _boot_once(f"row-{number}", warm=False)
        except MachinenError as error:
            world.say(f"boot {number} of {boots}: ({error.code}) {error}")
        else:
            answered += 1
            world.say(f"boot {number} of {boots}: {elapsed_ms:.0f} ms")
    goal = Goal(limit=boots, at_least=True)
    return Figure(title="boots in a row that answered", unit="", values=[answered], goal=goal)


async def _boot_once(name: str, *, warm: bool) -> tuple[float, Mapping[str, float]]:
    started = time.monotonic()
    async with await boot(name=name, warm=warm) as vm:
        await vm.exec("true")
        return (time.monotonic() - started) * 1000, vm.phases


async def measure_forks(world: World, source: VmHandle, repeat: int, cold: Figure) -> list[Figure]:
    """Forks of one source by the API, each ended before the next."""
    asked: list[float] = []
    paused: list[float] = []
    snapshots: list[Mapping[str, float]] = []
    restores: list[Mapping[str, float]] = []
    for number in range(repeat):
        elapsed_ms, fork = await _timed(lambda: source.fork(name="fork"))
        async with fork:
            assert fork.forked_by is not None
            asked.append(elapsed_ms)
            paused.append(fork.forked_by.paused_ms)
            snapshots.append(fork.forked_by.phases)
            restores.append(fork.phases)
        world.say(f"fork {number + 1}: {asked[-1]:.0f} ms, source paused {paused[-1]:.0f} ms")
    return [
        Figure(
            title="source paused by a fork",
            unit="ms",
            values=paused,
            goal=Goal(limit=MAX_PAUSE_MS),
            phases=median_phases(snapshots),
        ),
        Figure(
            title="fork request to first answer (API)",
            unit="ms",
            values=asked,
            peer=Peer(title="cold boot", values=cold.values),
            goal=Goal(limit=MAX_FORK_MS),
            phases=median_phases(restores),
        ),
    ]


async def measure_cli_forks(world: World, source: VmHandle, repeat: int) -> Figure:
    """`machinen fork` and then `machinen exec`: two processes of Python on top."""
    values: list[float] = []
    for number in range(repeat):
        name = f"cli-{number + 1}"
        forked = await world.machinen_ms("fork", str(source.pid), "--new-name", name, "--detach")
        answered = await world.machinen_ms("exec", name, "--", "true")
        values.append(forked + answered)
        await (await attach(name=name)).kill()
        world.say(f"machinen fork {forked:.0f} ms, machinen exec {answered:.0f} ms")
    return Figure(
        title="machinen fork + machinen exec",
        unit="ms",
        values=values,
        goal=Goal(limit=MAX_FORK_MS),
    )


async def measure_generations(world: World, source: VmHandle, repeat: int) -> list[Figure]:
    """A fork of a fork of a fork, which must still know what its first ancestor wrote to memory."""
    await source.exec("echo from the first > /run/heritage")
    asked: list[float] = []
    paused: list[float] = []
    for number in range(repeat):
        async with (
            await source.fork(name="second") as second,
            await second.fork(name="third") as third,
        ):
            elapsed_ms, fourth = await _timed(lambda third=third: third.fork(name="fourth"))
            async with fourth:
                heritage = (await fourth.exec("cat /run/heritage")).stdout.strip()
                if heritage != "from the first":
                    raise RuntimeError(f"the third generation read {heritage!r}")
                assert fourth.forked_by is not None
                asked.append(elapsed_ms)
                paused.append(fourth.forked_by.paused_ms)
        world.say(f"third generation {number + 1}: {asked[-1]:.0f} ms")
    return [
        Figure(
            title="third-generation fork to first answer",
            unit="ms",
            values=asked,
            goal=Goal(limit=MAX_FORK_MS),
        ),
        Figure(title="its source paused", unit="ms", values=paused, goal=Goal(limit=MAX_PAUSE_MS)),
    ]


async def measure_restores(
    world: World, source: VmHandle, repeat: int, cold: Figure
) -> list[Figure]:
    """A bundle synced to disk, and restores from it."""
    bundle = world.directory / "bundle"
    taken: list[float] = []
    answered: list[float] = []
    phases: list[Mapping[str, float]] = []
    for number in range(repeat):
        await to_thread.run_sync(remove_tree, bundle)
        result = await source.snapshot(out_dir=bundle, leave_running=True)
        taken.append(result.elapsed_ms)
        elapsed_ms, restored = await _timed(lambda: restore(snap_dir=bundle, name="restored"))
        async with restored:
            answered.append(elapsed_ms)
            phases.append(restored.phases)
        world.say(f"restore {number + 1}: {elapsed_ms:.0f} ms, snapshot {taken[-1]:.0f} ms")
    size = sum(path.stat().st_blocks * 512 for path in bundle.rglob("*")) / (1 << 20)
    return [
        Figure(title="snapshot to a synced bundle", unit="ms", values=taken),
        Figure(title="size of the bundle", unit="MiB", values=[size]),
        Figure(
            title="restore to first answer",
            unit="ms",
            values=answered,
            peer=Peer(title="cold boot", values=cold.values),
            phases=median_phases(phases),
        ),
    ]


async def measure_siblings(world: World, source: VmHandle) -> list[Figure]:
    """`machinen fork --count 8`: all answer; what each costs when idle. They are left running."""
    count = ("--count", str(SIBLINGS), "--new-name", "sib", "--json")
    forked_ms = await world.machinen_ms("fork", str(source.pid), *count)
    siblings = [await attach(name=f"sib-{number}") for number in range(1, SIBLINGS + 1)]
    hosts = [(await sibling.exec("hostname")).stdout.strip() for sibling in siblings]
    answered = sum(host == sibling.name for host, sibling in zip(hosts, siblings, strict=True))
    world.say(f"fork --count {SIBLINGS}: {forked_ms:.0f} ms, {answered} answered")
    await anyio.sleep(SETTLE_S)
    vms: list[float] = []
    networks: list[float] = []
    for sibling in siblings:
        vm, network = family(sibling.pid)
        vms.append(sum(map(pss_mib, vm)))
        networks.append(sum(map(pss_mib, network)))
    return [
        Figure(title=f"machinen fork --count {SIBLINGS}", unit="ms", values=[forked_ms]),
        Figure(
            title="of them answered",
            unit="",
            values=[answered],
            goal=Goal(limit=SIBLINGS, at_least=True),
        ),
        Figure(
            title="PSS of an idle fork (QEMU + monitor)",
            unit="MiB",
            values=vms,
            goal=Goal(limit=MAX_PSS_MIB),
        ),
        Figure(title="PSS of its passt", unit="MiB", values=networks),
    ]


async def _timed(start: Callable[[], Awaitable[VmHandle]]) -> tuple[float, VmHandle]:
    """Milliseconds from the call to the VM's first answer, and the VM."""
    started = time.monotonic()
    vm = await start()
    await vm.exec("true")
    return (time.monotonic() - started) * 1000, vm


def median_phases(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each phase over several runs."""
    names = list(dict.fromkeys(name for run in runs for name in run))
    return {name: statistics.median(run.get(name, 0.0) for run in runs) for name in names}
