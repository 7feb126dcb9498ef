"""The application in a real browser, headless Chromium: it is drawn, takes keys, and says when it
has ended. Spoken to by the Chrome DevTools Protocol 1.3."""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
import shutil
import signal
import struct
import zlib
from asyncio.subprocess import DEVNULL, create_subprocess_exec
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from machinen_tui.theme import DARK_DEFAULTS, DARK_LOOK
from tests.tui.test_serve import serving

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
WIDTH, HEIGHT = 1000, 600


class Page:
    """One tab of the browser."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._session = ""

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        await self._socket.send_json(message)
        while True:
            answer = await self._socket.receive_json()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    async def open(self, url: str) -> None:
        target = await self.call("Target.createTarget", url="about:blank",
                                 width=WIDTH, height=HEIGHT)  # fmt: skip
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"],
                                   flatten=True)  # fmt: skip
        self._session = attached["sessionId"]
        await self.call("Page.navigate", url=url)

    async def until(self, script: str) -> None:
        """Wait until JavaScript says yes."""
        async with asyncio.timeout(90):
            while True:
                result = await self.call("Runtime.evaluate", expression=script)
                if result["result"].get("value") is True:
                    return
                await asyncio.sleep(0.1)

    async def press(self, key: str) -> None:
        await self.call("Input.dispatchKeyEvent", type="keyDown", text=key, key=key)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def screenshot(self) -> bytes:
        """As PNG."""
        shot = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(shot["data"])


@asynccontextmanager
async def browser(directory: Path) -> AsyncGenerator[Page]:
    """Chromium without a window; gone at the end."""
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.fail("there is no Chromium; `make test` installs one")
    process = await create_subprocess_exec(
        program, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
        "--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={directory}", "about:blank",
        stdout=DEVNULL, stderr=DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(await devtools(directory), max_msg_size=1 << 26) as socket,
        ):
            yield Page(socket)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # its helpers too
        await process.wait()


async def devtools(directory: Path) -> str:
    """Where the browser listens: it writes port and path into its directory."""
    written = directory / "DevToolsActivePort"
    async with asyncio.timeout(60):
        while True:
            if written.exists() and len(lines := written.read_text().split()) == 2:
                return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
            await asyncio.sleep(0.05)


async def test_it_is_drawn_takes_keys_and_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async with serving(monkeypatch) as (client, token), browser(tmp_path) as page:
        await page.open(f"http://127.0.0.1:{client.port}/{token}/")
        await page.until("document.body.classList.contains('-first-byte')")
        async with asyncio.timeout(90):
            while True:
                shot = await page.screenshot()
                if looks_like_us(shot):
                    break
                await asyncio.sleep(0.2)
        (tmp_path / "browser.png").write_bytes(shot)
        await page.until("document.querySelector('textarea').focus() === undefined")
        await page.press("q")
        await page.until("document.body.classList.contains('-closed')")
        await page.until("document.body.innerText.includes('the sandboxes run on')")


def looks_like_us(png: bytes) -> bool:
    """Background, the colour of what runs, of what is chosen: all in sensible amounts."""
    colors = pixels(png)
    total = sum(colors.values())
    running = rgb(DARK_LOOK.states["running"])
    chosen = rgb(DARK_DEFAULTS["chosen"])
    background = rgb(DARK_LOOK.theme.background or "")
    return (
        colors[background] > total / 3
        and colors[chosen] > total / 500
        and colors[running] > total / 20_000
    )


def rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
    return red, green, blue


def pixels(png: bytes) -> Counter[tuple[int, int, int]]:
    """How often each colour is in a PNG of 8 bits and 3 or 4 channels (PNG 1.2, 6 and 9)."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    at, data, width, channels = 8, b"", 0, 0
    while at < len(png):
        size, kind = struct.unpack_from(">I4s", png, at)
        chunk = png[at + 8 : at + 8 + size]
        if kind == b"IHDR":
            width, _, depth, color, *_ = struct.unpack(">IIBBBBB", chunk)
            assert depth == 8
            channels = {2: 3, 6: 4}[color]
        elif kind == b"IDAT":
            data += chunk
        at += size + 12
    raw, stride = zlib.decompress(data), width * channels
    before = bytes(stride)
    counted: Counter[tuple[int, int, int]] = Counter()
    for start in range(0, len(raw), stride + 1):
        before = unfiltered(raw[start], raw[start + 1 : start + 1 + stride], before, channels)
        counted.update(zip(before[::channels], before[1::channels], before[2::channels],
                           strict=True))  # fmt: skip
    return counted


def unfiltered(kind: int, row: bytes, above: bytes, channels: int) -> bytes:
    """One row without its filter."""
    if kind == 0:
        return row
    out = bytearray(row)
    for i, value in enumerate(row):
        left = out[i - channels] if i >= channels else 0
        corner = above[i - channels] if i >= channels else 0
        guess = {1: left, 2: above[i], 3: (left + above[i]) // 2, 4: paeth(left, above[i], corner)}
        out[i] = (value + guess[kind]) & 255
    return bytes(out)


def paeth(left: int, above: int, corner: int) -> int:
    estimate = left + above - corner
    return min((left, above, corner), key=lambda each: abs(estimate - each))
