"""The things a soak does to its sandboxes, each one checked.

A sandbox is taken out of the herd while something is done to it, so that two workers never act on
one. Each carries a number in a file and in a shell variable's process: whatever it is copied to has
to have it too.
"""

from __future__ import annotations

import random
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from anyio import to_thread

from bench.world import World
from machinen_runtime.boot import boot
from machinen_runtime.errors import MachinenError, format_machinen_error
from machinen_runtime.gc import run_gc
from machinen_runtime.handle import VmHandle
from machinen_runtime.paths import remove_tree
from machinen_runtime.pids import signal_process
from machinen_runtime.restore import restore

MEMORY_MIB = 512
MAX_BUNDLES = 3


class SoakError(RuntimeError):
    """A sandbox answered, but not what it should have."""


@dataclass(slots=True)
class Sheep:
    """One sandbox and the number it must remember."""

    vm: VmHandle
    number: int


class Herd:
    """The sandboxes that are free to be acted upon, the bundles, and what has been seen so far."""

    def __init__(self, world: World, choice: random.Random, *, limit: int) -> None:
        self.world = world
        self.choice = choice
        self.limit = limit
        self.alive = 0
        """Sandboxes there are or that are being made, the busy ones included."""
        self.idle: list[Sheep] = []
        self.bundles: list[tuple[Path, int]] = []
        self.made = 0
        self.times_ms: defaultdict[str, list[float]] = defaultdict(list)
        self.failures: list[str] = []

    async def act(self) -> None:
        """Do one thing that can be done now."""
        possible = [name for name, action in ACTIONS.items() if action.possible(self)]
        weights = [ACTIONS[name].weight for name in possible]
        name = self.choice.choices(possible, weights)[0]
        started = time.monotonic()
        try:
            await ACTIONS[name].act(self)
        except MachinenError as error:
            self._failed(name, format_machinen_error(error))
        except (SoakError, OSError) as error:
            self._failed(name, str(error))
        else:
            self.times_ms[name].append((time.monotonic() - started) * 1000)

    async def end(self) -> None:
        """Close every handle that is left and remove the bundles."""
        for sheep in self.idle:
            await end_sandbox(sheep.vm)
        self.idle.clear()
        for directory, _ in self.bundles:
            await to_thread.run_sync(remove_tree, directory)

    @asynccontextmanager
    async def taken(self, *, gone: bool = False) -> AsyncGenerator[Sheep]:
        """A random sandbox for the block, free again after it.

        It is ended if the block failed, or was `gone` on purpose.
        """
        sheep = self.idle.pop(self.choice.randrange(len(self.idle)))
        given_back = False
        try:
            yield sheep
            given_back = not gone
        finally:
            if given_back:
                self.idle.append(sheep)
            else:
                self.alive -= 1
                await end_sandbox(sheep.vm)

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[None]:
        """A place for one more sandbox, given back if the block fails to fill it."""
        self.alive += 1
        try:
            yield
        except BaseException:
            self.alive -= 1
            raise

    def next_name(self) -> str:
        """A name no sandbox has had."""
        self.made += 1
        return f"soak-{self.made}"

    def _failed(self, name: str, why: str) -> None:
        self.failures.append(f"{name}: {why}")
        self.world.say(f"{name} failed: {why}")


async def end_sandbox(vm: VmHandle) -> None:
    """End a sandbox, whatever state it is in, and close what the handle holds."""
    with anyio.CancelScope(shield=True):
        await vm.kill()
        await vm.detach()


async def _boot(herd: Herd) -> None:
    number = herd.choice.randrange(1 << 30)
    network = herd.choice.choice(["full", "none"])
    async with herd.place():
        vm = await boot(name=herd.next_name(), memory=MEMORY_MIB, network=network, timeout_ms=None)
        await _join(herd, Sheep(vm, number), f"echo {number} >/root/number")


