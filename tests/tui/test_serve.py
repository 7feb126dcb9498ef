"""The application in a browser: who gets in, what gets through, what is left when it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from machinen_tui import __main__ as start
from machinen_tui import serve
from machinen_tui.serve import BrowserServer
from machinen_tui.serve_address import ServeError, parse_address, url_of

ROOT = Path(__file__).parent.parent.parent
APPLICATION = [sys.executable, "-m", "tests.tui.served_app"]
Client = TestClient[web.Request, web.Application]


@asynccontextmanager
async def serving(
    monkeypatch: pytest.MonkeyPatch, command: list[str] = APPLICATION
) -> AsyncGenerator[tuple[Client, str]]:
    """A server and its token."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    server = BrowserServer(command)
    async with TestClient(TestServer(server.application())) as client:
        yield client, server.token


async def screen_until(socket: aiohttp.ClientWebSocketResponse, words: bytes) -> bytes:
    """What the application draws, until `words` are in it."""
    seen = b""
    async with asyncio.timeout(60):
        while words not in seen:
            message = await socket.receive()
            assert message.type is aiohttp.WSMsgType.BINARY, (message, seen[-200:])
            seen += message.data
    return seen


def applications() -> list[psutil.Process]:
    """Those that were started here and live."""
    children = psutil.Process().children(recursive=True)
    return [each for each in children if "tests.tui.served_app" in _command_of(each)]


def _command_of(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:  # it ended since it was listed, and may be a zombie
        return []


# -- who gets in ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "ws", "static/js/textual.js", "nothing"])
@pytest.mark.parametrize("wrong", ["x", "-", "\u00e9"])
async def test_without_the_token_nothing_is_served(
    monkeypatch: pytest.MonkeyPatch, path: str, wrong: str
) -> None:
    async with serving(monkeypatch) as (client, token):
        for given in (wrong, token[:-1], token + "x", token.swapcase()):
            answer = await client.get(f"/{given}/{path}")
            assert answer.status == 403
            assert token not in await answer.text()
        assert not applications()


async def test_a_window_without_the_token_starts_no_application(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(monkeypatch) as (client, _):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await client.ws_connect("/guess/ws")
        assert refused.value.status == 403
        assert not applications()


async def test_the_page_needs_nothing_from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as (client, token):
        answer = await client.get(f"/{token}/")
        text = await answer.text()
        assert answer.status == 200
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"
        assert f"ws://127.0.0.1:{client.port}/{token}/ws" in text
        assert "https://" not in text
        for name in ("js/textual.js", "css/xterm.css"):
            assert (await client.get(f"/{token}/static/{name}")).status == 200


@pytest.mark.parametrize("path", ["%2e%2e/server.py", "..%2fserver.py", "js", "%2fetc%2fpasswd"])
async def test_only_what_the_page_needs_is_read(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    async with serving(monkeypatch) as (client, token):
        assert (await client.get(f"/{token}/static/{path}")).status in (403, 404)


async def test_a_host_header_is_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as (client, token):
        answer = await client.get(f"/{token}/", headers={"Host": 'a"><script>'})
        assert "<script>" not in (await answer.text()).partition("session-websocket-url")[2]


def test_each_server_has_another_token() -> None:
    tokens = {BrowserServer(["true"]).token for _ in range(20)}
    assert len(tokens) == 20
    assert all(len(token) >= 32 for token in tokens)


# -- what gets through ----------------------------------------------------------------------------


async def test_a_window_shows_the_application_takes_keys_and_sizes_and_ends_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(monkeypatch) as (client, token):
        async with client.ws_connect(f"/{token}/ws?width=100&height=30") as socket:
            await screen_until(socket, b"fix-parser")
            for hostile in ("", "[", "[]", "{}", '["stdin"]', '["stdin", 7]', '["resize", {}]',
                            '["resize", {"width": -5, "height": 1e99}]', '["x", null]',
                            "[" * 9000):  # fmt: skip
                await socket.send_str(hostile)
            await socket.send_json(["resize", {"width": 120, "height": 40}])
            await socket.send_json(["stdin", "?"])
            await screen_until(socket, b"keys and commands")
            async with asyncio.timeout(60):
                while (await socket.receive()).type is aiohttp.WSMsgType.BINARY:
                    if not socket.closed:  # the first q closes the help, another the application
                        await socket.send_json(["stdin", "q"])
        async with asyncio.timeout(30):
            while applications():
                await asyncio.sleep(0.05)


async def test_a_window_that_is_closed_takes_its_application_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(monkeypatch) as (client, token):
        async with client.ws_connect(f"/{token}/ws") as socket:
            await screen_until(socket, b"sandboxes")
            assert len(applications()) == 1
        async with asyncio.timeout(30):
            while applications():
                await asyncio.sleep(0.05)


async def test_an_application_that_does_not_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "END_S", 0.3)
    stubborn = "import time; print('__GANGLION__', flush=True); time.sleep(1000)"
    command = [sys.executable, "-c", stubborn, "tests.tui.served_app"]
    async with serving(monkeypatch, command) as (client, token):
        async with client.ws_connect(f"/{token}/ws"), asyncio.timeout(30):
            while not applications():
                await asyncio.sleep(0.02)
        async with asyncio.timeout(30):
            while applications():
                await asyncio.sleep(0.02)


async def test_more_windows_than_a_few_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "MAX_APPLICATIONS", 0)
    async with serving(monkeypatch) as (client, token):
        assert (await client.get(f"/{token}/ws")).status == 503


# -- the command ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8000", ("127.0.0.1", 8000)), ("localhost:80", ("localhost", 80)), ("0", ("127.0.0.1", 0)),
     ("127.0.0.7:1", ("127.0.0.7", 1)), ("[::1]:65535", ("::1", 65535))],
)  # fmt: skip
def test_an_address_of_this_machine(text: str, expected: tuple[str, int]) -> None:
    assert parse_address(text, allow_remote=False) == expected


