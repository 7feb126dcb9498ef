"""The things a soak does to its sandboxes, each one checked.

A sandbox is taken out of the herd while something is done to it, so that two workers never act on
one. Each carries a number in a file: whatever it is copied to has to have it too. Mounts, forwards,
copies and engine criu are in bench/soak_features.py.
"""

from __future__ import annotations

import random
import signal
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
from anyio import to_thread

from bench.soak_features import Features, Shared, SoakError
from bench.world import World
from machinen_runtime.attach import attach
from machinen_runtime.boot import boot
from machinen_runtime.errors import MachinenError, format_machinen_error
from machinen_runtime.gc import run_gc
from machinen_runtime.handle import VmHandle
from machinen_runtime.paths import remove_tree
from machinen_runtime.pids import signal_process
from machinen_runtime.restore import restore

MEMORY_MIB = 512
MAX_BUNDLES = 3
CRIU_EVERY = 12
"""Sandboxes made between two runs of engine criu."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What a sandbox and all its copies must know: a number, and the mounts they have."""

    number: int
    shared: Shared | None = None
    has_mount: bool = False


@dataclass(slots=True)
class Sheep:
    """One sandbox and what it must remember."""

    vm: VmHandle
    memory: Memory


class Herd:
    """The sandboxes that are free to be acted upon, the bundles, and what has been seen so far."""

    def __init__(self, world: World, choice: random.Random, *, limit: int) -> None:
        self.world = world
        self.choice = choice
        self.limit = limit
        self.alive = 0
        """Sandboxes there are or that are being made, the busy ones included."""
        self.idle: list[Sheep] = []
        self.bundles: list[tuple[Path, Memory]] = []
        self.features = Features(choice)
        self.writing = anyio.Lock()
        self.criu_after = 0
        """How many sandboxes must have been made before engine criu is next."""
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
        try:
            await to_thread.run_sync(self.features.check_host_side)
        except (SoakError, OSError) as error:
            self._failed("the end", str(error))
        await to_thread.run_sync(self.features.end)

    @asynccontextmanager
    async def taken(
        self, *, gone: bool = False, sheep: Sheep | None = None
    ) -> AsyncGenerator[Sheep]:
        """A sandbox for the block, by default any, free again after it.

        It is ended if the block failed, or was `gone` on purpose.
        """
        sheep = sheep or self.choice.choice(self.idle)
        self.idle.remove(sheep)
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
        options, shared, has_mount = herd.features.boot_options()
        memory = Memory(number, shared, has_mount)
        vm = await boot(
            name=herd.next_name(), memory=MEMORY_MIB, network=network, timeout_ms=None, **options
        )
        await _join(herd, Sheep(vm, memory), f"echo {number} >/root/number")


async def _exec(herd: Herd) -> None:
    async with herd.taken() as sheep:
        said = await sheep.vm.exec("cat /root/number; head -c 200000 /dev/zero | wc -c")
        if said.stdout.split() != [str(sheep.memory.number), "200000"]:
            raise SoakError(f"{sheep.vm.name} said {said.stdout!r}, not {sheep.memory.number}")


async def _write(herd: Herd) -> None:
    async with herd.taken() as sheep:
        sheep.memory = replace(sheep.memory, number=herd.choice.randrange(1 << 30))
        await sheep.vm.write_file("/root/number", f"{sheep.memory.number}\n")


async def _fork(herd: Herd) -> None:
    async with herd.place(), herd.taken() as sheep:
        vm = await sheep.vm.fork(name=herd.next_name())
        await _join(herd, Sheep(vm, sheep.memory))


async def _snapshot(herd: Herd) -> None:
    async with herd.taken() as sheep:
        directory = Path(tempfile.mkdtemp(prefix="bundle-"))
        try:
            await sheep.vm.snapshot(out_dir=directory, leave_running=True)
        except BaseException:
            remove_tree(directory)
            raise
        herd.bundles.append((directory, sheep.memory))  # now it can be restored


async def _restore(herd: Herd) -> None:
    directory, memory = herd.bundles.pop(herd.choice.randrange(len(herd.bundles)))
    try:
        async with herd.place():
            vm = await restore(snap_dir=directory, name=herd.next_name(), timeout_ms=None)
            await _join(herd, Sheep(vm, memory))
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


async def _mounts(herd: Herd) -> None:
    mounted = [sheep for sheep in herd.idle if _has_mounts(sheep)]
    async with herd.taken(sheep=herd.choice.choice(mounted)) as sheep:
        await _check_mounts(herd, sheep)


async def _check_mounts(herd: Herd, sheep: Sheep) -> None:
    if sheep.memory.shared is not None:
        async with herd.writing:  # the model is one for all who share the directory
            await herd.features.write_live(sheep.vm, sheep.memory.shared)
    if sheep.memory.has_mount:
        await herd.features.check_mount(sheep.vm)


async def _forward(herd: Herd) -> None:
    async with herd.taken() as sheep:
        await herd.features.forward(sheep.vm)


async def _rename(herd: Herd) -> None:
    async with herd.taken() as sheep:
        name = herd.next_name()
        await sheep.vm.rename(name)
        said = (await (await attach(name=name)).exec("hostname")).stdout.strip()
        if said != name:
            raise SoakError(f"{name} is called {said} in its guest")


async def _copy(herd: Herd) -> None:
    async with herd.taken() as sheep:
        await herd.features.copy(sheep.vm)


async def _attach(herd: Herd) -> None:
    async with herd.taken() as sheep:
        await herd.features.other_client(sheep.vm, str(sheep.memory.number))


async def _criu(herd: Herd) -> None:
    """Rare, for it is slow; only of those without mounts, which its bundles do not all carry."""
    plain = herd.choice.choice([sheep for sheep in herd.idle if not _has_mounts(sheep)])
    herd.criu_after = herd.made + CRIU_EVERY
    async with herd.place(), herd.taken(sheep=plain) as sheep:
        await herd.features.criu(sheep.vm, herd.next_name())
    herd.alive -= 1  # its copy has ended


def _has_mounts(sheep: Sheep) -> bool:
    return sheep.memory.shared is not None or sheep.memory.has_mount


async def _join(herd: Herd, sheep: Sheep, first_command: str = "true") -> None:
    """A new sandbox joins once it has answered with its number; else it is ended."""
    try:
        await sheep.vm.exec(first_command)
        said = (await sheep.vm.exec("cat /root/number")).stdout.strip()
        if said != str(sheep.memory.number):
            raise SoakError(f"{sheep.vm.name} remembers {said!r}, not {sheep.memory.number}")
        await _check_mounts(herd, sheep)
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
    "mounts": Action(_mounts, 4, lambda herd: any(_has_mounts(sheep) for sheep in herd.idle)),
    "forward": Action(_forward, 3, lambda herd: bool(herd.idle)),
    "rename": Action(_rename, 2, lambda herd: bool(herd.idle)),
    "copy": Action(_copy, 2, lambda herd: bool(herd.idle)),
    "attach": Action(_attach, 2, lambda herd: bool(herd.idle)),
    "criu": Action(
        _criu,
        8,
        lambda herd: (
            _has_place(herd)
            and herd.made >= herd.criu_after
            and any(not _has_mounts(sheep) for sheep in herd.idle)
        ),
    ),
    "stop": Action(_stop, 3, lambda herd: len(herd.idle) > 1),
    "kill -9": Action(_murder, 2, lambda herd: len(herd.idle) > 1),
}
