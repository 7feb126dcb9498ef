"""`machinen-tui --serve`: the application in a browser, one for each window, through textual-serve.

Whoever has the address has every sandbox of this user. So its path begins with a random token that
stands in no argument list, no environment and no log; page, scripts and websocket want it, and it
is compared in constant time. The page fetches nothing from elsewhere.
"""

from __future__ import annotations

import asyncio
import html
import json
import secrets
import shlex
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import textual_serve
from aiohttp import WSMsgType, web
from textual_serve.app_service import AppService
from textual_serve.download_manager import DownloadManager

from machinen_tui.serve_address import ServeError, is_loopback, url_of

PAGE = Path(__file__).with_name("serve.html")
STATICS = Path(textual_serve.__file__).parent / "static"
MAX_APPLICATIONS = 8
MAX_MESSAGE_BYTES = 1 << 20
"""A paste may be long."""
MAX_CELLS = 1000
"""Columns or rows of a window."""
HEARTBEAT_S, END_S = 15.0, 10.0
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self' ws: wss:; frame-ancestors 'none'",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Application(AppService):
    """One application process, gone when its window is."""

    async def stop(self) -> None:
        """Ask it to end; after `END_S` end it."""
        process = self._process
        if process is None:
            return
        try:
            await asyncio.wait_for(self._ask_to_end(process), END_S)
        except TimeoutError:
            process.kill()
            await process.wait()
        await super().stop()  # the reader of what it wrote
        process._transport.close()  # pyright: ignore  # asyncio has no other way to its pipes

    async def _ask_to_end(self, process: Process) -> None:
        with suppress(ConnectionError):  # it has ended by itself
            await self.send_meta({"type": "quit"})
        await process.wait()


class BrowserServer:
    """Serves `command` to whoever knows the token."""

    def __init__(self, command: Sequence[str]) -> None:
        self.token = secrets.token_urlsafe(24)
        # textual-serve starts it by a shell: with exec, what is ended is the application.
        self._command = f"exec {shlex.join(command)}"
        self._downloads = DownloadManager()
        self._windows: set[asyncio.Task[Any]] = set()

    def application(self) -> web.Application:
        """What aiohttp serves."""
        app = web.Application(middlewares=[self._only_with_token])
        app.router.add_get("/{token}/", self._page)
        app.router.add_get("/{token}/ws", self._window)
        app.router.add_get("/{token}/static/{path:.+}", self._static)
        app.on_response_prepare.append(_with_headers)
        app.on_shutdown.append(self._end_windows)
        return app

    @web.middleware
    async def _only_with_token(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        given = request.path.split("/")[1]
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            raise web.HTTPForbidden(text="the address has no valid token\n")
        return await handler(request)

    async def _page(self, request: web.Request) -> web.Response:
        scheme = "wss" if request.secure else "ws"
        socket = f"{scheme}://{request.host}/{self.token}/ws"
        text = PAGE.read_text(encoding="utf-8").replace("{{websocket}}", html.escape(socket))
        return web.Response(text=text, content_type="text/html")

    async def _static(self, request: web.Request) -> web.StreamResponse:
        path = (STATICS / request.match_info["path"]).resolve()
        if not path.is_relative_to(STATICS.resolve()) or not path.is_file():
            raise web.HTTPNotFound
        return web.FileResponse(path)

    # -- one window -------------------------------------------------------------------------------

    async def _window(self, request: web.Request) -> web.StreamResponse:
        if len(self._windows) >= MAX_APPLICATIONS:
            raise web.HTTPServiceUnavailable(text=f"{MAX_APPLICATIONS} windows are open already\n")
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self._windows.add(task)
        try:
            return await self._converse(request)
        finally:
            self._windows.discard(task)

    async def _converse(self, request: web.Request) -> web.WebSocketResponse:
        """Keys go one way and the screen the other, until either end is gone."""
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=MAX_MESSAGE_BYTES)
        await socket.prepare(request)
        service = Application(
            self._command,
            write_bytes=_while_open(socket, socket.send_bytes),
            write_str=_while_open(socket, socket.send_str),
            close=cast("Callable[[], Awaitable[None]]", socket.close),
            download_manager=self._downloads,
        )
        try:
            query = request.query
            await service.start(_cells(query.get("width"), 80), _cells(query.get("height"), 24))
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await _take(service, socket, message.data)
        finally:
            await _to_its_end(_ended(service, socket))
        return socket

    async def _end_windows(self, _: web.Application) -> None:
        for task in list(self._windows):
            task.cancel()
        await asyncio.gather(*self._windows, return_exceptions=True)


def _while_open(
    socket: web.WebSocketResponse, send: Callable[[Any], Awaitable[None]]
) -> Callable[[Any], Awaitable[None]]:
    """Drop what nobody sees any more: an application that ends still writes."""

    async def write(data: Any) -> None:
        if not socket.closed:
            with suppress(ConnectionError):
                await send(data)

    return write


async def _ended(service: Application, socket: web.WebSocketResponse) -> None:
    await service.stop()
    await socket.close()


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Await `work`, all of it, however often this task is cancelled meanwhile."""
    task, cancelled = asyncio.ensure_future(work), False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    task.result()


async def _take(service: AppService, socket: web.WebSocketResponse, text: str) -> None:
    """One message of the page; what is none is passed over."""
    try:
        envelope: Any = json.loads(text)
    except (ValueError, RecursionError):
        return
    if not isinstance(envelope, list) or not envelope:
        return
    kind, *rest = cast("list[Any]", envelope)
    given: Any = rest[0] if rest else None
    if kind == "stdin" and isinstance(given, str):
        await service.send_bytes(given.encode("utf-8", "replace"))
    elif kind == "resize" and isinstance(given, dict):
        size = cast("dict[str, Any]", given)
        await service.set_terminal_size(
            _cells(size.get("width"), 80), _cells(size.get("height"), 24)
        )
    elif kind == "ping":
        await socket.send_json(["pong", given])
    elif kind == "blur":
        await service.blur()
    elif kind == "focus":
        await service.focus()


def _cells(value: object, default: int) -> int:
    """A number of columns or rows a window can have."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 6:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return default
    return min(max(value, 1), MAX_CELLS)


async def _with_headers(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


# -- the command ----------------------------------------------------------------------------------


async def serve(host: str, port: int, command: Sequence[str], say: Callable[[str], object]) -> None:
    """Serve until SIGINT or SIGTERM; `say` gets the address.

    Raises:
        ServeError: Nothing can listen there.
    """
    server = BrowserServer(command)
    runner = web.AppRunner(server.application(), access_log=None)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise ServeError(f"cannot listen on {host}, port {port}: {error.strerror}") from error
        say(f"{url_of(host, runner.addresses[0][1], server.token)}\n")
        if not is_loopback(host):
            say("others reach this address; it is not encrypted\n")
        say("Ctrl-C ends it; the sandboxes run on\n")
        await _asked_to_end()
    finally:
        await runner.cleanup()


async def _asked_to_end() -> None:
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    try:
        await ended.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def serve_command(host: str, port: int, arguments: Sequence[str]) -> int:
    """Serve `machinen-tui ARGUMENTS`; the exit status."""

    def say(text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()

    command = [sys.executable, "-m", "machinen_tui", *arguments]
    try:
        asyncio.run(serve(host, port, command, say))
    except ServeError as error:
        sys.stderr.write(f"machinen-tui: {error}\n")
        return 1
    return 0
