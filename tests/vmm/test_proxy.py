"""The web proxy between a guest's stream and real servers on this host."""

from __future__ import annotations

import errno
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from tests.vmm.fake_guest import GuestPort, greeted, settled
from vmm import proxy as proxy_module
from vmm.allowlist import own_addresses
from vmm.frames import PROXY_PORT, FrameType
from vmm.guest_streams import GuestStreams
from vmm.proxy import Proxy
from vmm.vsock_server import HangupWatch

Serve = Callable[[SocketStream], Awaitable[None]]


@asynccontextmanager
async def server(serve: Serve) -> AsyncGenerator[int]:
    """A server on this host's loopback; yields its port."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):

        async def one(client: SocketStream) -> None:
            with suppress(anyio.EndOfStream, anyio.BrokenResourceError):  # the guest has left
                async with client:
                    await serve(client)

        tasks.start_soon(listener.serve, one)
        yield listener.extra(SocketAttribute.local_port)
        tasks.cancel_scope.cancel()


class Guest:
    """A guest whose streams go through a proxy, one after the other."""

    def __init__(self, port: GuestPort, notes: list[str]) -> None:
        self.port = port
        self.notes = notes
        self.last = 0

    async def ask(self, data: bytes) -> int:
        """Open a stream to the proxy and say `data`."""
        self.last += 2
        await self.port.send(FrameType.OPEN, self.last, PROXY_PORT.to_bytes(4, "little"))
        while (await self.port.next()).type is not FrameType.ACCEPT:
            pass
        await self.port.send(FrameType.DATA, self.last, data)
        return self.last

    async def hear(self, size: int) -> bytes:
        """The next bytes of the answer."""
        return await self.port.receive_data(size)

    async def rest(self) -> bytes:
        """Everything up to the proxy's end of file, which is answered with ours."""
        heard = b""
        while (frame := await self.port.next()).type is FrameType.DATA:
            heard += frame.payload
        assert frame.type is FrameType.EOF, frame
        await self.port.send(FrameType.EOF, self.last)
        return heard

    async def get(self, data: bytes) -> bytes:
        await self.ask(data)
        return await self.rest()


@asynccontextmanager
async def allowing(directory: Path, *hosts: str) -> AsyncGenerator[Guest]:
    watch, notes = HangupWatch(), list[str]()
    async with greeted(directory) as (mux, port), anyio.create_task_group() as tasks:
        tasks.start_soon(watch.run)
        proxy = Proxy(list(hosts), notes.append, watch)
        mux.on_guest_stream = GuestStreams(str(directory / "vsock.sock"), watch, proxy).serve
        yield Guest(port, notes)
        await settled()
        tasks.cancel_scope.cancel()


async def echo(client: SocketStream) -> None:
    async for data in client:
        await client.send(data)


HELLO = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"


class Web:
    """Answers one request and keeps it."""

    def __init__(
        self, answer: bytes = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello"
    ) -> None:
        self.answer = answer
        self.request = b""

    async def serve(self, client: SocketStream) -> None:
        heard = b""
        while b"\r\n\r\n" not in heard:
            heard += await client.receive()
        self.request = heard
        await client.send(self.answer)


