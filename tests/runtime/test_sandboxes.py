"""Sandboxes on real programs under pseudo-terminals."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import ByteReceiveStream, ByteSendStream

from machinen_runtime.errors import BootError, ErrorCode, SandboxError
from machinen_runtime.pty_process import PtyVmHandle, boot_pty
from machinen_runtime.sandboxes import Sandboxes
from tests.fakes import until


@asynccontextmanager
async def running(*command: str) -> AsyncGenerator[PtyVmHandle]:
    vm = boot_pty(binary=command[0], args=command[1:])
    try:
        yield vm
    finally:
        with anyio.CancelScope(shield=True):
            await vm.kill()


async def test_output_is_kept_and_listened_to() -> None:
    heard: list[bytes] = []
    async with Sandboxes() as sandboxes, running("cat") as vm:
        sandboxes.add("a", vm)
        sandboxes.on_output("a", lambda chunk, source: heard.append(chunk))
        assert await sandboxes.send("a", "hello\n")
        await until(lambda: b"".join(heard).count(b"hello") == 2)
        entry = sandboxes.get("a")
        assert entry is not None
        assert entry.scrollback == b"hello\r\nhello\r\n"
        assert [info.id for info in sandboxes.list()] == ["a"]


async def test_the_scrollback_keeps_the_last_bytes() -> None:
    command = ("sh", "-c", "seq 1000; exec cat")
    async with Sandboxes(scrollback_bytes=100) as sandboxes, running(*command) as vm:
        sandboxes.add("a", vm)
        entry = sandboxes.get("a")
        assert entry is not None
        await until(lambda: entry.scrollback.endswith(b"\r\n999\r\n1000\r\n"))
        assert len(entry.scrollback) == 100


async def test_unsubscribed_listeners_hear_nothing() -> None:
    heard: list[bytes] = []
    async with Sandboxes() as sandboxes, running("cat") as vm:
        stop = sandboxes.on_output("a", lambda chunk, source: heard.append(chunk))
        sandboxes.add("a", vm)
        stop()
        stop()
        await sandboxes.send("a", "x\n")
        entry = sandboxes.get("a")
        await until(lambda: entry is not None and b"x" in entry.scrollback)
    assert heard == []


@pytest.mark.provokes(ErrorCode.SANDBOX_ID_DUPLICATE)
async def test_an_id_is_used_once() -> None:
    async with Sandboxes() as sandboxes, running("cat") as vm:
        sandboxes.add("a", vm)
        with pytest.raises(SandboxError, match="already registered") as caught:
            sandboxes.add("a", vm)
        assert caught.value.code is ErrorCode.SANDBOX_ID_DUPLICATE
        sandboxes.remove("a")
        sandboxes.add("a", vm)


async def test_an_unknown_id_takes_nothing() -> None:
    async with Sandboxes() as sandboxes:
        assert not await sandboxes.send("nobody", b"x")
        assert sandboxes.get("nobody") is None
        sandboxes.remove("nobody")


async def test_a_sandbox_leaves_when_it_ends_and_its_last_words_are_heard() -> None:
    heard: list[bytes] = []
    ended = anyio.Event()
    async with Sandboxes() as sandboxes, running("sh", "-c", "read x; echo bye $x") as vm:
        sandboxes.add("a", vm)
        sandboxes.on_output("a", lambda chunk, source: heard.append(chunk))
        sandboxes.on_end("a", ended.set)
        await sandboxes.send("a", "now\n")
        with anyio.fail_after(60):
            await ended.wait()
        assert sandboxes.list() == ()
        assert b"bye now" in b"".join(heard)


class _Impatient:
    """A VM whose wait() loses its patience twice before the VM ends."""

    def __init__(self) -> None:
        self.waits = 0
        self.may_end = anyio.Event()
        self._send, self._receive = anyio.create_memory_object_stream[bytes]()

    stdin: ByteSendStream

    @property
    def stdout(self) -> ByteReceiveStream:
        return _Silent()

    @property
    def stderr(self) -> ByteReceiveStream:
        return _Silent()

    async def wait(self) -> None:
        self.waits += 1
        if self.waits < 3:
            raise BootError(ErrorCode.BOOT_TIMEOUT, "still there")
        await self.may_end.wait()


class _Silent(ByteReceiveStream):
    async def receive(self, max_bytes: int = 65536) -> bytes:
        raise anyio.EndOfStream

    async def aclose(self) -> None:
        pass


async def test_an_impatient_wait_does_not_drop_a_live_vm() -> None:
    async with Sandboxes() as sandboxes:
        vm = _Impatient()
        with vm._send, vm._receive:  # pyright: ignore[reportPrivateUsage]
            sandboxes.add("a", vm)
            await until(lambda: vm.waits == 3)
            assert len(sandboxes.list()) == 1
            vm.may_end.set()
            await until(lambda: not sandboxes.list())
