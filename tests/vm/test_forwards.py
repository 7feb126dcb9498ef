"""Port forwards of a real guest: at run time, many at once, large, slow, forked."""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncGenerator
from pathlib import Path

import anyio
import pytest

from machinen_runtime.boot import boot
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.handle import VmHandle
from machinen_runtime.option_types import PortForward
from machinen_runtime.registry import find
from tests.vm.conftest import leftovers

pytestmark = pytest.mark.vm

PORT = 9000
BLOCK = 1 << 20
BLOCKS = 200

SERVER = r"""
import socketserver

BLOCK = 1 << 20

class Talk(socketserver.StreamRequestHandler):
    def handle(self):
        verb, _, number = self.rfile.readline().strip().partition(b" ")
        if verb == b"send":
            for index in range(int(number)):
                self.wfile.write(index.to_bytes(4, "little") * (BLOCK // 4))
        elif verb == b"take":
            right = all(
                self.rfile.read(BLOCK) == index.to_bytes(4, "little") * (BLOCK // 4)
                for index in range(int(number))
            )
            self.wfile.write(b"right" if right and not self.rfile.read(1) else b"wrong")
        elif verb == b"echo":
            while data := self.rfile.read1(65536):
                self.wfile.write(data)
            self.wfile.write(b" and the end")

class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 128
    daemon_threads = True

Server(("127.0.0.1", 9000), Talk).serve_forever()
"""


@pytest.fixture(scope="module")
async def talker(vm: VmHandle) -> VmHandle:
    """A guest whose port 9000 echoes, sends and takes."""
    await vm.write_file("/root/server.py", SERVER)
    await vm.exec("setsid python3 /root/server.py </dev/null >/root/log 2>&1 &")
    wait = "for i in $(seq 300); do ss -ltn | grep -q :9000 && exit; sleep 0.1; done; exit 1"
    await vm.exec(wait)
    return vm


@pytest.fixture
async def port(talker: VmHandle) -> AsyncGenerator[int]:
    """A host port that leads there for one test."""
    forward = await talker.add_port_forward(PORT)
    yield forward.host_port
    await talker.remove_port_forward(forward.host_port)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), 60)


def hear_all(client: socket.socket) -> bytes:
    heard = b""
    while data := client.recv(65536):
        heard += data
    return heard


def echoed(port: int, text: bytes) -> bytes:
    with connect(port) as client:
        client.sendall(b"echo\n" + text)
        client.shutdown(socket.SHUT_WR)
        return hear_all(client)


async def in_thread(function: object, *args: object) -> object:
    return await anyio.to_thread.run_sync(function, *args)  # pyright: ignore


async def test_a_forward_comes_and_goes_while_the_guest_runs(talker: VmHandle) -> None:
    forward = await talker.add_port_forward(PORT)
    assert find(pid=talker.pid).port_forward == (forward,)
    assert await talker.port_forwards() == [forward]
    assert await in_thread(echoed, forward.host_port, b"hello") == b"hello and the end"
    with connect(forward.host_port) as doomed:
        doomed.sendall(b"echo\nx")
        assert await in_thread(doomed.recv, 10) == b"x"
        await talker.remove_port_forward(forward.host_port)
        with pytest.raises(ConnectionResetError):
            await in_thread(doomed.recv, 10)
    with pytest.raises(ConnectionRefusedError):
        connect(forward.host_port)
    assert find(pid=talker.pid).port_forward == ()
    with pytest.raises(BootError) as caught:
        await talker.remove_port_forward(forward.host_port)
    assert caught.value.code is ErrorCode.BOOT_PORT_FORWARD_INVALID


async def test_a_hundred_connections_at_once_each_hear_their_own(port: int) -> None:
    heard: dict[int, bytes] = {}

    def one(number: int) -> None:
        heard[number] = echoed(port, b"%d" % number * 1000)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await in_thread(thread.join)
    assert heard == {number: b"%d" % number * 1000 + b" and the end" for number in range(100)}


async def test_two_hundred_megabytes_arrive_whole_each_way(port: int) -> None:
    def receive() -> None:
        with connect(port) as client, client.makefile("rb") as file:
            client.sendall(b"send %d\n" % BLOCKS)
            for index in range(BLOCKS):
                assert file.read(BLOCK) == index.to_bytes(4, "little") * (BLOCK // 4), index
            assert file.read(1) == b""

    def send() -> bytes:
        with connect(port) as client:
            client.sendall(b"take %d\n" % BLOCKS)
            for index in range(BLOCKS):
                client.sendall(index.to_bytes(4, "little") * (BLOCK // 4))
            client.shutdown(socket.SHUT_WR)
            return hear_all(client)

    await in_thread(receive)
    assert await in_thread(send) == b"right"


async def test_readers_that_stop_stall_nobody_else(talker: VmHandle, port: int) -> None:
    stopped = [connect(port) for _ in range(4)]
    for client in stopped:
        client.sendall(b"send %d\n" % BLOCKS)
    assert await in_thread(echoed, port, b"still served") == b"still served and the end"
    assert (await talker.exec("echo exec too")).stdout == "exec too\n"
    for client in stopped:
        client.close()


async def test_forks_have_forwards_of_their_own(talker: VmHandle, port: int) -> None:
    async with (
        await talker.fork(name="forked-1") as first,
        await talker.fork(name="forked-2") as second,
    ):
        assert first.entry.port_forward == second.entry.port_forward == ()
        assert await first.port_forwards() == []
        ports = [(await fork.add_port_forward(PORT)).host_port for fork in (first, second)]
        assert len({port, *ports}) == 3
        for each in (port, *ports):
            assert await in_thread(echoed, each, b"x") == b"x and the end"
    assert await in_thread(echoed, port, b"the source") == b"the source and the end"


async def test_a_fork_may_ask_for_a_port_but_not_for_its_sources(
    talker: VmHandle, port: int, vm_home: Path
) -> None:
    before = leftovers(vm_home)
    with pytest.raises(BootError) as caught:
        await talker.fork(port_forward=[PortForward(host_port=port, guest_port=PORT)])
    assert caught.value.code is ErrorCode.BOOT_PORT_FORWARD_IN_USE
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert "EADDRINUSE" in str(caught.value)
    assert f"(pid {talker.pid})" in str(caught.value)
    assert leftovers(vm_home) == before


async def test_a_boot_with_a_busy_port_leaves_nothing(vm_home: Path) -> None:
    before = leftovers(vm_home)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        busy = PortForward(host_port=taken.getsockname()[1], guest_port=80)
        with pytest.raises(BootError) as caught:
            await boot(name="never", memory=512, network="none", port_forward=[busy])
    assert caught.value.code is ErrorCode.BOOT_PORT_FORWARD_IN_USE
    assert leftovers(vm_home) == before


async def test_only_the_address_asked_for_listens(talker: VmHandle) -> None:
    forward = await talker.add_port_forward(PORT)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("::1", forward.host_port), 5)
    six = PortForward(host_port=forward.host_port, guest_port=PORT, host_addr="::1")
    await talker.add_port_forward(six)
    with socket.create_connection(("::1", forward.host_port), 60) as client:
        client.sendall(b"echo\n6")
        assert await in_thread(client.recv, 10) == b"6"
    await talker.remove_port_forward(forward.host_port, "::1")
    await talker.remove_port_forward(forward.host_port)
