"""Port forwards: megabytes a second through one, from the guest and into it."""

from __future__ import annotations

import socket
import time

from anyio import to_thread

from bench.figures import Figure, Peer
from bench.world import World
from machinen_runtime.handle import VmHandle

GUEST_PORT = 9100
TRANSFER_BYTES = 200_000_000
PIECE_BYTES = 1 << 20
MAX_REPEAT = 2
"""Each moves 600 MB through an emulated machine."""

SERVER = f"""
import socket

PIECE = bytes({PIECE_BYTES})
server = socket.create_server(("127.0.0.1", {GUEST_PORT}))
while True:
    client, _ = server.accept()
    with client:
        left = {TRANSFER_BYTES}
        if client.recv(1) == b"s":
            while left:
                left -= client.send(PIECE[:left])
        else:
            while left and (got := client.recv_into(bytearray(PIECE))):
                left -= got
            client.sendall(b"k")
"""


async def measure_forwards(world: World, source: VmHandle, repeat: int) -> list[Figure]:
    """Both directions of one forward; the peer is the guest's own loopback, the same bytes.

    Raises:
        RuntimeError: bytes were lost.
    """
    await source.write_file("/root/bench-server.py", SERVER)
    await source.exec("setsid python3 /root/bench-server.py </dev/null >/dev/null 2>&1 &")
    listens = f"ss -ltn | grep -q :{GUEST_PORT}"
    await source.exec(f"for i in $(seq 300); do {listens} && exit; sleep 0.1; done; exit 1")
    forward = await source.add_port_forward(GUEST_PORT)
    out: list[float] = []
    into: list[float] = []
    inside: list[float] = []
    for _ in range(min(repeat, MAX_REPEAT)):
        inside.append(await _inside(source))
        out.append(await to_thread.run_sync(_receive, forward.host_port))
        into.append(await to_thread.run_sync(_send, forward.host_port))
    await source.remove_port_forward(forward.host_port)
    world.say(f"port forward: {out[-1]:.0f} MB/s from the guest, {into[-1]:.0f} MB/s into it")
    peer = Peer(title="loopback in the guest", values=inside)
    title = f"port forward, {TRANSFER_BYTES // 1_000_000} MB"
    return [
        Figure(title=f"{title} from the guest", unit="MB/s", values=out, peer=peer),
        Figure(title=f"{title} into it", unit="MB/s", values=into, peer=peer),
    ]


def _receive(port: int) -> float:
    with socket.create_connection(("127.0.0.1", port)) as client:
        buffer = bytearray(PIECE_BYTES)
        started = time.monotonic()
        client.sendall(b"s")
        count = 0
        while got := client.recv_into(buffer):
            count += got
        return _rate(count, started)


def _send(port: int) -> float:
    with socket.create_connection(("127.0.0.1", port)) as client:
        piece = bytes(PIECE_BYTES)
        started = time.monotonic()
        client.sendall(b"t")
        left = TRANSFER_BYTES
        while left:
            left -= client.send(piece[:left])
        if client.recv(1) != b"k":
            raise RuntimeError("the guest did not get all bytes")
        return _rate(TRANSFER_BYTES, started)


def _rate(count: int, started: float) -> float:
    if count != TRANSFER_BYTES:
        raise RuntimeError(f"{count} of {TRANSFER_BYTES} bytes arrived")
    return count / 1e6 / (time.monotonic() - started)


async def _inside(source: VmHandle) -> float:
    """The same from the server to a client beside it."""
    client = (
        "import socket, time; "
        f"c = socket.create_connection(('127.0.0.1', {GUEST_PORT})); b = bytearray({PIECE_BYTES}); "
        "t = time.monotonic(); c.sendall(b's'); n = 0\n"
        "while got := c.recv_into(b): n += got\n"
        "print(n / 1e6 / (time.monotonic() - t))"
    )
    return float((await source.exec(["python3", "-c", client])).stdout)
