"""Commands through the exec channel, against an agent that runs them here."""

from __future__ import annotations

import os
import resource
import shlex
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from anyio.streams.memory import MemoryObjectReceiveStream

from machinen_runtime.channel_exec import VsockExec, VsockExecOptions, VsockExecResult
from machinen_runtime.channel_format import EXEC_PORT
from machinen_runtime.errors import ErrorCode, ExecError
from machinen_runtime.log_events import ChunkLogEvent, LogEvent
from tests.fakes import Handler, Peer, fake_agent, host_exec


@pytest.fixture
def vsock(tmp_path: Path) -> Path:
    return tmp_path / "vsock.sock"


async def run(
    vsock: Path, cmd: str | Sequence[str], options: VsockExecOptions | None = None
) -> VsockExecResult:
    async with fake_agent(vsock, {EXEC_PORT: host_exec}):
        return await VsockExec.run(vsock, cmd, options)


async def failure(vsock: Path, handler: Handler, options: VsockExecOptions) -> ExecError:
    async with fake_agent(vsock, {EXEC_PORT: handler}):
        with pytest.raises(ExecError) as caught:
            await VsockExec.run(vsock, "true", options)
    return caught.value


async def test_output_and_exit_code_come_back(vsock: Path) -> None:
    result = await run(vsock, "echo out; echo err >&2; exit 3")
    assert result == VsockExecResult(exit_code=3, stdout="out\n", stderr="err\n")


async def test_argv_is_no_shell_text(vsock: Path) -> None:
    result = await run(vsock, ["printf", "%s|", "a b", "$HOME", "", "'"])
    assert result.stdout == "a b|$HOME||'|"


async def test_output_that_is_no_utf8_is_replaced(vsock: Path) -> None:
    assert (await run(vsock, r"printf '\377a'")).stdout == "\ufffda"


async def test_env_and_cwd_reach_the_command(vsock: Path, tmp_path: Path) -> None:
    options = VsockExecOptions(env={"GREETING": "a=b\nc"}, cwd=str(tmp_path))
    assert (await run(vsock, 'echo "$GREETING"; pwd', options)).stdout == f"a=b\nc\n{tmp_path}\n"


@pytest.mark.provokes(ErrorCode.EXEC_CWD_INVALID)
async def test_a_missing_cwd_is_an_error(vsock: Path) -> None:
    with pytest.raises(ExecError) as caught:
        await run(vsock, "pwd", VsockExecOptions(cwd="/no/such/place"))
    assert caught.value.code is ErrorCode.EXEC_CWD_INVALID


async def test_bytes_are_the_commands_input(vsock: Path) -> None:
    data = os.urandom(300_000)
    got = bytearray()
    result = await run(vsock, "cat", VsockExecOptions(stdin=data, on_stdout=got.extend))
    assert (bytes(got), result.stdout, result.exit_code) == (data, "", 0)


async def test_a_stream_is_the_commands_input(vsock: Path) -> None:
    send, receive = anyio.create_memory_object_stream[bytes](4)
    for piece in (b"one ", b"two"):
        send.send_nowait(piece)
    send.close()
    with receive:
        result = await run(vsock, "cat", VsockExecOptions(stdin=_ByteStream(receive)))
    assert result.stdout == "one two"


async def test_a_command_that_ignores_its_input_ends(vsock: Path) -> None:
    result = await run(vsock, "exec 0<&-; echo done", VsockExecOptions(stdin=bytes(5_000_000)))
    assert result.stdout == "done\n"


async def test_without_input_stdin_is_at_its_end(vsock: Path) -> None:
    assert (await run(vsock, "cat; echo end")).stdout == "end\n"


async def test_events_come_beside_the_collected_output(vsock: Path) -> None:
    events: list[LogEvent] = []
    result = await run(vsock, "echo a; echo b >&2", VsockExecOptions(on_log=events.append))
    assert (result.stdout, result.stderr) == ("a\n", "b\n")
    chunks = {event.source: event.chunk for event in events if isinstance(event, ChunkLogEvent)}
    assert chunks == {"exec-stdout": b"a\n", "exec-stderr": b"b\n"}


async def test_fifty_megabytes_stream_in_constant_memory(vsock: Path) -> None:
    seen = 0

    def count(chunk: bytes) -> None:
        nonlocal seen
        seen += len(chunk)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    await run(vsock, "head -c 50000000 /dev/zero", VsockExecOptions(on_stdout=count))
    grown_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert seen == 50_000_000
    assert grown_kib < 20_000


@pytest.mark.provokes(ErrorCode.EXEC_AGENT_TIMEOUT)
async def test_a_slow_command_times_out(vsock: Path) -> None:
    with pytest.raises(ExecError) as caught:
        await run(vsock, "sleep 60", VsockExecOptions(exec_timeout_ms=100))
    assert (caught.value.code, caught.value.retryable) == (ErrorCode.EXEC_AGENT_TIMEOUT, True)


async def test_refused_connections_are_tried_again(vsock: Path) -> None:
    async with fake_agent(vsock, {EXEC_PORT: host_exec}) as agent:
        agent.refuse = 2
        result = await VsockExec.run(vsock, "echo hi", VsockExecOptions(retry_ms=5))
    assert result.stdout == "hi\n"
    assert agent.connected == [EXEC_PORT] * 3


