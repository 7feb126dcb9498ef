"""Named sessions and terminals through the exec channel."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from anyio.abc import ByteReceiveStream, ByteSendStream

from machinen_runtime.channel_exec import (
    SessionInfo,
    VsockExec,
    VsockExecPtyHandle,
    kill_session,
    list_sessions,
    open_session,
)
from machinen_runtime.channel_format import EXEC_PORT
from machinen_runtime.channel_sessions import Exited, Output, ReplayDone, Resized
from machinen_runtime.errors import ErrorCode, ExecError
from tests.fakes import Peer, echo_session, fake_agent, parse_fields


@pytest.fixture
def vsock(tmp_path: Path) -> Path:
    return tmp_path / "vsock.sock"


async def test_a_session_is_replayed_typed_into_and_resized(vsock: Path) -> None:
    async with (
        fake_agent(vsock, {EXEC_PORT: echo_session}),
        open_session(vsock, cols=80, rows=24) as session,
    ):
        assert await session.receive() == Resized(80, 24)
        assert await session.receive() == Output(b"before ", replay=True)
        assert await session.receive() == ReplayDone()
        await session.send(b"")
        await session.send(b"hi")
        assert await session.receive() == Output(b"<hi>", replay=False)
        await session.resize(100, 30)
        assert await session.receive() == Resized(100, 30)
        await session.send(b"q")
        assert await session.receive() == Output(b"<q>", replay=False)
        assert await session.receive() == Exited(4)
        with pytest.raises(anyio.EndOfStream):
            await session.receive()


@pytest.mark.provokes(ErrorCode.EXEC_SESSION_NOT_FOUND)
async def test_an_unknown_session_is_an_error(vsock: Path) -> None:
    async with (
        fake_agent(vsock, {EXEC_PORT: echo_session}),
        open_session(vsock, "nobody", cols=80, rows=24) as session,
    ):
        with pytest.raises(ExecError) as caught:
            await session.receive()
    assert caught.value.code is ErrorCode.EXEC_SESSION_NOT_FOUND


async def test_what_open_session_asks_for(vsock: Path) -> None:
    asked: list[dict[str, str]] = []

    async def note(peer: Peer) -> None:
        asked.append(dict(parse_fields(await peer.exactly(int((await peer.line()).split()[1])))))

    async with fake_agent(vsock, {EXEC_PORT: note}):
        for create, cmd in ((False, None), (True, None), (True, "top")):
            async with open_session(
                vsock, "x", cols=80, rows=24, create=create, cmd=cmd
            ) as session:
                with pytest.raises(anyio.EndOfStream):
                    await session.receive()
    common = {"session": "x", "stdin": "1", "pty": "80x24"}
    assert asked == [
        {**common, "attach": "1"},
        {**common, "login": "1"},
        {**common, "cmd": "top"},
    ]


@pytest.mark.parametrize("name", ["", "a b", "a/b", "x" * 65, "é"])
@pytest.mark.provokes(ErrorCode.EXEC_REQUEST_INVALID)
async def test_what_is_no_name_of_a_session_is_refused(vsock: Path, name: str) -> None:
    with pytest.raises(ExecError) as caught:
        await kill_session(vsock, name)
    assert caught.value.code is ErrorCode.EXEC_REQUEST_INVALID


async def test_sessions_are_listed_and_killed(vsock: Path) -> None:
    asked: list[bytes] = []

    async def service(peer: Peer) -> None:
        asked.append(await peer.line())
        if asked[-1] == b"PTYLIST":
            await peer.frame(b"O", b"main\t7\t80\t24\t1\t1700")
            await peer.frame(b"O", b"000000\nlogs\t9\t1\t2\t0\t3\n")
        else:
            asked.append(await peer.exactly(4))
        await peer.send(b"X 0\n")

    async with fake_agent(vsock, {EXEC_PORT: service}):
        assert await list_sessions(vsock) == [
            SessionInfo(name="main", pid=7, cols=80, rows=24, clients=1, started_at=1.7e12),
            SessionInfo(name="logs", pid=9, cols=1, rows=2, clients=0, started_at=3000),
        ]
        await kill_session(vsock, "logs")
    assert asked == [b"PTYLIST", b"PTYKILL 4", b"logs"]


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (b"O 6\na\tb\tc\nX 0\n", ErrorCode.EXEC_PROTOCOL),
        (b"O 14\n\x1b\t1\t1\t1\t1\t1\nxX 0\n", ErrorCode.EXEC_PROTOCOL),
        (b"X 1\n", ErrorCode.EXEC_PROTOCOL),
        (b"E 1\nx", ErrorCode.EXEC_PROTOCOL),
        (b"F 14\nNO_SESSION gon", ErrorCode.EXEC_SESSION_NOT_FOUND),
        (b"", ErrorCode.EXEC_AGENT_UNAVAILABLE),
    ],
)
async def test_a_broken_list_is_an_error(vsock: Path, reply: bytes, code: ErrorCode) -> None:
    async def service(peer: Peer) -> None:
        await peer.line()
        await peer.send(reply)

    async with fake_agent(vsock, {EXEC_PORT: service}):
        with pytest.raises(ExecError) as caught:
            await list_sessions(vsock)
    assert caught.value.code is code


async def test_an_agent_that_does_not_answer_times_out(vsock: Path) -> None:
    async def silent(peer: Peer) -> None:
        await peer.rest()

    async with fake_agent(vsock, {EXEC_PORT: silent}):
        with pytest.raises(ExecError) as caught:
            await list_sessions(vsock, connect_timeout_ms=500)
    assert caught.value.code is ErrorCode.EXEC_AGENT_TIMEOUT


class Typed(ByteReceiveStream):
    """What is typed, then silence."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = list(chunks)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        if self.chunks:
            return self.chunks.pop(0)
        await anyio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        pass


