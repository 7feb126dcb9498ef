"""`python -m bench.live_mount`: a live mount beside sshfs, from one program in one guest.

The peer is what one would do without live mounts, and what Lima's `reverse-sshfs` does: the guest
mounts a directory of the host by sshfs, over ssh through a port forward, served by the host's
sftp-server. So both show the same directory of the host to the same guest. The guest gets
openssh-server and sshfs from Debian once, which needs a network. What is possible at best says a
third: a FUSE server in the guest itself that answers at once (bench/fuse_floor.c).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from bench.__main__ import main, positive, report, warn_if_busy
from bench.figures import Figure, Goal, Peer
from bench.machine_facts import machine_facts
from bench.ssh_guest import sshd_in
from bench.world import World, own_world
from machinen_runtime.boot import boot
from machinen_runtime.handle import VmHandle
from machinen_runtime.option_types import LiveMount

FILE_MIB: Final = 64
SMALL_FILES: Final = 300
MIN_RATE: Final = 60
MIN_FILES: Final = 500
LIVE, PEER = "/mnt/live", "/mnt/sshfs"
FLOOR_SOURCE: Final = Path(__file__).with_name("fuse_floor.c")
SFTP_SERVERS: Final = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server")
BEGIN, END = "<!-- live-mount:begin -->", "<!-- live-mount:end -->"
RUN_TIMEOUT_MS: Final = 900_000
PROGRAM: Final = f"""
import json, os, sys, time