async def test_a_tunnel_carries_anything_both_ways(tmp_path: Path) -> None:
    async with server(echo) as port, allowing(tmp_path, f"127.0.0.1:{port}") as guest:
        number = await guest.ask(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\nearly".encode())
        established = b"HTTP/1.1 200 Connection established\r\n\r\n"
        assert await guest.hear(len(established) + 5) == established + b"early"
        await guest.port.send(FrameType.DATA, number, b"\0\xff" * 100)
        assert await guest.hear(200) == b"\0\xff" * 100
        await guest.port.send(FrameType.EOF, number)
        assert (await guest.port.expect(FrameType.EOF)).stream == number


async def test_a_request_is_answered_by_its_server(tmp_path: Path) -> None:
    web = Web()
    async with server(web.serve) as port, allowing(tmp_path, f"127.0.0.1:{port}") as guest:
        place = f"127.0.0.1:{port}"
        said = f"GET http://{place}/x HTTP/1.1\r\nHost: other\r\nAccept: */*\r\n\r\n"
        assert await guest.get(said.encode()) == web.answer
    head = f"GET /x HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\naccept: */*\r\n\r\n"
    assert web.request == head.encode()


async def test_a_body_goes_on_to_its_end_and_no_further(tmp_path: Path) -> None:
    heard = b""

    async def collect(client: SocketStream) -> None:
        nonlocal heard
        while not heard.endswith(b"0\r\n\r\n"):
            heard += await client.receive()
        await client.send(b"HTTP/1.1 204 No Content\r\n\r\n")

    async with server(collect) as port, allowing(tmp_path, f"127.0.0.1:{port}") as guest:
        head = f"POST http://127.0.0.1:{port}/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
        number = await guest.ask(head.encode() + b"3\r\nab")
        await guest.port.send(
            FrameType.DATA, number, b"c\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"
        )
        assert (await guest.rest()).startswith(b"HTTP/1.1 204")
    assert heard.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n", b"403"),
        (b"GET http://evil.example/ HTTP/1.1\r\n\r\n", b"403"),
        (b"CONNECT localhost:443 HTTP/1.1\r\n\r\n", b"403"),
        (b"CONNECT allowed.example:22 HTTP/1.1\r\n\r\n", b"403"),
        (b"CONNECT 169.254.169.254:80 HTTP/1.1\r\n\r\n", b"403"),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"400"),
        (b"\x16\x03\x01 a TLS hello\r\n\r\n", b"400"),
        (b"GET http://allowed.example/ HTTP/1.1\r\n" + b"a: b\r\n" * 10000, b"400"),
    ],
)
async def test_what_is_denied_is_told_and_leaves_the_next_alone(
    tmp_path: Path, request_head: bytes, status: bytes
) -> None:
    web = Web()
    hosts = ["allowed.example", "localhost"]
    async with (
        server(web.serve) as port,
        allowing(tmp_path, *hosts, f"127.0.0.1:{port}") as guest,
    ):
        answer = await guest.get(request_head)
        assert answer.startswith(b"HTTP/1.1 " + status)
        assert b"\r\n\r\nmachinen: " in answer
        if status == b"403":
            assert any("denied" in note for note in guest.notes)
        served = await guest.get(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n".encode())
        assert served == web.answer


def resolving_to(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Every name leads to these addresses."""

    async def look_up(host: str, port: int, **_: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in addresses]

    monkeypatch.setattr(anyio, "getaddrinfo", look_up)


async def test_a_name_that_leads_inside_is_denied_unless_the_address_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = Web()
    async with server(web.serve) as port:
        resolving_to(monkeypatch, "127.0.0.1")
        request = f"GET http://rebound.example:{port}/ HTTP/1.1\r\n\r\n".encode()
        name, address = f"rebound.example:{port}", f"127.0.0.1:{port}"
        async with allowing(tmp_path, name, "127.0.0.1:1") as guest:
            answer = await guest.get(request)
            assert answer.startswith(b"HTTP/1.1 403")
            assert b"127.0.0.1, which is not public" in answer
        assert web.request == b""
    async with server(web.serve) as port:
        request = f"GET http://rebound.example:{port}/ HTTP/1.1\r\n\r\n".encode()
        name, address = f"rebound.example:{port}", f"127.0.0.1:{port}"
        (tmp_path / "channel.sock").unlink(missing_ok=True)
        async with allowing(tmp_path, name, address) as guest:
            assert await guest.get(request) == web.answer


async def test_the_hosts_own_addresses_are_inside_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for address in own_addresses():
        resolving_to(monkeypatch, str(address))
        (tmp_path / "channel.sock").unlink(missing_ok=True)
        async with allowing(tmp_path, "*") as guest:
            answer = await guest.get(b"CONNECT self.example:80 HTTP/1.1\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 403")


async def test_a_server_that_is_not_there_is_a_bad_gateway(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{probe.getsockname()[1]}"
        async with allowing(tmp_path, place) as guest:
            answer = await guest.get(f"CONNECT {place} HTTP/1.1\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 502")
    assert b"Connection refused" in answer


async def test_an_answer_that_breaks_off_does_not_look_complete(tmp_path: Path) -> None:
    async def break_off(client: SocketStream) -> None:
        await client.receive()
        await client.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        raw = client.extra(SocketAttribute.raw_socket)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    async with server(break_off) as port, allowing(tmp_path, f"127.0.0.1:{port}") as guest:
        number = await guest.ask(f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n".encode())
        while (frame := await guest.port.next()).type is FrameType.DATA:
            pass
        assert (frame.type, frame.stream, frame.number) == (
            FrameType.RESET,
            number,
            errno.ECONNRESET,
        )


async def test_a_guest_that_leaves_at_any_moment_ends_its_stream_alone(tmp_path: Path) -> None:
    web = Web()
    async with server(web.serve) as port, allowing(tmp_path, f"127.0.0.1:{port}") as guest:
        request = f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\n\r\n".encode()
        for piece in (b"", request[:10], request, b"CONNECT 127.0.0.1:%d HTTP/1.1\r\n\r\n" % port):
            number = await guest.ask(piece or b"G")
            await guest.port.send(FrameType.RESET, number, b"\x68\0\0\0")
        assert await guest.get(request) == web.answer
        assert guest.notes == []


async def test_who_says_nothing_is_told_that_it_took_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_module, "HEAD_TIMEOUT_S", 0.05)
    async with allowing(tmp_path, "a.example") as guest:
        assert (await guest.get(b"GET http://a.exam")).startswith(b"HTTP/1.1 408")


async def test_a_target_is_logged_once_and_not_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_module, "MAX_LOGGED", 3)
    async with allowing(tmp_path, "a.example") as guest:
        for name in ("b", "b", "c", "d", "e", "f"):
            await guest.get(f"CONNECT {name}.example:443 HTTP/1.1\r\n\r\n".encode())
    assert len(guest.notes) == 3