@pytest.mark.parametrize("text", ["", "x", "65536", "-1", ":8000", "1:", "٣", "127.0.0.1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ServeError):
        parse_address(text, allow_remote=True)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "[::]", "example.org"])
def test_an_address_others_reach_has_to_be_allowed(host: str) -> None:
    with pytest.raises(ServeError, match="--allow-remote"):
        parse_address(f"{host}:8000", allow_remote=False)
    assert parse_address(f"{host}:8000", allow_remote=True)[1] == 8000


def test_an_ipv6_address_has_brackets_in_its_url() -> None:
    assert url_of("::1", 80, "t") == "http://[::1]:80/t/"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--serve"], "takes"), (["--serve", "0.0.0.0:80"], "--allow-remote"),
     (["--allow-remote"], "unknown"), (["--serve", "1", "--x"], "unknown argument --x")],
)  # fmt: skip
def test_a_bad_command_line_serves_nothing(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert start.main(arguments) == 2
    assert says in capsys.readouterr().err


def test_it_prints_its_address_serves_there_and_ends_cleanly(tmp_path: Path) -> None:
    environment = {**os.environ, "MACHINEN_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "machinen_tui", "--serve", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        guard = threading.Timer(60, process.kill)
        guard.start()
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            token = url.split("/")[3]
            asyncio.run(_open_window_and_interrupt(url, process))
            assert process.stderr is not None
            out, err = process.stdout.read(), process.stderr.read()
            process.wait()
        finally:
            guard.cancel()
    assert (process.returncode, err) == (0, "")
    assert "run on" in out
    assert token not in " ".join(command)


async def _open_window_and_interrupt(url: str, process: subprocess.Popen[str]) -> None:
    """Ctrl-C while somebody looks: the window's application must go too."""
    async with aiohttp.ClientSession() as session:
        socket = await session.ws_connect(f"{url}ws")
        await screen_until(socket, b"sandboxes")
        below = psutil.Process(process.pid).children(recursive=True)
        assert below
        token = url.split("/")[3]
        assert not any(token in " ".join([*p.cmdline(), *p.environ().values()]) for p in below)
        process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + 60
        while any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in below):
            assert time.monotonic() < deadline, "its application runs on"
            await asyncio.sleep(0.05)
        await socket.close()


def test_a_port_that_is_taken_is_an_error_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    async def take() -> int:
        holder = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
        async with holder:
            port = holder.sockets[0].getsockname()[1]
            return await asyncio.to_thread(_serve_in_thread, port)

    assert asyncio.run(take()) == 1
    assert "cannot listen on 127.0.0.1" in capsys.readouterr().err


def _serve_in_thread(port: int) -> int:
    return serve.serve_command("127.0.0.1", port, [])