class Shown(ByteSendStream):
    def __init__(self) -> None:
        self.data = b""
        self.changed = anyio.Event()

    async def send(self, item: bytes) -> None:
        self.data += item
        self.changed.set()

    async def aclose(self) -> None:
        pass


async def terminal(peer: Peer) -> None:
    """A terminal that shows what it gets: its request, its input, its sizes."""
    request = parse_fields(await peer.exactly(int((await peer.line()).split()[1])))
    await peer.frame(b"O", repr(request).encode())
    while True:
        line = await peer.line()
        if line.startswith(b"R "):
            await peer.frame(b"O", b"<" + line + b">")
            continue
        data = await peer.exactly(int(line[2:]))
        await peer.frame(b"O", data)
        if data == b"exit":
            await peer.send(b"X 6\n")
            return


async def test_a_pty_moves_bytes_both_ways(vsock: Path) -> None:
    shown = Shown()
    async with fake_agent(vsock, {EXEC_PORT: terminal}):
        handle = VsockExec.start_pty(
            vsock, "top", cols=80, rows=24, stdin=Typed(b"hello", b"exit"), stdout=shown
        )
        assert (await handle.result).exit_code == 6
        assert (await handle.result).exit_code == 6
    assert shown.data == b"[('cmd', 'top'), ('pty', '80x24'), ('stdin', '1')]helloexit"


async def test_a_pty_is_resized(vsock: Path) -> None:
    shown = Shown()
    async with fake_agent(vsock, {EXEC_PORT: terminal}), anyio.create_task_group() as tasks:
        handle = VsockExec.start_pty(vsock, None, cols=80, rows=24, stdin=Typed(), stdout=shown)
        tasks.start_soon(_cancelled, handle)
        await shown.changed.wait()
        assert b"('login', '1')" in shown.data
        shown.changed = anyio.Event()
        handle.resize(100, 30)
        with anyio.fail_after(60):
            await shown.changed.wait()
        assert shown.data.endswith(b"<R 100 30>")
        handle.cancel()


async def _cancelled(handle: VsockExecPtyHandle) -> None:
    with pytest.raises(ExecError) as caught:
        await handle.result
    assert (caught.value.code, caught.value.retryable) == (
        ErrorCode.EXEC_AGENT_UNAVAILABLE,
        False,
    )


@pytest.mark.provokes(ErrorCode.EXEC_VSOCK_UNAVAILABLE)
async def test_a_pty_without_a_vm_is_an_error_and_its_methods_do_nothing(tmp_path: Path) -> None:
    for path, code in (
        (None, ErrorCode.EXEC_VSOCK_UNAVAILABLE),
        (tmp_path / "none.sock", ErrorCode.EXEC_AGENT_UNAVAILABLE),
    ):
        handle = VsockExec.start_pty(
            path, "x", cols=80, rows=24, stdin=Typed(), stdout=Shown(), connect_timeout_ms=50
        )
        handle.resize(1, 1)
        with pytest.raises(ExecError) as caught:
            await handle.result
        handle.cancel()
        assert (caught.value.code, caught.value.retryable) == (code, False)


async def test_stderr_on_a_pty_breaks_the_protocol(vsock: Path) -> None:
    async def service(peer: Peer) -> None:
        await peer.frame(b"E", b"x")
        await peer.rest()

    async with fake_agent(vsock, {EXEC_PORT: service}):
        handle = VsockExec.start_pty(vsock, "x", cols=80, rows=24, stdin=Typed(), stdout=Shown())
        with pytest.raises(ExecError) as caught:
            await handle.result
    assert caught.value.code is ErrorCode.EXEC_PROTOCOL