async def _exec(herd: Herd) -> None:
    async with herd.taken() as sheep:
        said = await sheep.vm.exec("cat /root/number; head -c 200000 /dev/zero | wc -c")
        if said.stdout.split() != [str(sheep.number), "200000"]:
            raise SoakError(f"{sheep.vm.name} said {said.stdout!r}, not {sheep.number}")


async def _write(herd: Herd) -> None:
    async with herd.taken() as sheep:
        sheep.number = herd.choice.randrange(1 << 30)
        await sheep.vm.write_file("/root/number", f"{sheep.number}\n")


async def _fork(herd: Herd) -> None:
    async with herd.place(), herd.taken() as sheep:
        vm = await sheep.vm.fork(name=herd.next_name())
        await _join(herd, Sheep(vm, sheep.number))


async def _snapshot(herd: Herd) -> None:
    async with herd.taken() as sheep:
        directory = Path(tempfile.mkdtemp(prefix="bundle-"))
        herd.bundles.append((directory, sheep.number))
        try:
            await sheep.vm.snapshot(out_dir=directory, leave_running=True)
        except BaseException:
            herd.bundles.remove((directory, sheep.number))
            remove_tree(directory)
            raise


async def _restore(herd: Herd) -> None:
    directory, number = herd.bundles.pop(herd.choice.randrange(len(herd.bundles)))
    try:
        async with herd.place():
            vm = await restore(snap_dir=directory, name=herd.next_name(), timeout_ms=None)
            await _join(herd, Sheep(vm, number))
    finally:
        remove_tree(directory)  # a sandbox that maps its memory does so until it ends


async def _pause(herd: Herd) -> None:
    async with herd.taken() as sheep:
        await sheep.vm.pause()
        await sheep.vm.resume()


async def _stop(herd: Herd) -> None:
    async with herd.taken(gone=True) as sheep:
        await sheep.vm.stop()


async def _murder(herd: Herd) -> None:
    """What a user's `kill -9` does: nobody tidies up before `gc`."""
    async with herd.taken(gone=True) as sheep:
        signal_process(sheep.vm.pid, sheep.vm.entry, signal.SIGKILL)
        await sheep.vm.wait()
        run_gc(pid=sheep.vm.pid)


async def _join(herd: Herd, sheep: Sheep, first_command: str = "true") -> None:
    """A new sandbox joins once it has answered with its number; else it is ended."""
    try:
        await sheep.vm.exec(first_command)
        said = (await sheep.vm.exec("cat /root/number")).stdout.strip()
        if said != str(sheep.number):
            raise SoakError(f"{sheep.vm.name} remembers {said!r}, not {sheep.number}")
    except BaseException:
        await end_sandbox(sheep.vm)
        raise
    herd.idle.append(sheep)


def _has_place(herd: Herd) -> bool:
    return herd.alive < herd.limit


@dataclass(frozen=True, slots=True)
class Action:
    """Something a worker can do, how often it is chosen, and when it can be."""

    act: Callable[[Herd], Awaitable[None]]
    weight: int
    possible: Callable[[Herd], bool]


ACTIONS = {
    "boot": Action(_boot, 4, _has_place),
    "exec": Action(_exec, 12, lambda herd: bool(herd.idle)),
    "write": Action(_write, 4, lambda herd: bool(herd.idle)),
    "fork": Action(_fork, 6, lambda herd: _has_place(herd) and bool(herd.idle)),
    "snapshot": Action(
        _snapshot, 3, lambda herd: bool(herd.idle) and len(herd.bundles) < MAX_BUNDLES
    ),
    "restore": Action(_restore, 4, lambda herd: _has_place(herd) and bool(herd.bundles)),
    "pause": Action(_pause, 3, lambda herd: bool(herd.idle)),
    "stop": Action(_stop, 3, lambda herd: len(herd.idle) > 1),
    "kill -9": Action(_murder, 2, lambda herd: len(herd.idle) > 1),
}
