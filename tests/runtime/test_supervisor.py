"""Supervisor: what one types and what one sees."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.abc import ByteReceiveStream, ByteSendStream

from machinen_runtime.errors import ErrorCode, SandboxError
from machinen_runtime.pty_process import boot_pty
from machinen_runtime.sandboxes import Sandboxes
from machinen_runtime.supervisor import Supervisor
from tests.fakes import until


class Keyboard(ByteReceiveStream):
    """Chunks a test types; "" ends the input."""

    def __init__(self) -> None:
        self.send, self.source = anyio.create_memory_object_stream[bytes](100)

    def type(self, chunk: bytes | str) -> None:
        self.send.send_nowait(chunk.encode() if isinstance(chunk, str) else chunk)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self.source.receive()

    async def aclose(self) -> None:
        self.send.close()
        self.source.close()


class Screen(ByteSendStream):
    def __init__(self) -> None:
        self.shown = b""

    async def send(self, item: bytes) -> None:
        self.shown += item

    async def aclose(self) -> None:
        pass


class Recorder(ByteSendStream):
    """The stdin of a sandbox that keeps what it gets."""

    def __init__(self) -> None:
        self.got = b""

    async def send(self, item: bytes) -> None:
        self.got += item

    async def aclose(self) -> None:
        pass


class FakeVm:
    """A VM that says what a test wants it to say."""

    def __init__(self) -> None:
        self.stdin = Recorder()
        self.stdout = Keyboard()
        self.stderr = self.stdout
        self.ended = anyio.Event()
        self.sizes: list[tuple[int, int]] = []

    def resize(self, cols: int, rows: int) -> None:
        self.sizes.append((cols, rows))

    async def wait(self) -> None:
        await self.ended.wait()


class Desk:
    """A supervisor at work, with sandboxes `a` and `b`."""

    def __init__(self, sandboxes: Sandboxes, forward_resize: bool) -> None:
        self.keyboard, self.screen = Keyboard(), Screen()
        self.vms = {"a": FakeVm(), "b": FakeVm()}
        self.supervisor = Supervisor(
            sandboxes=sandboxes,
            input_stream=self.keyboard,
            output_stream=self.screen,
            forward_resize=forward_resize,
        )
        self.sandboxes = sandboxes

    async def shows(self, text: str) -> None:
        await until(lambda: text.encode() in self.screen.shown)

    async def gets(self, sandbox_id: str, data: bytes) -> None:
        await until(lambda: self.vms[sandbox_id].stdin.got == data)


@asynccontextmanager
async def desk(*, forward_resize: bool = False) -> AsyncGenerator[Desk]:
    async with Sandboxes() as sandboxes, anyio.create_task_group() as tasks:
        desk = Desk(sandboxes, forward_resize)
        for sandbox_id, vm in desk.vms.items():
            sandboxes.add(sandbox_id, vm)
        tasks.start_soon(desk.supervisor.run)
        yield desk
        desk.supervisor.stop()
        for vm in desk.vms.values():
            await vm.stdout.aclose()
        await desk.keyboard.aclose()


async def test_commands_are_obeyed_across_chunks() -> None:
    async with desk() as at:
        await at.shows("/attach ID")
        for chunk in ("/l", "s", "\n/atta"):
            at.keyboard.type(chunk)
        await at.shows("  a\r\n  b\r\n")
        at.keyboard.type("ch a\r")
        await at.shows("-- attached to a")


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("/attach\n", "usage: /attach ID"),
        ("/attach nobody\n", "(SANDBOX_ID_UNKNOWN) no sandbox 'nobody'"),
        ("/frob\n", "unknown command /frob"),
        ("hello\n", "(unknown input"),
        ("/help\n", "commands start with /"),
    ],
)
async def test_mistakes_are_explained(typed: str, shown: str) -> None:
    async with desk() as at:
        at.keyboard.type(typed)
        await at.shows(shown)
        assert at.vms["a"].stdin.got == b""


async def test_attaching_shows_what_was_and_what_comes() -> None:
    async with desk() as at:
        at.vms["a"].stdout.type("before ")
        entry = at.sandboxes.get("a")
        assert entry is not None
        await until(lambda: entry.scrollback == b"before ")
        at.keyboard.type("/attach a\n")
        await at.shows("before -- attached to a")
        at.vms["a"].stdout.type("after")
        at.vms["b"].stdout.type("unseen")
        await at.shows("after")
        assert b"unseen" not in at.screen.shown


@pytest.mark.parametrize(
    ("chunks", "received"),
    [
        (["x\x1d\x1d/ls\n"], b"x"),
        (["x", "\x1d", "\x1d", "/ls\n"], b"x"),
        (["x\x1d", "\x1d/l", "s\n"], b"x"),
        (["\x1dx\x1d", "y\x1d\x1d/ls\n"], b"\x1dx\x1dy"),
    ],
)
async def test_two_keys_come_back_and_nothing_leaks(chunks: list[str], received: bytes) -> None:
    async with desk() as at:
        at.keyboard.type("/attach a\n")
        await at.shows("-- attached to a")
        for chunk in chunks:
            at.keyboard.type(chunk)
        await at.shows("-- detached from a --\r\n  a\r\n  b\r\n")
        assert at.vms["a"].stdin.got == received


async def test_a_lone_key_reaches_the_sandbox() -> None:
    async with desk() as at:
        at.keyboard.type("/attach a\n")
        await at.shows("-- attached to a")
        at.keyboard.type("\x1d")
        await at.gets("a", b"\x1d")


@pytest.mark.provokes(ErrorCode.SANDBOX_ID_UNKNOWN)
async def test_attaching_elsewhere_leaves_first() -> None:
    async with desk() as at:
        at.keyboard.type("/attach a\n")
        await at.shows("-- attached to a")
        at.supervisor.attach("b")
        at.keyboard.type("for b")
        await at.gets("b", b"for b")
        await at.shows("-- detached from a --\r\n-- attached to b")
        with pytest.raises(SandboxError) as caught:
            at.supervisor.attach("nobody")
        assert caught.value.code is ErrorCode.SANDBOX_ID_UNKNOWN


async def test_a_sandbox_that_ends_is_left() -> None:
    async with desk() as at:
        at.keyboard.type("/attach a\n")
        await at.shows("-- attached to a")
        at.vms["a"].ended.set()
        await at.vms["a"].stdout.aclose()
        await at.shows("-- a has ended --\r\n-- detached from a --")
        at.keyboard.type("/ls\n")
        await at.shows("  b\r\n")


async def test_the_size_goes_to_the_sandbox() -> None:
    async with desk(forward_resize=True) as at:
        at.keyboard.type("/attach a\n")
        await at.shows("-- attached to a")
        assert len(at.vms["a"].sizes) == 1


async def test_the_end_of_the_input_ends_it_and_no_sandbox() -> None:
    async with Sandboxes() as sandboxes:
        vm = boot_pty(binary="cat")
        sandboxes.add("cat", vm)
        keyboard, screen = Keyboard(), Screen()
        keyboard.type("/attach cat\n")
        keyboard.send.close()
        supervisor = Supervisor(sandboxes=sandboxes, input_stream=keyboard, output_stream=screen)
        with anyio.fail_after(60):
            await supervisor.run()
        assert screen.shown.endswith(b"-- detached from cat --\r\n")
        assert [info.id for info in sandboxes.list()] == ["cat"]
        await vm.kill()
        keyboard.source.close()


ON_A_TERMINAL = """
import anyio, subprocess
from machinen_runtime.pty_process import boot_pty
from machinen_runtime.sandboxes import Sandboxes
from machinen_runtime.supervisor import Supervisor

async def main():
    async with Sandboxes() as sandboxes:
        vm = boot_pty(binary="sh", args=["-c", "stty size; cat -v"])
        sandboxes.add("a", vm)
        await Supervisor(sandboxes=sandboxes).run()
        await vm.kill()
    subprocess.run("stty -a | grep -o '[-]*icanon'; stty size", shell=True)

anyio.run(main)
"""


async def test_on_a_terminal_it_is_raw_while_attached_and_as_before_afterwards() -> None:
    terminal = boot_pty(binary=sys.executable, args=["-c", ON_A_TERMINAL], cols=90, rows=20)
    shown = b""

    async def shows(text: bytes) -> None:
        nonlocal shown
        with anyio.fail_after(60):
            while text not in shown:
                shown += await terminal.stdout.receive()

    await shows(b"/help")
    await terminal.stdin.send(b"/attach a\n")
    await shows(b"-- attached to a")
    await terminal.stdin.send(b"\x1b[A\r")
    await shows(b"^[[A")
    await terminal.stdin.send(b"\x1d\x1d")
    await shows(b"-- detached from a --")
    await terminal.stdin.send(b"/quit\n")
    await shows(b"icanon")
    assert b"-icanon" not in shown
    assert (await terminal.wait()).code == 0
