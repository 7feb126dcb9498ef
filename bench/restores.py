"""Restores: from a bundle on disk, beside QEMU's own snapshots and beside CRIU."""

from __future__ import annotations

from collections.abc import Mapping

from anyio import to_thread

from bench.figures import Figure, Peer, median_phases
from bench.forks import timed
from bench.plain_qemu import SavedMachine
from bench.world import World
from machinen_runtime.boot import boot
from machinen_runtime.handle import VmHandle
from machinen_runtime.options import auto_size_memory_mib
from machinen_runtime.paths import remove_tree
from machinen_runtime.restore import restore

CRIU_RESTORES = 3
"""Each boots a kernel first: CRIU restores processes, not machines."""


async def measure_restores(world: World, source: VmHandle, repeat: int) -> list[Figure]:
    """A bundle synced to disk, restores from it, and the same from a disk's own snapshot."""
    bundle = world.directory / "bundle"
    taken, answered, loaded = list[float](), list[float](), list[float]()
    phases: list[Mapping[str, float]] = []
    saved = await to_thread.run_sync(
        SavedMachine, world.directory / "saved", auto_size_memory_mib()
    )
    for _ in range(repeat):
        await to_thread.run_sync(remove_tree, bundle)
        result = await source.snapshot(out_dir=bundle, leave_running=True)
        taken.append(result.elapsed_ms)
        elapsed_ms, copy = await timed(lambda: restore(snap_dir=bundle, name="restored"))
        async with copy:
            answered.append(elapsed_ms)
            phases.append(copy.phases)
        loaded.append(await to_thread.run_sync(saved.answer_ms))
    world.say(f"restore: {min(answered):.0f} ms, qemu -loadvm {min(loaded):.0f} ms at best")
    size = sum(path.stat().st_blocks * 512 for path in bundle.rglob("*")) / (1 << 20)
    criu = await _criu_restores(world)
    return [
        Figure(title="snapshot to a synced bundle", unit="ms", values=taken),
        Figure(title="size of the bundle", unit="MiB", values=[size]),
        Figure(
            title="restore to first answer",
            unit="ms",
            values=answered,
            peer=Peer(title="qemu -loadvm", values=loaded),
            phases=median_phases(phases),
        ),
        Figure(
            title="the same beside engine criu",
            unit="ms",
            values=answered,
            peer=Peer(title="CRIU in a fresh guest", values=criu),
        ),
    ]


async def _criu_restores(world: World) -> list[float]:
    """A process in session `main`, dumped and restored by CRIU."""
    bundle, values = world.directory / "criu", list[float]()
    async with await boot(name="criu-source", cmd=["sleep", "1000000"], warm=False) as source:
        await source.exec("true")
        await source.snapshot(out_dir=bundle, engine="criu", leave_running=True)
    for _ in range(CRIU_RESTORES):
        elapsed_ms, copy = await timed(lambda: restore(snap_dir=bundle, name="criu-copy"))
        async with copy:
            values.append(elapsed_ms)
    world.say(f"restore by CRIU: {min(values):.0f} ms at best")
    return values
