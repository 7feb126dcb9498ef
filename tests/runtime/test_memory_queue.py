"""VMs that wait until the host has memory to spare: one after the other, and not for ever."""

from __future__ import annotations

import fcntl
import math
import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from machinen_runtime import memory, memory_queue, paths
from machinen_runtime.cli_support import progress
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.memory_queue import memory_turn, read_memory_stall_percent
from machinen_runtime.options import BootOptions, ForkOptions, LaunchOptions, RestoreOptions

pytestmark = pytest.mark.usefixtures("machinen_home")
MIB = 1 << 20


class Host:
    """A host of 10,000 MiB whose memory is what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free_mib = 5000
        self.stalled_percent = 0.0
        self.later: list[int] = []
        """What is free at the next looks."""
        monkeypatch.setattr(memory_queue, "read_host_free_bytes", self._free)
        monkeypatch.setattr(memory, "read_host_free_bytes", self._free)
        for module in (memory, memory_queue):
            monkeypatch.setattr(module, "read_host_total_bytes", lambda: 10_000 * MIB)
        monkeypatch.setattr(memory_queue, "read_memory_stall_percent", lambda: self.stalled_percent)
        monkeypatch.setattr(memory_queue, "LOOK_S", 0.01)

    async def _free(self) -> int:
        if self.later:
            self.free_mib = self.later.pop(0)
        return self.free_mib * MIB


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(monkeypatch)


async def enter(options: LaunchOptions) -> None:
    with anyio.fail_after(60):
        async with memory_turn(options):
            pass


async def test_a_fork_that_does_not_wait_is_refused_at_once(host: Host) -> None:
    host.free_mib = 99
    with pytest.raises(BootError) as caught:
        await enter(ForkOptions())
    assert (caught.value.code, caught.value.retryable) == (ErrorCode.FORK_MEMORY_BACKPRESSURE, True)
    await enter(ForkOptions(free_memory_threshold=0))
    await enter(BootOptions())  # only who is asked to waits, or is refused


@pytest.mark.parametrize("kind", ["boot", "fork", "restore"])
async def test_whoever_waits_goes_on_when_there_is_memory(host: Host, kind: str) -> None:
    said: list[str] = []
    host.later = [10, 10, 60, 200]
    options: dict[str, LaunchOptions] = {
        "boot": BootOptions(wait_for_memory_ms=None, on_wait=said.append),
        "fork": ForkOptions(wait_for_memory_ms=None, on_wait=said.append),
        "restore": RestoreOptions(snap_dir="/s", wait_for_memory_ms=None, on_wait=said.append),
    }
    await enter(options[kind])
    assert said == [
        "waits for memory: 10 MiB are free, it wants 100 MiB",
        "waits for memory: 60 MiB are free, it wants 100 MiB",
    ]


@pytest.mark.parametrize(
    "options", [BootOptions(wait_for_memory_ms=30), ForkOptions(wait_for_memory_ms=30)]
)
@pytest.mark.provokes(ErrorCode.FORK_MEMORY_BACKPRESSURE)
async def test_a_wait_ends_with_the_same_refusal(host: Host, options: LaunchOptions) -> None:
    host.free_mib = 99
    with pytest.raises(BootError, match=r"waited 0 s: only 99 MiB") as caught:
        await enter(options)
    assert (caught.value.code, caught.value.retryable) == (ErrorCode.FORK_MEMORY_BACKPRESSURE, True)


async def test_stalls_are_waited_for_and_refuse_nothing(host: Host) -> None:
    host.stalled_percent = 42.5
    said: list[str] = []
    await enter(ForkOptions(wait_for_memory_ms=50, on_wait=said.append))
    assert said == ["waits for the host: it stalls for want of memory (42% of the time)"]
    host.stalled_percent = 9.9
    await enter(ForkOptions(wait_for_memory_ms=None))


async def test_those_who_wait_start_one_after_the_other(host: Host) -> None:
    inside, most, entered = 0, 0, 0

    async def one() -> None:
        nonlocal inside, most, entered
        async with memory_turn(BootOptions(wait_for_memory_ms=None)):
            inside += 1
            most = max(most, inside)
            await anyio.sleep(0.02)  # a VM that starts
            inside -= 1
            entered += 1

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(one)
    assert (entered, most) == (5, 1)


async def test_a_wait_behind_another_process_ends_with_it(host: Host) -> None:
    path = paths.cache_root() / memory_queue.QUEUE_LOCK
    paths.ensure_private_dir(path.parent)
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, fcntl.LOCK_EX);"
        " print(flush=True); sys.stdin.read()"
    )
    argv = [sys.executable, "-I", "-c", code, str(path)]
    said: list[str] = []
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(BootError, match="behind others") as caught:
            await enter(BootOptions(wait_for_memory_ms=40, on_wait=said.append))
        assert caught.value.code is ErrorCode.FORK_MEMORY_BACKPRESSURE
        assert said == ["waits behind other sandboxes that want memory"]
        await enter(ForkOptions())  # who does not wait is not held up
        holder.kill()
        await enter(BootOptions(wait_for_memory_ms=None))


async def test_a_turn_that_ends_badly_lets_the_next_one_go_on(host: Host) -> None:
    with pytest.raises(RuntimeError, match="the launch failed"):
        async with memory_turn(BootOptions(wait_for_memory_ms=None)):
            raise RuntimeError("the launch failed")
    descriptor = os.open(paths.cache_root() / memory_queue.QUEUE_LOCK, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


@pytest.mark.parametrize("waits", [-1, math.nan])
def test_no_wait_is_negative(waits: float) -> None:
    with pytest.raises(BootError) as caught:
        BootOptions(wait_for_memory_ms=waits)
    assert caught.value.code is ErrorCode.BOOT_OPTION_INVALID


@pytest.mark.parametrize(
    ("text", "percent"),
    [
        ("some avg10=9.12 avg60=0.0 total=0\nfull avg10=3.25 avg60=0.00 total=1\n", 3.25),
        ("some avg10=9.12 avg60=0.0 avg300=0.0 total=0\n", 0.0),
        ("", 0.0),
        ("full avg10=much\n", 0.0),
    ],
)  # fmt: skip
def test_the_kernels_figure_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, percent: float
) -> None:
    (tmp_path / "memory").write_text(text)
    monkeypatch.setattr(memory_queue, "PRESSURE_FILE", str(tmp_path / "memory"))
    assert read_memory_stall_percent() == percent


def test_a_kernel_without_the_figure_stalls_never(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_queue, "PRESSURE_FILE", str(tmp_path / "none"))
    assert read_memory_stall_percent() == 0.0


def test_what_it_waits_for_is_printed_once_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with progress("forking") as say:
        say("waits for memory: 10 MiB are free")
        say("waits for memory: 20 MiB are free")
    assert capsys.readouterr().err == "forking: waits for memory: 10 MiB are free\n"
