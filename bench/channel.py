"""The way into a guest: commands, streams and files, beside ssh and beside a port nobody shares."""

from __future__ import annotations

import os
import shlex
import socket
import time
from collections.abc import Callable
from io import FileIO
from subprocess import DEVNULL, PIPE, Popen

import anyio
from anyio import to_thread

from bench.figures import Figure, Goal, Peer
from bench.ssh_guest import kept_connection, sshd_in
from bench.world import MACHINEN, World
from machinen_runtime.boot import boot
from machinen_runtime.handle import VmHandle

MAX_SSH_RATIO, MAX_RAW_RATIO = 0.1, 3
MIN_STREAM_RATIO = 0.5
MIN_COPY_RATE = 100
STREAM_BYTES = 100_000_000
STREAM_RUNS = 5
RAW_PORT = "/run/raw-port"
FIND_RAW_PORT = (
    f"ln -s /dev/$(grep -lx raw.0 /sys/class/virtio-ports/*/name | cut -d/ -f5) {RAW_PORT} && "
    f"[ -c {RAW_PORT} ]"
)
"""A guest without udev has no `/dev/virtio-ports`."""
PATIENCE_S = 120

ECHO = f"""
import os
port = os.open("{RAW_PORT}", os.O_RDWR)
while True:
    if data := os.read(port, 64):
        os.write(port, data)
"""


async def measure_channel(world: World, repeat: int) -> list[Figure]:
    """One guest with a second, bare virtio-serial port, and with sshd."""
    path = str(world.sockets / "raw")
    arguments = [
        *("-chardev", f"socket,id=raw-io,path={path},server=on,wait=off"),
        *("-device", "virtio-serial-pci,id=serial1,addr=0x10"),
        *("-device", "virtserialport,bus=serial1.0,chardev=raw-io,name=raw.0"),
    ]
    async with await boot(name="channel", args=arguments) as vm:
        with socket.socket(socket.AF_UNIX) as port:
            port.settimeout(PATIENCE_S)
            port.connect(path)
            await vm.exec(FIND_RAW_PORT)
            stream = await _stream(world, vm, port)
            raw = await _raw_round_trips(vm, port, repeat)
        copies = await _copies(world, vm)
        async with sshd_in(world, vm) as login, kept_connection(world, login) as shared:
            ours, peers = list[float](), list[float]()
            for _ in range(repeat):
                started = time.monotonic()
                await vm.exec(["true"])
                ours.append((time.monotonic() - started) * 1000)
                peers.append(await world.run_ms([*shared, "true"]))
    world.say(f"exec: {min(ours):.1f} ms, ssh {min(peers):.0f} ms, raw {min(raw):.2f} ms at best")
    return [
        Figure(
            title="exec of true",
            unit="ms",
            values=ours,
            peer=Peer(title="ssh, connection kept", values=peers),
            goal=Goal(limit=MAX_SSH_RATIO, of="ratio"),
        ),
        Figure(
            title="exec of true",
            unit="ms",
            values=ours,
            peer=Peer(title="one byte there and back, raw port", values=raw),
            goal=Goal(limit=MAX_RAW_RATIO, of="ratio"),
        ),
        stream,
        *copies,
    ]


async def _stream(world: World, vm: VmHandle, port: socket.socket) -> Figure:
    """Output of one program to the host: through exec, and straight into the port."""
    ours, peers = list[float](), list[float]()
    program = f"head -c {STREAM_BYTES} /dev/zero"
    for _ in range(STREAM_RUNS):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(vm.exec, f"{program} > {RAW_PORT}")
            peers.append(await to_thread.run_sync(_received_rate, port))
        ours.append(await to_thread.run_sync(_exec_rate, vm, program))
    world.say(f"stream: {max(ours):.0f} MB/s, raw port {max(peers):.0f} MB/s at best")
    return Figure(
        title=f"machinen exec, {STREAM_BYTES // 1_000_000} MB of output",
        unit="MB/s",
        values=ours,
        peer=Peer(title="the same into the raw port", values=peers),
        goal=Goal(limit=MIN_STREAM_RATIO, of="ratio", at_least=True),
    )


def _received_rate(port: socket.socket) -> float:
    return _rate(port.recv_into)


def _exec_rate(vm: VmHandle, program: str) -> float:
    argv = [MACHINEN, "exec", str(vm.pid), "--", *shlex.split(program)]
    with Popen(argv, stdin=DEVNULL, stdout=PIPE, bufsize=0) as process:
        assert isinstance(process.stdout, FileIO)
        rate = _rate(process.stdout.readinto)
        if rest := process.stdout.read():
            raise RuntimeError(f"{len(rest)} bytes more than {STREAM_BYTES} arrived")
    return rate


def _rate(receive_into: Callable[[bytearray], int | None]) -> float:
    """MB/s from the first bytes to the last: what it takes to start the program is not measured."""
    buffer = bytearray(1 << 20)
    count = first = receive_into(buffer) or 0
    started = time.monotonic()
    while count < STREAM_BYTES:
        received = receive_into(buffer)
        if not received:
            raise RuntimeError(f"{count} of {STREAM_BYTES} bytes arrived")
        count += received
    return (count - first) / 1e6 / (time.monotonic() - started)


async def _raw_round_trips(vm: VmHandle, port: socket.socket, repeat: int) -> list[float]:
    """Milliseconds for one byte to a program in the guest and back, by nothing but the port."""
    await vm.write_file("/root/bench-echo.py", ECHO)
    await vm.exec("setsid python3 /root/bench-echo.py </dev/null >/dev/null 2>&1 &")

    def trips() -> list[float]:
        values: list[float] = []
        for _ in range(repeat + 1):
            started = time.monotonic()
            port.sendall(b"x")
            port.recv(1)
            values.append((time.monotonic() - started) * 1000)
        return values[1:]  # the first waited for the program to start

    values = await to_thread.run_sync(trips)
    await vm.exec(["pkill", "-f", "bench-echo"])
    return values


async def _copies(world: World, vm: VmHandle) -> list[Figure]:
    """A file of STREAM_BYTES by `machinen cp`, to memory of the guest and back."""
    source, target = world.directory / "there", world.directory / "back"
    await anyio.Path(source).write_bytes(os.urandom(STREAM_BYTES))
    there, back = list[float](), list[float]()
    for _ in range(STREAM_RUNS):
        place = f"{vm.pid}:/dev/shm/file"
        there.append(STREAM_BYTES / 1e3 / await world.machinen_ms("cp", str(source), place))
        back.append(STREAM_BYTES / 1e3 / await world.machinen_ms("cp", place, str(target)))
        if await anyio.Path(target).read_bytes() != await anyio.Path(source).read_bytes():
            raise RuntimeError("the file came back as another")
        await anyio.Path(target).unlink()
    world.say(f"copies: {max(there):.0f} MB/s there, {max(back):.0f} MB/s back at best")
    goal = Goal(limit=MIN_COPY_RATE, of="median", at_least=True)
    size = f"{STREAM_BYTES // 1_000_000} MB"
    return [
        Figure(title=f"machinen cp to the guest, {size}", unit="MB/s", values=there, goal=goal),
        Figure(title=f"machinen cp from the guest, {size}", unit="MB/s", values=back, goal=goal),
    ]
