"""Boots: from the request to the first answer of a command in the guest."""

from __future__ import annotations

import time
from collections.abc import Mapping

from anyio import to_thread

from bench.figures import Figure, Peer, median_phases
from bench.plain_login import PlainLogin
from bench.plain_qemu import boot_plain_qemu_ms
from bench.world import World
from machinen_runtime.boot import boot
from machinen_runtime.template_cache import list_templates

WARM_TITLE = "warm boot to first answer, nothing stood ready"
COLD_BOOTS = 5
"""Nothing is promised of them, and each takes seconds."""


async def measure_boots(world: World, repeat: int) -> list[Figure]:
    """Warm boots in turns with plain QEMU to a login; cold ones in turns with plain QEMU to HELLO.

    Raises:
        RuntimeError: a boot was cold though there should be a template.
    """
    figures = await _warm(world, repeat)
    cold, hello, phases = list[float](), list[float](), list[Mapping[str, float]]()
    for number in range(1, min(repeat, COLD_BOOTS) + 1):
        elapsed_ms, boot_phases = await boot_once(f"cold-{number}", warm=False)
        cold.append(elapsed_ms)
        phases.append(boot_phases)
        hello.append(await to_thread.run_sync(boot_plain_qemu_ms))
    world.say(f"cold boot: {min(cold):.0f} ms, plain QEMU to HELLO {min(hello):.0f} ms at best")
    figures.append(
        Figure(
            title="cold boot to first answer",
            unit="ms",
            values=cold,
            peer=Peer(title="plain QEMU to HELLO", values=hello),
            phases=median_phases(phases),
        )
    )
    return figures


async def _warm(world: World, repeat: int) -> list[Figure]:
    plain = await to_thread.run_sync(PlainLogin, world.directory)
    ours, logins, phases = list[float](), list[float](), list[Mapping[str, float]]()
    await boot_once("template", warm=True)
    for number in range(1, repeat + 1):
        elapsed_ms, boot_phases = await boot_once(f"warm-{number}", warm=True)
        if "device-state" not in boot_phases:
            raise RuntimeError("a boot was cold though there should be a template")
        ours.append(elapsed_ms)
        phases.append(boot_phases)
        logins.append(await to_thread.run_sync(plain.boot_ms))
    world.say(f"warm boot: {min(ours):.0f} ms, plain QEMU to a login {min(logins):.0f} ms at best")
    sizes = [each.size_bytes / (1 << 20) for each in list_templates()[:1]]
    return [
        Figure(
            title=WARM_TITLE,
            unit="ms",
            values=ours,
            peer=Peer(title="plain QEMU to a login", values=logins),
            phases=median_phases(phases),
        ),
        Figure(title="size of its template", unit="MiB", values=sizes),
    ]


async def boot_once(
    name: str | None, *, warm: bool, memory: int | None = None
) -> tuple[float, Mapping[str, float]]:
    """Milliseconds to the first answer of a VM that is gone on return, and its phases."""
    started = time.monotonic()
    async with await boot(name=name, warm=warm, memory=memory) as vm:
        await vm.exec("true")
        return (time.monotonic() - started) * 1000, vm.phases
