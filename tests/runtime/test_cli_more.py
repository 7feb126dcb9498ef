"""The quieter verbs of `machinen`, as processes of their own."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from machinen_runtime import registry
from machinen_runtime.channel_format import EXEC_PORT
from machinen_runtime.channel_secrets import SECRETS_PORT
from machinen_runtime.cli_reference import SHAPES, shape_mismatches
from machinen_runtime.pty_process import boot_pty
from machinen_runtime.registry import RegistryEntry
from tests.fakes import Peer, fake_agent, host_exec
from tests.runtime.test_cli import MACHINEN, machinen, register, started
from tests.screen import on_terminal

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])

ROOT = Path(__file__).parents[2]


@pytest.fixture
async def vm(machinen_home: Path) -> AsyncGenerator[RegistryEntry]:
    entry = register(machinen_home)
    async with fake_agent(Path(entry.socket_path), {EXEC_PORT: host_exec}):
        yield entry


async def printed(*args: str, verb: str | None = None) -> dict[str, Any]:
    """What a verb prints as JSON, which must have its shape."""
    done = await machinen(*args, "--json")
    assert done.returncode in (0, 1), done.stderr
    value = json.loads(done.stdout)
    assert value.pop("schema_version") == 1
    assert shape_mismatches(value, SHAPES[verb or args[0]]) == []
    return value


async def test_json_has_the_shape_that_is_promised(machinen_home: Path) -> None:
    register(machinen_home)
    await printed("ls")
    await printed("gc", "--dry-run")
    await printed("doctor")
    would = await printed("stop", "--all", "--dry-run")
    assert [each["status"] for each in would["results"]] == ["would_stop"]


# -- verbs ----------------------------------------------------------------------------------------


async def test_repl_runs_each_line_and_exits_with_the_last_code(vm: RegistryEntry) -> None:
    done = await machinen(
        "repl", "a", "-e", "X=1", stdin=b"echo $X\n\ncd /; echo err >&2\nexit 5\n"
    )
    assert (done.stdout, done.stderr, done.returncode) == (b"1\n", b"err\n", 5)


async def test_repl_on_a_terminal(vm: RegistryEntry, machinen_home: Path) -> None:
    async with on_terminal(*MACHINEN, "repl", "a") as screen:
        await screen.until(b"a> ")
        await screen.type(b"echo $((6*7)); exit 3\r")
        await screen.until(b"\n42")
        await screen.until(b"[exit code 3]")
        await screen.until(b"a> ")  # before, its keys would meet a terminal in line mode
        await screen.until_it_waits()
        await screen.type(b"echo gone\x03")
        await screen.until(b"^C")
        await screen.until(b"a> ")
        # a built-in: dash drops an interrupt that meets it between vfork and exec
        await screen.type(b"echo o''n; while :; do :; done\r")
        await screen.until(b"\non\r\n")
        await screen.type(b"\x03")
        await screen.until(b"[exit code 130]")
        await screen.until(b"a> ")
        await screen.type(b"\x04")
        assert await screen.ended() == 0
        assert "echo $((6*7)); exit 3" in (machinen_home / "repl_history").read_text()
        assert (machinen_home / "repl_history").stat().st_mode & 0o777 == 0o600


async def test_secrets_come_from_words_files_and_stdin(machinen_home: Path, tmp_path: Path) -> None:
    seen: list[bytes] = []

    async def keep(peer: Peer) -> None:
        text = b""
        while not text.endswith(b"END=1\n"):
            text += await peer.stream.receive()
        seen.append(text)
        await peer.send(b"ok 3\n")

    entry = register(machinen_home)
    file = tmp_path / "env"
    file.write_text("# not this\n\nexport B='two words'\n")
    async with fake_agent(Path(entry.socket_path), {SECRETS_PORT: keep}):
        words = ["A=1=2", f"@{file}", "-"]
        done = await machinen("secrets", "set", "a", *words, stdin=b"C=3\nEND=1\n")
    assert (done.returncode, seen) == (0, [b"A=1=2\nB=two words\nC=3\nEND=1\n"])
    assert done.stdout == b"1 keys are no shell identifiers and were left out\n"


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["secrets", "set", "a", "hunter2"], 2, "PARSE_FLAG_MALFORMED"),
        (["cp", "a", "b"], 2, "PARSE_FLAG_MALFORMED"),
        (["cp", "a:b", "c:d"], 2, "PARSE_FLAG_MALFORMED"),
        (["cp", "-r", "-", "a:b"], 2, "PARSE_FLAG_MALFORMED"),
        (["cp", "x", "nobody:y"], 1, "REGISTRY_VM_NOT_FOUND"),
        (["cp", "x"], 2, "PARSE_FLAG_MISSING_VALUE"),
        (["pause"], 2, "PARSE_FLAG_MISSING_VALUE"),
        (["pause", "--all", "a"], 2, "PARSE_FLAG_MISSING_VALUE"),
        (["pause", "a", "--when-idle", "0.5"], 2, "PARSE_FLAG_MALFORMED"),
        (["pause", "a", "--when-idle", "9", "--no-when-idle"], 2, "PARSE_FLAG_MALFORMED"),
        (["wait"], 2, "PARSE_FLAG_MISSING_VALUE"),
        (["wait", "nobody"], 1, "REGISTRY_VM_NOT_FOUND"),
        (["rename", "nobody", "x"], 1, "REGISTRY_VM_NOT_FOUND"),
        (["inspect", "nobody"], 1, "REGISTRY_VM_NOT_FOUND"),
        (["stats", "a", "--interval", "0.1"], 2, "PARSE_FLAG_MALFORMED"),
        (["logs", "a", "--tail", "x"], 2, "PARSE_FLAG_MALFORMED"),
        (["boot", "--name"], 2, "PARSE_FLAG_MISSING_VALUE"),
        (["boot", "--detach", "--detached"], 2, "PARSE_FLAG_DUPLICATE"),
        (["boot", "--memory", "512", "--memory=513"], 2, "PARSE_FLAG_DUPLICATE"),
        (["ls", "--json", "--json"], 2, "PARSE_FLAG_DUPLICATE"),
        (["restore", "/x", "-p", "80:0"], 2, "PARSE_PORT_INVALID"),
        (["install", "--version"], 1, "PROVISION_BASE_NOT_FOUND"),
        (["port", "add", "a"], 2, "PARSE_FLAG_MISSING_VALUE"),
    ],
)
async def test_mistakes_are_one_sentence_and_an_exit_code(
    machinen_home: Path, args: list[str], code: int, said: str
) -> None:
    done = await machinen(*args)
    assert (done.returncode, done.stdout) == (code, b"")
    assert done.stderr.decode().startswith(f"machinen: ({said}) ")
    assert b"Traceback" not in done.stderr
    assert b"hunter2" not in done.stderr


async def test_logs_of_a_vm_that_has_ended_are_its_boot_log(machinen_home: Path) -> None:
    log = machinen_home / "logs" / "7.boot.log"
    log.parent.mkdir()
    log.write_bytes(b"one\ntwo\nthree\n")
    gone = await anyio.open_process(["true"])
    await gone.wait()
    registry.register(
        RegistryEntry(
            pid=gone.pid,
            name="dead",
            socket_path="/x",
            started_at=0.0,
            process_identity="another-boot/1",
            boot_log_path=str(log),
        )
    )
    assert (await machinen("logs", "dead", "--follow")).stdout == b"one\ntwo\nthree\n"
    assert (await machinen("logs", str(gone.pid), "-n", "2")).stdout == b"two\nthree\n"
    assert (await machinen("logs", "dead", "-n", "0")).stdout == b""
    assert (await machinen("logs", "dead", "-n", "9")).stdout == b"one\ntwo\nthree\n"


def watches(watcher: int, watched: int) -> bool:
    """Whether one process holds a pidfd of another; nothing tells when it begins to."""
    for info in Path(f"/proc/{watcher}/fdinfo").iterdir():
        with suppress(FileNotFoundError):
            if f"\nPid:\t{watched}\n" in info.read_text():
                return True
    return False


async def test_wait_returns_when_all_have_ended(machinen_home: Path) -> None:
    async with await anyio.open_process(["sleep", "300"]) as monitor:
        registry.register(RegistryEntry(pid=monitor.pid, name="m", socket_path="/x", started_at=0))
        async with await started("wait", "m") as waiter:
            with anyio.fail_after(60):
                while not watches(waiter.pid, monitor.pid):
                    await anyio.sleep(0.02)
            assert waiter.returncode is None
            monitor.kill()
            with anyio.fail_after(60):
                assert await waiter.wait() == 0


async def test_ls_leaves_out_what_does_not_fit(machinen_home: Path) -> None:
    register(machinen_home, name="a-rather-long-name")
    for columns, titles in ((90, "UP MEM CPU PORTS"), (68, "UP MEM PORTS"), (59, "UP PORTS")):
        handle = boot_pty(binary=MACHINEN[0], args=[*MACHINEN[1:], "ls"], cols=columns)
        assert titles in " ".join((await handle.output()).split())
        await handle.wait()


async def test_no_escape_sequence_where_colour_is_not_wanted(machinen_home: Path) -> None:
    env = {**os.environ, "NO_COLOR": "1"}
    handle = boot_pty(binary=MACHINEN[0], args=[*MACHINEN[1:], "doctor"], env=env)
    assert "\x1b[3" not in await handle.output()
    await handle.wait()


async def test_completion_offers_places_and_verbs(machinen_home: Path) -> None:
    register(machinen_home, name="web/1")
    asked = {
        "_MACHINEN_COMPLETE": "bash_complete",
        "COMP_WORDS": "machinen cp w",
        "COMP_CWORD": "2",
    }
    assert b"plain,web/1:\n" in (await machinen(env=asked)).stdout
    asked |= {"COMP_WORDS": "machinen agent", "COMP_CWORD": "1"}
    assert (await machinen(env=asked)).stdout == b"plain,agent-context\n"


async def test_what_nobody_reads_any_more_ends_quietly(machinen_home: Path) -> None:
    state = machinen_home / "machines" / "x"
    state.mkdir(parents=True)
    (state / "console.log").write_bytes(b"line\n" * 100_000)
    register(machinen_home, cleanup_paths=("/run/x", str(state)))
    command = f"{sys.executable} -m machinen_runtime.cli logs a | head -1; echo ${{PIPESTATUS[0]}}"
    done = await anyio.run_process(["/bin/bash", "-c", command])
    assert (done.stdout, done.stderr) == (b"line\n1\n", b"")


# -- Ctrl-C while it still loads ------------------------------------------------------------------

START = """
import os, sys
from machinen_runtime import cli_start

def leave_at_once(*numbers, ours=cli_start.leave_at_once):
    ours(*numbers)
    os.write(1, b".")

cli_start.leave_at_once = leave_at_once
sys.argv = ["machinen", "ls"]
cli_start.main()
"""
"""Tells when it can be interrupted: before that its signals are the interpreter's."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("delay", [0.002, 0.01, 0.03, 0.06])
async def test_an_early_signal_leaves_without_a_word(
    machinen_home: Path, number: signal.Signals, delay: float
) -> None:
    async with await anyio.open_process([sys.executable, "-c", START]) as client:
        assert client.stdout is not None
        assert client.stderr is not None
        await client.stdout.receive(1)
        await anyio.sleep(delay)  # the moment of the interruption is the test's input
        client.send_signal(number)
        said = b"".join([piece async for piece in client.stderr])
        assert await client.wait() in (0, -number, 128 + number)  # 128 + n to a shell
        assert said.strip() == b""  # click ends the line on which the terminal shows ^C
