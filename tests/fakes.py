"""Fakes rather than mocks: a guest's agent that speaks the real protocol, on the host.

FakeAgent serves a `vsock.sock` as a monitor would. Its exec service runs the commands here, so the
clients meet real pipes, real exit codes and real back-pressure.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from anyio.abc import ByteReceiveStream, Process, TaskGroup
from anyio.streams.buffered import BufferedByteReceiveStream

from machinen_runtime.unix_stream import UnixStream


async def until(condition: Callable[[], bool], *, timeout_s: float = 60) -> None:
    """Wait for something that has no event of its own, such as a file of another process."""
    with anyio.fail_after(timeout_s):
        while not condition():
            await anyio.sleep(0.005)


Handler = Callable[["Peer"], Awaitable[None]]


class Peer:
    """The guest's end of one stream."""

    def __init__(self, stream: UnixStream) -> None:
        self.stream = stream
        self.reader = BufferedByteReceiveStream(stream)
        self.lock = anyio.Lock()

    async def line(self) -> bytes:
        """The next line without its newline; anyio.IncompleteRead at the end."""
        return await self.reader.receive_until(b"\n", 8192)

    async def exactly(self, size: int) -> bytes:
        return await self.reader.receive_exactly(size) if size else b""

    async def rest(self) -> bytes:
        """Everything until the client's EOF."""
        collected = bytearray()
        with suppress(anyio.EndOfStream):
            while True:
                collected += await self.reader.receive(65536)
        return bytes(collected)

    async def send(self, data: bytes) -> None:
        async with self.lock:
            await self.stream.send(data)

    async def frame(self, tag: bytes, data: bytes) -> None:
        await self.send(b"%b %d\n" % (tag, len(data)) + data)


@dataclass
class FakeAgent:
    """What a test sets up and may look at."""

    vsock_path: Path
    handlers: dict[int, Handler]
    connected: list[int] = field(default_factory=list[int])
    """The ports asked for, in order."""
    refuse: int = 0
    """How many connections to refuse before serving."""
    answer: bytes = b"OK 1\n"
    """What CONNECT is answered with; anything else than OK ends the stream."""

    async def serve(self, stream: UnixStream) -> None:
        try:
            async with stream:
                await self._serve(Peer(stream))
        except* (anyio.IncompleteRead, anyio.EndOfStream, anyio.BrokenResourceError):
            pass  # the client has left, as clients do

    async def _serve(self, peer: Peer) -> None:
        verb, port = (await peer.line()).split()
        assert verb == b"CONNECT"
        self.connected.append(int(port))
        handler = self.handlers.get(int(port))
        if self.refuse or handler is None:
            self.refuse = max(0, self.refuse - 1)
            return
        await peer.send(self.answer)
        if self.answer.startswith(b"OK "):
            await handler(peer)


@asynccontextmanager
async def fake_agent(vsock_path: Path, handlers: dict[int, Handler]) -> AsyncGenerator[FakeAgent]:
    """Serve `vsock_path` for the length of the block."""
    agent = FakeAgent(vsock_path, handlers)
    vsock_path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(vsock_path))
        listener.listen(128)
        listener.setblocking(False)
        failure: Exception | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_accept, listener, agent, tasks)
            try:
                yield agent
            except Exception as error:  # to be raised as it is, not in an ExceptionGroup
                failure = error
            tasks.cancel_scope.cancel()
    os.unlink(vsock_path)
    if failure is not None:
        raise failure


async def _accept(listener: socket.socket, agent: FakeAgent, tasks: TaskGroup) -> None:
    while True:
        await anyio.wait_readable(listener)
        connected, _ = listener.accept()
        tasks.start_soon(agent.serve, UnixStream(connected))


def parse_fields(body: bytes) -> list[tuple[str, str]]:
    """The records of a RUN request."""
    records = body.decode("utf-8", "surrogateescape").split("\0")
    assert records.pop() == ""
    return [(key, value) for key, _, value in (record.partition("=") for record in records)]


async def host_exec(peer: Peer) -> None:
    """The exec service, running commands on the host: RUN without terminals or sessions."""
    verb, size = (await peer.line()).split()
    assert verb == b"RUN"
    fields = parse_fields(await peer.exactly(int(size)))
    values = dict(fields)
    argv = [value for key, value in fields if key == "arg"] or ["/bin/sh", "-c", values["cmd"]]
    env = dict(item.split("=", 1) for key, item in fields if key == "env")
    if "cwd" in values and not await anyio.Path(values["cwd"]).is_dir():
        await peer.frame(b"F", b"CWD_INVALID no such directory: " + values["cwd"].encode())
        return
    async with await anyio.open_process(
        argv,
        stdin=subprocess.PIPE if "stdin" in values else subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "HOME": "/root", **env},
        cwd=values.get("cwd", "/"),
        start_new_session=True,
    ) as process:
        await _converse(peer, process)


async def _converse(peer: Peer, process: Process) -> None:
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_read_client, peer, process)
            async with anyio.create_task_group() as pumps:
                for tag, pipe in ((b"O", process.stdout), (b"E", process.stderr)):
                    assert pipe is not None
                    pumps.start_soon(_pump, peer, tag, pipe)
            code = await process.wait()
            await peer.send(b"X %d\n" % (code if code >= 0 else 128 - code))
            await peer.stream.send_eof()
            tasks.cancel_scope.cancel()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


async def _pump(peer: Peer, tag: bytes, pipe: ByteReceiveStream) -> None:
    async for chunk in pipe:
        await peer.frame(tag, chunk)


async def _read_client(peer: Peer, process: Process) -> None:
    while True:
        try:
            line = await peer.line()
        except (anyio.IncompleteRead, anyio.EndOfStream):
            if process.stdin is not None:
                await process.stdin.aclose()
            return
        tag, number = line[:1], int(line[2:].split()[0])
        if tag == b"I":
            await _input(process, await peer.exactly(number))
        elif tag == b"K":
            os.killpg(process.pid, number)
        else:
            raise AssertionError(f"unexpected frame {line!r}")


async def _input(process: Process, data: bytes) -> None:
    if process.stdin is None:
        return
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
        if data:
            await process.stdin.send(data)
        else:
            await process.stdin.aclose()


async def echo_session(peer: Peer) -> None:
    """A session `main` that shows `before`, echoes what is typed, and ends with code 4 at `q`.

    Lines `R 90 20` are answered with the new size, as the agent does.
    """
    fields = dict(parse_fields(await peer.exactly(int((await peer.line()).split()[1]))))
    if fields["session"] != "main" and fields.get("attach"):
        await peer.frame(b"F", b"NO_SESSION there is no session " + fields["session"].encode())
        return
    await peer.send(b"S %b\n" % fields.get("pty", "80x24").replace("x", " ").encode())
    await peer.frame(b"P", b"before ")
    await peer.send(b"P 0\n")
    while True:
        line = await peer.line()
        if line.startswith(b"I "):
            data = await peer.exactly(int(line[2:]))
            await peer.frame(b"O", b"<" + data + b">")
            if data == b"q":
                await peer.send(b"X 4\n")
                return
        elif line.startswith(b"R "):
            await peer.send(b"S " + line[2:] + b"\n")
