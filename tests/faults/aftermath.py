"""What must hold after every fault: a clear error, the source alive, nothing left, nothing lost."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import anyio
from anyio import to_thread
from psutil import STATUS_ZOMBIE, NoSuchProcess, Process

from bench.leftovers import Places, find_leftovers, open_descriptors
from machinen_runtime.errors import ErrorCode, MachinenError
from machinen_runtime.gc import run_gc
from machinen_runtime.handle import VmHandle
from machinen_runtime.pids import child_pids
from tests.vm.child import heeding

KEPT = "what the source must not lose\n"
KEEP = f"printf '{KEPT.strip()}\\n' >/root/kept; cp /root/kept /dev/shm/kept; sync"
PATIENCE_S = 60
STRAY = "stray processes: "


class Scene:
    """A VM that shall survive what happens beside it, and what there was before that."""

    def __init__(self, home: Path, source: VmHandle, faults: Path) -> None:
        self.home = home
        self.source = source
        self.faults = faults
        self.snapshots = home / "snapshots"
        self.snapshots.mkdir(exist_ok=True)
        self._descriptors = open_descriptors()
        self._children = child_pids(os.getpid())
        self._before = self._found()
        self._passts = passts_of(source)

    async def accept_new_passt(self) -> None:
        """The source has one passt again: from here on it is what there was before."""
        with anyio.fail_after(PATIENCE_S):
            while (found := passts_of(self.source)) == self._passts or len(found) != 1:
                await anyio.sleep(0.05)
        self._before, self._passts = self._found(), found

    def arm(self, moment: str, victim: str) -> None:
        """Have `victim` killed at that moment, see tests/faults/faulty_vmm.py."""
        (self.faults / f"{moment}.{victim}").touch()

    async def kill_wanted(self, moment: str) -> None:
        """Kill the process that a monitor at that moment says it may not kill itself."""
        wanted = self.faults / f"{moment}.wanted"
        with anyio.fail_after(PATIENCE_S):
            while not wanted.exists():
                await anyio.sleep(0.01)
        os.kill(int(wanted.read_text()), signal.SIGKILL)
        wanted.unlink()

    def assert_struck(self) -> None:
        """What was armed has happened."""
        assert [path.name for path in self.faults.iterdir()] == []

    async def killed_client(self, operation: str, moment: str, **options: object) -> None:
        """Let a client do something, and be killed at that moment."""
        argv = [sys.executable, "-m", "tests.faults.client", operation, moment, json.dumps(options)]
        with anyio.fail_after(PATIENCE_S):
            ended = await anyio.run_process(heeding(*argv), check=False)
        assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
        self.assert_struck()

    async def assert_sound(self, vm: VmHandle | None = None) -> None:
        """The source (or `vm`) runs, answers, and has what it had."""
        with anyio.fail_after(PATIENCE_S):
            said = await (vm or self.source).exec("cat /root/kept /dev/shm/kept && sync")
        assert said.stdout == KEPT * 2

    async def assert_nothing_left(self, *, gc: bool = False) -> None:
        """All is as it was before the fault; `gc`: after who was killed, somebody tidies up."""
        found: set[str] = set()
        with anyio.move_on_after(PATIENCE_S):
            while found := await to_thread.run_sync(self._new):
                if gc:
                    await to_thread.run_sync(run_gc)
                await anyio.sleep(0.1)
        assert not found, f"left behind: {sorted(found)}"

    def _new(self) -> set[str]:
        before = {_identity(each) for each in self._before}
        return {each for each in self._found() if _identity(each) not in before}

    def _found(self) -> set[str]:
        places = Places(
            registry=self.home / "vms",
            machines=self.home / "m",
            sockets=self.home / "r",
            temporary=self.snapshots,
        )
        left = find_leftovers(places, self._descriptors, self._children)
        crashes = self.home / "crashes"
        assert not any(path.name.startswith(".") for path in crashes.glob("*"))
        return {f"{kind}: {item}" for kind, items in left.rows() for item in items}


def _identity(found: str) -> str:
    """A process without its name, which it may change: passt becomes passt.avx2."""
    process = found.removeprefix(STRAY)
    return found if process == found else process.partition(" ")[0]


def passts_of(vm: VmHandle) -> list[int]:
    """The network processes of a VM that have not ended."""
    found: list[int] = []
    for child in Process(vm.pid).children():
        with suppress(NoSuchProcess):  # it ends as we look
            if child.name().startswith("passt") and child.status() != STATUS_ZOMBIE:
                found.append(child.pid)
    return found


def assert_clear(error: MachinenError, *codes: ErrorCode) -> None:
    """A code of those, and a sentence that is no repr of something internal."""
    assert error.code in codes, f"{error.code}: {error}"
    sentence = str(error).partition("\n")[0]
    assert " " in sentence, sentence
    assert not any(sign in sentence for sign in ("Traceback", "Errno", "Exception", "object at"))
