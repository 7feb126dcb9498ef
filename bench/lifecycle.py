"""Every figure with a goal, and how costs grow, in one run: what `python -m bench` measures.

Peers are measured in turns with ours, so a machine that is slow today is slow for both.
"""

from __future__ import annotations

from bench import boots, channel, density, forks, forwards, growth, memory, restores, standby
from bench.figures import Figure
from bench.growth import Curve
from bench.world import World, end_all
from machinen_runtime.boot import boot

FORWARD_RUNS = 2


async def measure(world: World, repeat: int, siblings: int) -> list[Figure]:
    """Every figure, in the order of the table."""
    figures = [await density.measure_monitor_start(world, repeat)]
    figures += await boots.measure_boots(world, repeat)
    warm_boots = next(each for each in figures if each.title == boots.WARM_TITLE)
    figures += await standby.measure_standby_boots(world, repeat, warm_boots)
    async with await boot(name="source") as source:
        await source.exec("true")
        figures += await forks.measure_forks(world, source, repeat)
        figures += await forks.measure_generations(world, source, repeat)
        figures += await restores.measure_restores(world, source, repeat)
        figures += await memory.measure_given_back(world, source)
        figures += await forwards.measure_forwards(world, source, FORWARD_RUNS)
        figures += await density.measure_siblings(world, source)
        async with await source.fork(name="tenth"):
            figures += await density.measure_commands(world, source, repeat)
    await end_all()
    figures += await channel.measure_channel(world, repeat)
    async with await boot(name="source") as source:
        await source.exec("true")
        figures += await forks.measure_siblings(world, source, siblings)
    return figures


async def measure_growth(world: World, figures: list[Figure]) -> list[Curve]:
    """The curves; the generations' is among `figures` already."""
    curves = [*await growth.grow_memory(world), *await growth.grow_disk(world)]
    async with await boot(name="source") as source:
        await source.exec("true")
        curves.append(await growth.grow_siblings(world, source))
    chains = [each.series for each in figures if each.series]
    return [*curves, *map(growth.generations, chains)]
