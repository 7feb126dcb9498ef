"""The web proxy of a guest whose network is an allowlist: HTTP requests and CONNECT tunnels.

The guest says a name, never an address: names are looked up here, and every address is checked
before we connect to that very address. One request per connection; inside a tunnel anything may be
said to the host at its end.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address

import anyio
from anyio.abc import SocketStream

from vmm.allowlist import Address, Allowlist, own_addresses
from vmm.mux_stream import MuxStream, StreamResetError
from vmm.proxy_http import MAX_HEAD_BYTES, BadRequestError, BodyMeter, ProxyRequest, parse_head
from vmm.vsock_server import GONE_ERRORS, HangupWatch, pump

HEAD_TIMEOUT_S = 30.0
LOOKUP_TIMEOUT_S = 15.0
CONNECT_TIMEOUT_S = 15.0
DRAIN_TIMEOUT_S = 10.0
MAX_ADDRESSES = 8
MAX_LOGGED = 1000
"""Distinct targets that get a line in the console log; a guest shall not fill it."""


class _Answer(Exception):
    """Ends a request with a status and a sentence."""

    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status


class Proxy:
    """Serves the proxy's streams of one guest; `log` takes a line per denied target."""

    def __init__(self, hosts: list[str], log: Callable[[str], None], watch: HangupWatch) -> None:
        self._allowed = Allowlist(hosts)
        self._log = log
        self._watch = watch
        self._logged: set[tuple[str, int]] = set()

    async def serve(self, stream: MuxStream) -> None:
        """Serve one connection of the guest to its end; it is closed by the caller."""
        stream.accept()
        try:
            with anyio.fail_after(HEAD_TIMEOUT_S):
                head, rest = await _read_head(stream)
            request = parse_head(head)
            async with self._connected(request) as server:
                if request.is_tunnel:
                    await self._tunnel(stream, server, rest)
                else:
                    await _exchange(stream, server, request, rest)
        except BadRequestError as error:
            await _answer(stream, "400 Bad Request", str(error))
        except _Answer as answer:
            await _answer(stream, answer.status, str(answer))
        except TimeoutError:
            await _answer(stream, "408 Request Timeout", "no request came in time")

    @asynccontextmanager
    async def _connected(self, request: ProxyRequest) -> AsyncGenerator[SocketStream]:
        server = await self._connect(request.host, request.port)
        async with server:
            yield server

    async def _connect(self, host: str, port: int) -> SocketStream:
        if not self._allowed.permits(host, port):
            raise self._denied(host, port, "it is not among the hosts this sandbox may reach")
        addresses = await _look_up(host, port)
        own = own_addresses()
        permitted = [each for each in addresses if self._allowed.permits_address(each, port, own)]
        if not permitted:
            found = ", ".join(map(str, addresses))
            why = f"it leads to {found}, which is not public; allow that address if you mean it"
            raise self._denied(host, port, why)
        reason = "no answer in time"
        for address in permitted:
            with anyio.move_on_after(CONNECT_TIMEOUT_S):
                try:
                    return await anyio.connect_tcp(str(address), port)
                except OSError as error:
                    reason = _reason(error)
        raise _Answer("502 Bad Gateway", f"cannot connect to {host}:{port}: {reason}")

    def _denied(self, host: str, port: int, why: str) -> _Answer:
        if (host, port) not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add((host, port))
            self._log(f"the web proxy denied {host}:{port}: {why}")
        return _Answer("403 Forbidden", f"{host}:{port} is denied: {why}")

    async def _tunnel(self, stream: MuxStream, server: SocketStream, rest: bytes) -> None:
        await stream.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with suppress(*GONE_ERRORS):
            if rest:
                await server.send(rest)
            async with self._watch.watching(server) as gone:
                await pump(server, stream, gone)


async def _read_head(stream: MuxStream) -> tuple[bytes, bytes]:
    """The request's head with its empty line, and what came behind it."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0:
        if len(data) > MAX_HEAD_BYTES:
            raise BadRequestError("the request's head is too long")
        more = await stream.receive()
        if not more:
            raise BadRequestError("the request ended in its head")
        data += more
    return data[: end + 4], data[end + 4 :]


async def _look_up(host: str, port: int) -> list[Address]:
    """The addresses of a name, each once, in the resolver's order."""
    try:
        with anyio.fail_after(LOOKUP_TIMEOUT_S):
            found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # TimeoutError is one
        text = f"the name {host} cannot be looked up: {_reason(error)}"
        raise _Answer("502 Bad Gateway", text) from error
    texts = dict.fromkeys(str(place[0]).partition("%")[0] for *_, place in found)
    return [ip_address(text) for text in list(texts)[:MAX_ADDRESSES]]


async def _exchange(
    stream: MuxStream, server: SocketStream, request: ProxyRequest, rest: bytes
) -> None:
    """Send one request and copy the answer until the server closes."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_send_request, stream, server, request, rest)
        try:
            while True:
                await stream.send(await server.receive())
        except anyio.EndOfStream:
            pass  # the answer is complete
        except (StreamResetError, *GONE_ERRORS):
            stream.reset()
        tasks.cancel_scope.cancel()
    await _finish(stream)


async def _send_request(
    stream: MuxStream, server: SocketStream, request: ProxyRequest, data: bytes
) -> None:
    """Send head and body; a body that breaks off takes the connection with it."""
    meter = BodyMeter(request)
    with suppress(StreamResetError, BadRequestError, *GONE_ERRORS):
        await server.send(request.head)
        while True:
            await server.send(meter.take(data))
            if meter.is_over:
                return
            data = await stream.receive()
            if not data:
                break
    await server.aclose()


async def _answer(stream: MuxStream, status: str, text: str) -> None:
    body = f"machinen: {text}\n".encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with suppress(StreamResetError):
        await stream.send(head.encode() + body)
        await _finish(stream)


async def _finish(stream: MuxStream) -> None:
    """End our side and let the guest read what it got before the stream goes."""
    stream.send_eof()
    with anyio.move_on_after(DRAIN_TIMEOUT_S), suppress(StreamResetError):
        while await stream.receive():
            pass


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error.__cause__, OSError):  # anyio's own error says only that it failed
        error = error.__cause__
    if not isinstance(error, OSError):
        return str(error)
    if error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno)
    return error.strerror or str(error)
