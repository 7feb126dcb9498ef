"""Commands in a real guest."""

from __future__ import annotations

import hashlib
import os
import random
import signal

import anyio
import pytest

from machinen_runtime.channel_exec import VsockExec, VsockExecOptions
from machinen_runtime.channel_format import EXEC_PORT
from machinen_runtime.channel_stream import connect_channel
from machinen_runtime.errors import ErrorCode, ExecError
from machinen_runtime.handle import VmHandle
from machinen_runtime.stdio import PipeReceiveStream, PipeSendStream

pytestmark = pytest.mark.vm


async def test_exec_returns_what_the_command_wrote_on_each_stream(vm: VmHandle) -> None:
    result = await vm.exec("echo out; echo err >&2")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)


async def test_exec_of_a_failing_command_raises_nonzero_exit(vm: VmHandle) -> None:
    with pytest.raises(ExecError) as caught:
        await vm.exec("echo why >&2; exit 3")
    assert caught.value.code is ErrorCode.EXEC_NONZERO_EXIT
    assert "why" in str(caught.value)


async def test_a_command_killed_by_a_signal_reports_128_and_the_signal(vm: VmHandle) -> None:
    result = await vm.exec_raw("kill -KILL $$")
    assert result.exit_code == 128 + signal.SIGKILL


async def test_exec_passes_stdin_environment_and_working_directory(vm: VmHandle) -> None:
    result = await vm.exec(
        'cat; echo "$GREETING $PWD"', stdin=b"input\n", env={"GREETING": "hallo"}, cwd="/usr"
    )
    assert result.stdout == "input\nhallo /usr\n"


async def test_an_argv_is_not_seen_by_a_shell(vm: VmHandle) -> None:
    result = await vm.exec(["printf", "%s|", "$HOME", "a b", ";"])
    assert result.stdout == "$HOME|a b|;|"


async def test_pages_of_a_file_cross_whole_and_the_file_stays_as_it_was(vm: VmHandle) -> None:
    program = (
        "import os, sys\n"
        "a, b = os.pipe()\n"
        "f = os.open('/root/large', os.O_RDONLY)\n"
        "while (n := os.splice(f, b, 65536)):\n"
        "    while n: n -= os.splice(a, 1, n)\n"
    )
    large = random.Random(1).randbytes(5_000_000)
    await vm.write_file("/root/large", large)
    await vm.write_file("/root/splice.py", program)
    for command in ("cat /root/large", "python3 /root/splice.py"):
        pieces: list[bytes] = []
        await vm.exec(f"{command}; echo 3 > /proc/sys/vm/drop_caches", on_stdout=pieces.append)
        assert b"".join(pieces) == large
    kept = await vm.exec("sha256sum < /root/large")
    assert kept.stdout.split()[0] == hashlib.sha256(large).hexdigest()


async def test_ten_megabytes_arrive_whole(vm: VmHandle) -> None:
    seen = 0

    def count(data: bytes) -> None:
        nonlocal seen
        seen += len(data)

    await vm.exec("head -c 10000000 /dev/zero", on_stdout=count)
    assert seen == 10_000_000


async def test_a_hundred_commands_run_at_once(vm: VmHandle) -> None:
    answers: dict[int, str] = {}

    async def ask(number: int) -> None:
        answers[number] = (await vm.exec(f"read line; echo {number}", stdin=b"go\n")).stdout

    async with anyio.create_task_group() as tasks:
        for number in range(100):
            tasks.start_soon(ask, number)
    assert answers == {number: f"{number}\n" for number in range(100)}


async def test_a_client_that_stops_reading_blocks_nobody_else(vm: VmHandle) -> None:
    async with await connect_channel(vm.vsock_path, EXEC_PORT, timeout_ms=5000) as stalled:
        await stalled.send(b"EXEC yes\n")
        await stalled.receive(1)
        assert (await vm.exec("echo still here")).stdout == "still here\n"


async def test_a_command_dies_with_the_client_that_asked_for_it(vm: VmHandle) -> None:
    group = ""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(vm.exec, "sleep 1000 & echo $$ > /run/group; wait")
        group = (await vm.exec("until cat /run/group | grep .; do sleep 0.1; done")).stdout.strip()
        tasks.cancel_scope.cancel()
    assert group.isdecimal()
    wait = f"while pgrep -g {group} >/dev/null; do sleep 0.1; done"
    await vm.exec(wait, exec_timeout_ms=60_000)


async def test_a_command_that_takes_too_long_is_a_retryable_timeout(vm: VmHandle) -> None:
    with pytest.raises(ExecError) as caught:
        await vm.exec("sleep 60", exec_timeout_ms=500)
    assert caught.value.code is ErrorCode.EXEC_AGENT_TIMEOUT
    assert caught.value.retryable


async def test_write_file_makes_directories_and_keeps_every_byte(vm: VmHandle) -> None:
    contents = bytes(range(256)) * 2000
    await vm.write_file("/opt/deep/er/file", contents, mode=0o640)
    result = await vm.exec("stat -c %a /opt/deep/er/file; sha256sum < /opt/deep/er/file")
    assert result.stdout.split()[:2] == ["640", hashlib.sha256(contents).hexdigest()]


async def test_a_command_on_a_terminal_sees_one_and_its_size(vm: VmHandle) -> None:
    output_read, output_write = os.pipe()
    input_read, input_write = os.pipe()
    stdin, stdout = PipeReceiveStream(input_read), PipeSendStream(output_write)
    async with PipeReceiveStream(output_read) as seen, PipeSendStream(input_write), stdin:
        handle = vm.exec_pty("tty; stty size", cols=91, rows=17, stdin=stdin, stdout=stdout)
        assert (await handle.result).exit_code == 0
        await stdout.aclose()
        await seen.drain()
        assert b"/dev/pts/" in seen.tail
        assert b"17 91" in seen.tail


async def test_options_of_exec_are_those_of_the_channel(vm: VmHandle) -> None:
    result = await VsockExec.run(vm.vsock_path, "echo direct", VsockExecOptions())
    assert result.stdout == "direct\n"


async def test_every_module_that_criu_needs_loads(vm: VmHandle) -> None:
    modules = "nfnetlink nf_tables tun veth inet_diag tcp_diag udp_diag unix_diag af_packet_diag"
    result = await vm.exec(f"for m in {modules} netlink_diag; do modprobe $m || exit 1; done")
    assert result.exit_code == 0
    assert "good" in (await vm.exec("criu check 2>&1")).stdout