async def test_an_agent_that_comes_up_later_is_waited_for(vsock: Path) -> None:
    results: list[VsockExecResult] = []

    async def client() -> None:
        results.append(await VsockExec.run(vsock, "echo hi", VsockExecOptions(retry_ms=5)))
        served.cancel()

    with anyio.CancelScope() as served:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client)
            await anyio.wait_all_tasks_blocked()
            async with fake_agent(vsock, {EXEC_PORT: host_exec}):
                await anyio.sleep_forever()
    assert results[0].stdout == "hi\n"


async def test_a_link_lost_before_any_reply_is_set_up_again(vsock: Path) -> None:
    attempts = 0

    async def flaky(peer: Peer) -> None:
        nonlocal attempts
        attempts += 1
        if attempts == 3:
            await host_exec(peer)

    async with fake_agent(vsock, {EXEC_PORT: flaky}):
        result = await VsockExec.run(vsock, "echo hi", VsockExecOptions(retry_ms=5))
    assert (result.stdout, attempts) == ("hi\n", 3)


@pytest.mark.provokes(ErrorCode.EXEC_AGENT_UNAVAILABLE)
async def test_a_command_that_has_answered_is_never_run_again(vsock: Path) -> None:
    attempts = 0

    async def dies(peer: Peer) -> None:
        nonlocal attempts
        attempts += 1
        await peer.frame(b"O", b"x")

    error = await failure(vsock, dies, VsockExecOptions(retry_ms=5))
    assert (error.code, error.retryable, attempts) == (
        ErrorCode.EXEC_AGENT_UNAVAILABLE,
        True,
        1,
    )


async def test_nobody_there_is_an_error_after_the_time(vsock: Path) -> None:
    options = VsockExecOptions(connect_timeout_ms=50, retry_ms=5)
    with pytest.raises(ExecError) as caught:
        await VsockExec.run(vsock, "true", options)
    assert (caught.value.code, caught.value.retryable) == (
        ErrorCode.EXEC_AGENT_UNAVAILABLE,
        True,
    )


async def test_a_vm_whose_directory_is_gone_fails_at_once(vsock: Path) -> None:
    with anyio.fail_after(60), pytest.raises(ExecError) as caught:
        await VsockExec.run(vsock.parent / "gone" / "vsock.sock", "true")
    assert caught.value.code is ErrorCode.EXEC_AGENT_UNAVAILABLE


@pytest.mark.parametrize(
    "reply",
    [
        *(b"O -1\n", b"O x\n", b"O 99999999999\n", b"X 256\n", b"Z 1\n", b"\n"),
        *(b"O 1" + b"0" * 64, b"F 70000\n", b"S 0 5\n", b"P 0\n", b"X 0\nX 0\n"),
        b"HTTP/1.1 400 Bad Request\r\n",
    ],
)
@pytest.mark.provokes(ErrorCode.EXEC_PROTOCOL)
async def test_a_broken_protocol_is_an_error(vsock: Path, reply: bytes) -> None:
    async def broken(peer: Peer) -> None:
        await peer.line()
        await peer.send(reply)
        await peer.rest()

    error = await failure(vsock, broken, VsockExecOptions(exec_timeout_ms=5000))
    assert error.code is ErrorCode.EXEC_PROTOCOL


@pytest.mark.parametrize("answer", [b"NO 5\n", b"O" * 64])
async def test_a_monitor_that_answers_nonsense_is_an_error(vsock: Path, answer: bytes) -> None:
    async def unreached(peer: Peer) -> None:
        raise AssertionError

    async with fake_agent(vsock, {EXEC_PORT: unreached}) as agent:
        agent.answer = answer
        with pytest.raises(ExecError) as caught:
            await VsockExec.run(vsock, "true")
    assert caught.value.code is ErrorCode.EXEC_AGENT_UNAVAILABLE


async def test_a_failing_callback_ends_the_command(vsock: Path) -> None:
    class OwnError(Exception):
        pass

    def fail(chunk: bytes) -> None:
        raise OwnError

    with pytest.raises(OwnError):
        await run(vsock, "yes", VsockExecOptions(on_stdout=fail, stdin=b"x"))


async def test_cancelling_hangs_up_on_the_command(vsock: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    async with fake_agent(vsock, {EXEC_PORT: host_exec}):
        started = anyio.Event()
        async with anyio.create_task_group() as tasks:

            async def command() -> None:
                cmd = f"exec 3<>{shlex.quote(str(fifo))}; echo; sleep 300"
                await VsockExec.run(vsock, cmd, VsockExecOptions(on_stdout=lambda _: started.set()))

            tasks.start_soon(command)
            await started.wait()
            tasks.cancel_scope.cancel()


async def test_a_hundred_commands_at_once(vsock: Path) -> None:
    outputs: list[str] = []
    async with fake_agent(vsock, {EXEC_PORT: host_exec}):

        async def one(number: int) -> None:
            result = await VsockExec.run(vsock, ["echo", str(number)])
            outputs.append(result.stdout)

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(one, number)
    assert sorted(outputs) == sorted(f"{number}\n" for number in range(100))


class _ByteStream(anyio.abc.ByteReceiveStream):
    def __init__(self, source: MemoryObjectReceiveStream[bytes]) -> None:
        self.source = source

    async def receive(self, max_bytes: int = 65536) -> bytes:
        return await self.source.receive()

    async def aclose(self) -> None:
        self.source.close()
