"""A place of its own for a benchmark: registry, disks, sockets; and its end, whatever happens."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE, STDOUT

import anyio
import psutil
from anyio import to_thread
from rich.console import Console

from machinen_runtime.attach import attach
from machinen_runtime.errors import MachinenError
from machinen_runtime.gc import run_gc
from machinen_runtime.paths import ensure_private_dir, home_root, remove_tree
from machinen_runtime.registry import live_entries

MACHINEN = str(Path(sys.executable).with_name("machinen"))


class World:
    """Where a benchmark runs its sandboxes, and how it runs commands there."""

    def __init__(self, directory: Path, sockets: Path, console: Console) -> None:
        self.directory = directory
        self.sockets = sockets
        """For sockets: a short path."""
        self.console = console

    def say(self, text: str) -> None:
        """Tell the user what goes on."""
        self.console.print(text, highlight=False, style="dim")

    async def run_ms(self, argv: Sequence[str]) -> float:
        """Milliseconds a command takes, its output thrown away.

        Raises:
            RuntimeError: it failed, with what it said.
        """
        started = time.monotonic()
        done = await anyio.run_process(list(argv), stdout=PIPE, stderr=STDOUT, check=False)
        elapsed_ms = (time.monotonic() - started) * 1000
        if done.returncode:
            said = done.stdout.decode("utf-8", "replace").strip()
            raise RuntimeError(f"{' '.join(argv)} exited with {done.returncode}: {said}")
        return elapsed_ms

    async def machinen_ms(self, *arguments: str) -> float:
        """Milliseconds `machinen …` takes."""
        return await self.run_ms([MACHINEN, *arguments])


@asynccontextmanager
async def own_world(console: Console) -> AsyncGenerator[World]:
    """Directories of its own for the length of the block; leaving it ends every VM started in it.

    Disks lie below `~/.machinen`, on the file system a user's would; sockets below the directory
    for temporary files, since their paths must be short. Caches are the user's: a warm one is the
    usual case.

    Raises:
        RuntimeError: a process of a VM outlived the VM.
    """
    directory = Path(tempfile.mkdtemp(prefix="bench-", dir=ensure_private_dir(home_root())))
    sockets = Path(tempfile.mkdtemp(prefix="mnb-"))
    os.environ.update(
        MACHINEN_REGISTRY_DIR=str(directory / "vms"),
        MACHINEN_STATE_DIR=str(directory / "machines"),
        MACHINEN_DETACHED_LOG_DIR=str(directory / "logs"),
        MACHINEN_RUNTIME_DIR=str(sockets),
        MACHINEN_STANDBY="0",  # nothing gets ready beside a measurement; bench/standby.py says so
    )
    survivors: list[int] = []
    try:
        yield World(directory, sockets, console)
    finally:
        with anyio.CancelScope(shield=True):
            await end_all()
            survivors = await to_thread.run_sync(_processes_of, sockets)
            for path in (directory, sockets):
                await to_thread.run_sync(remove_tree, path)
        if survivors:
            raise RuntimeError(f"processes outlived their VM: {survivors}")


async def end_all() -> None:
    """Kill every VM of this world and wait until it is gone."""
    for entry in live_entries():
        try:
            vm = await attach(pid=entry.pid)
            await vm.kill()
        except MachinenError:
            run_gc(pid=entry.pid)  # it was gone already
    run_gc()


def _processes_of(sockets: Path) -> list[int]:
    """Processes that still have a path of this world in their command line."""
    found: list[int] = []
    for process in psutil.process_iter(["cmdline"]):
        cmdline: list[str] = process.info["cmdline"] or []
        if any(str(sockets) in argument for argument in cmdline):
            found.append(process.pid)
    return found


def family(monitor_pid: int) -> tuple[list[int], list[int]]:
    """The pids of a VM: (monitor and QEMU, passt)."""
    vm, network = [monitor_pid], list[int]()
    for child in psutil.Process(monitor_pid).children(recursive=True):
        (network if child.name().startswith("passt") else vm).append(child.pid)
    return vm, network


def pss_mib(pid: int) -> float:
    """Proportional set size of a process, MiB: shared pages count by the number of sharers."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no Pss in /proc/{pid}/smaps_rollup")