place = sys.argv[1]
big, piece = place + "/big", bytes(range(256)) * 4096
start = time.monotonic()
fd = os.open(big, os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
for _ in range({FILE_MIB}):
    assert os.write(fd, piece) == len(piece)
os.fsync(fd)
os.close(fd)
wrote = time.monotonic() - start
with open("/proc/sys/vm/drop_caches", "w") as drop:
    drop.write("3")
buffer, got = bytearray(len(piece)), 0
start = time.monotonic()
fd = os.open(big, os.O_RDONLY)
while count := os.readv(fd, [buffer]):
    got += count
os.close(fd)
read = time.monotonic() - start
assert got == {FILE_MIB} * len(piece)
os.mkdir(place + "/small")
start = time.monotonic()
for number in range({SMALL_FILES}):
    fd = os.open(f"{{place}}/small/{{number}}", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.write(fd, b"small")
    os.close(fd)
made = time.monotonic() - start
for number in range({SMALL_FILES}):
    os.unlink(f"{{place}}/small/{{number}}")
os.rmdir(place + "/small")
print(json.dumps([got / 1e6 / wrote, got / 1e6 / read, {SMALL_FILES} / made]))
"""


@dataclass(frozen=True, slots=True)
class Rates:
    """What one run of the program measured."""

    write_mb_s: float
    read_mb_s: float
    files_s: float


async def measure_once(vm: VmHandle, place: str) -> Rates:
    """Write, read and make files at `place` in the guest."""
    done = await vm.exec(["python3", "/root/bench-files.py", place], exec_timeout_ms=RUN_TIMEOUT_MS)
    return Rates(*json.loads(done.stdout))


async def measure_floor(vm: VmHandle) -> float:
    """Small files a second where no host is asked."""
    command = f"mkdir -p /run/floor && /root/floor /run/floor {SMALL_FILES}"
    return float((await vm.exec(command, exec_timeout_ms=RUN_TIMEOUT_MS)).stdout)


def compile_floor(directory: Path) -> bytes:
    """The floor's program.

    Raises:
        RuntimeError: there is no C compiler, or it refuses.
    """
    binary = directory / "floor"
    argv = ["gcc", "-O2", "-static", "-o", str(binary), str(FLOOR_SOURCE)]
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{FLOOR_SOURCE.name} does not compile: {done.stderr}")
    return binary.read_bytes()


async def measure(world: World, directory: Path, repeat: int) -> list[Figure]:
    """All, in turns.

    Raises:
        SystemExit: this host has no sftp-server; nothing was booted.
        RuntimeError: the floor's program does not compile.
    """
    server = sftp_server()
    floor = compile_floor(world.directory)
    ours: list[Rates] = []
    peers: list[Rates] = []
    floors: list[float] = []
    async with await boot(name="files", live_mounts=[LiveMount(host=directory, guest=LIVE)]) as vm:
        await vm.write_file("/root/bench-files.py", PROGRAM)
        await vm.write_file("/root/floor", floor)
        await vm.exec("chmod 755 /root/floor")
        async with sshfs_mounted(world, vm, directory, server):
            for _ in range(repeat):
                ours.append(await measure_once(vm, LIVE))
                peers.append(await measure_once(vm, PEER))
                floors.append(await measure_floor(vm))
                world.say(f"live mount: {ours[-1]}; sshfs: {peers[-1]}; floor: {floors[-1]}")
    return figures_of(ours, peers, floors)


def figures_of(
    ours: Sequence[Rates], peers: Sequence[Rates], floors: Sequence[float]
) -> list[Figure]:
    """Three figures, each beside sshfs, and what the guest could do without a host."""

    def figure(title: str, unit: str, name: str, least: int) -> Figure:
        return Figure(
            title=title,
            unit=unit,
            values=[getattr(rates, name) for rates in ours],
            peer=Peer(title="sshfs", values=[getattr(rates, name) for rates in peers]),
            goal=Goal(limit=least, at_least=True),
        )

    return [
        figure(f"live mount, write {FILE_MIB} MiB and sync", "MB/s", "write_mb_s", MIN_RATE),
        figure(f"live mount, read {FILE_MIB} MiB", "MB/s", "read_mb_s", MIN_RATE),
        figure(f"live mount, make {SMALL_FILES} small files", "files/s", "files_s", MIN_FILES),
        Figure(title="the same files, answered in the guest", unit="files/s", values=list(floors)),
    ]


# -- the peer -------------------------------------------------------------------------------------


def sftp_server() -> str:
    """Path of the host's sftp-server; SystemExit if it has none."""
    for path in SFTP_SERVERS:
        if Path(path).exists():
            return path
    sys.exit("bench: the peer needs sftp-server: apt-get install openssh-sftp-server")


@asynccontextmanager
async def sshfs_mounted(
    world: World, vm: VmHandle, directory: Path, server: str
) -> AsyncGenerator[None]:
    """The host's directory in the guest by sshfs, for the length of the block."""
    async with sshd_in(world, vm, ["sshfs"]) as login:
        await vm.exec(f"mkdir -p {PEER}")
        with _reverse_sshfs(login, directory, server):
            mounted = (
                f"for i in $(seq 300); do mountpoint -q {PEER} && exit; sleep 0.1; done; exit 1"
            )
            await vm.exec(mounted, exec_timeout_ms=60_000)
            yield
            await vm.exec(f"umount {PEER}")


@contextmanager
def _reverse_sshfs(login: list[str], directory: Path, server: str) -> Generator[None]:
    """sshfs in the guest and sftp-server here, mouth to ear; both end with the block."""
    with ExitStack() as ends:
        theirs, ours = socket.socketpair()
        with theirs, ours:
            mounting = shlex.join(["sshfs", f":{directory}", PEER, "-o", "passive"])
            for argv, end in (([*login, mounting], theirs.fileno()), ([server], ours.fileno())):
                process = subprocess.Popen(argv, stdin=end, stdout=end, stderr=subprocess.DEVNULL)
                ends.callback(process.wait)
                ends.callback(process.kill)
        yield


# -- the command ----------------------------------------------------------------------------------


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The options, checked."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.live_mount", description=(__doc__ or "").split(": ", 1)[1][:60]
    )
    parser.add_argument("--repeat", type=positive, default=3, help="times for each (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--markdown", action="store_true", help="write them to docs/performance.md")
    return parser.parse_args(argv)


async def run(arguments: argparse.Namespace, console: Console) -> int:
    """Measure, then end all of it."""
    facts = machine_facts()
    warn_if_busy(console)
    async with own_world(console) as world:
        directory = world.directory / "shared"
        directory.mkdir()
        figures = await measure(world, directory, arguments.repeat)
    facts["Load"] += f", after it {os.getloadavg()[0]:.1f}"
    report(figures, facts, arguments, (BEGIN, END))
    return int(any(figure.met is False for figure in figures))


if __name__ == "__main__":
    sys.exit(main(run, parse_arguments(sys.argv[1:])))
