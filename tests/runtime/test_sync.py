"""The façade without async: in scripts, in notebooks, from threads, interrupted, at exit."""

from __future__ import annotations

import inspect
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import anyio
import pytest

import machinen_runtime
from machinen_runtime import sync
from machinen_runtime.errors import ErrorCode, ExecError
from machinen_runtime.sync_portal import LOOP, in_loop
from tests.fakes import fake_agent, host_exec

SYNC: Any = sync


@pytest.fixture
def vsock(tmp_path: Path) -> Generator[Path]:
    """A socket behind which commands run on this host."""
    path = tmp_path / "v" / "vsock.sock"
    with LOOP.enter(fake_agent(path, {1978: host_exec})):
        yield path
    LOOP.close()


def test_every_public_name_is_there_and_none_is_async() -> None:
    for name in machinen_runtime.__all__:
        thing = getattr(SYNC, name)
        assert not inspect.iscoroutinefunction(thing), name
        if inspect.isclass(thing) and issubclass(thing, sync.Wrapper):
            for member, function in vars(thing).items():
                assert not inspect.iscoroutinefunction(function), f"{name}.{member}"
    with pytest.raises(AttributeError):
        _ = SYNC.absent


def test_classes_that_have_something_to_wait_for_are_wrapped() -> None:
    for name in machinen_runtime.__all__:
        thing = getattr(machinen_runtime, name)
        if inspect.isclass(thing) and any(
            inspect.iscoroutinefunction(member) for member in vars(thing).values()
        ):
            assert name in sync.WRAPPED


def test_a_call_waits_for_its_result(vsock: Path) -> None:
    result = SYNC.VsockExec.run(vsock, "echo $A", env={"A": "hello"})
    assert (result.exit_code, result.stdout) == (0, "hello\n")
    with pytest.raises(ExecError) as caught:
        SYNC.VsockExec.run(vsock, "true", cwd="/absent")
    assert caught.value.code is ErrorCode.EXEC_CWD_INVALID


def test_it_works_where_a_loop_runs_already(vsock: Path) -> None:
    async def cell() -> str:
        return SYNC.VsockExec.run(vsock, "echo from a notebook").stdout

    assert anyio.run(cell) == "from a notebook\n"


def test_it_works_from_several_threads(vsock: Path) -> None:
    found: list[str] = []

    def run(number: int) -> None:
        found.append(sync.VsockExec.run(vsock, f"echo {number}").stdout)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == ["0\n", "1\n", "2\n", "3\n"]


def test_a_callback_that_calls_back_is_told_so(vsock: Path) -> None:
    def on_stdout(_: bytes) -> None:
        SYNC.VsockExec.run(vsock, "true")

    with pytest.raises(RuntimeError, match="callbacks"):
        SYNC.VsockExec.run(vsock, "echo", on_stdout=on_stdout)


def test_an_asynchronous_hook_is_a_plain_function() -> None:
    SYNC.check_fork_backpressure(threshold=0.5, read_free=lambda: 100, total_bytes=100)
    with pytest.raises(machinen_runtime.BootError):
        SYNC.check_fork_backpressure(threshold=0.5, read_free=lambda: 1, total_bytes=100)
    LOOP.close()


def test_a_program_on_a_terminal_is_typed_to_and_read(vsock: Path) -> None:
    shell = SYNC.boot_pty(binary="sh", args=["-c", "read line; echo got $line"])
    shell.resize(100, 30)
    shell.stdin.send(b"it\n")
    assert shell.wait().code == 0
    assert "got it" in shell.output()
    shell.kill()


def test_blocks_are_blocks(vsock: Path) -> None:
    shell = SYNC.boot_pty(binary="sh", args=["-c", "echo hi; read line"])
    with SYNC.Sandboxes(scrollback_bytes=100) as sandboxes:
        sandboxes.add("one", shell)
        assert [info.id for info in sandboxes.list()] == ["one"]
        assert sandboxes.send("one", b"x\n")
        shell.wait()
    shell.kill()


def test_an_interrupt_undoes_the_call_before_it_goes_on(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        """
import anyio, os, signal, sys, threading
from machinen_runtime.sync_portal import in_loop

async def work():
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        await anyio.sleep(60)
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.2)
        print("undone", flush=True)

try:
    in_loop(work)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["undone", "interrupted"]
    assert (done.returncode, done.stderr) == (0, "")


def test_the_thread_ends_with_the_program_or_when_it_is_closed(tmp_path: Path) -> None:
    in_loop(lambda: None)
    assert [each.name for each in threading.enumerate()].count("machinen-sync") == 1
    LOOP.close()
    assert "machinen-sync" not in [each.name for each in threading.enumerate()]
    assert in_loop(os.getpid) == os.getpid()
    LOOP.close()
    script = "from machinen_runtime import sync; sync.read_host_free_bytes(); print('end')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_a_forked_child_has_a_loop_of_its_own() -> None:
    in_loop(lambda: None)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if SYNC.read_host_free_bytes() > 0 else 1)
    signal.alarm(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    LOOP.close()
