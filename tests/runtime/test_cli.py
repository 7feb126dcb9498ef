"""`machinen` as a process of its own, against an agent that runs commands here."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import closing
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process

from machinen_runtime import registry
from machinen_runtime.channel_format import EXEC_PORT
from machinen_runtime.option_types import PortForward
from machinen_runtime.registry import RegistryEntry
from tests.fakes import Peer, echo_session, fake_agent, host_exec, parse_fields, until
from tests.screen import on_terminal
from vmm.requests import STATES
from vmm.stats import StatsFile

# The clients' event loop is not the test's: one backend is enough.
pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"])

MACHINEN = [sys.executable, "-m", "machinen_runtime.cli"]


async def machinen(
    *args: str, stdin: bytes | None = b"", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return await anyio.run_process(
        [*MACHINEN, *args], input=stdin, check=False, env={**os.environ, **(env or {})}
    )


def register(home: Path, name: str | None = "a", **fields: object) -> RegistryEntry:
    """This test as a VM: its pid is alive for as long as the test needs it."""
    known = {"memory_ceiling_mib": 512, "started_at": time.time() * 1000 - 125_000, **fields}
    entry = RegistryEntry(
        pid=os.getpid(),
        name=name,
        socket_path=str(home / "run" / "vsock.sock"),
        **known,  # pyright: ignore[reportArgumentType]
    )
    return registry.register(entry)


@pytest.fixture
async def vm(machinen_home: Path) -> AsyncGenerator[RegistryEntry]:
    entry = register(machinen_home)
    async with fake_agent(Path(entry.socket_path), {EXEC_PORT: host_exec}):
        yield entry


async def test_exec_passes_output_and_exit_code_through(vm: RegistryEntry) -> None:
    done = await machinen("exec", "a", "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == (b"out\n", b"err\n", 7)


async def test_exec_finds_a_vm_by_pid_and_takes_words_without_dashes(vm: RegistryEntry) -> None:
    done = await machinen("exec", str(vm.pid), "echo", "hi there")
    assert done.stdout == b"hi there\n"


async def test_exec_is_binary_safe_both_ways(vm: RegistryEntry) -> None:
    data = os.urandom(2_000_000)
    assert (await machinen("exec", "a", "--", "cat", stdin=data)).stdout == data


async def test_exec_passes_env_and_cwd(vm: RegistryEntry, tmp_path: Path) -> None:
    args = ["exec", "a", "-e", "X=1=2", "--env", "X=3", "--cwd", str(tmp_path)]
    done = await machinen(*args, "--", "sh", "-c", "echo $X; pwd")
    assert done.stdout.decode() == f"3\n{tmp_path}\n"
    done = await machinen("exec", "a", "--cwd", "/no/such", "--", "pwd")
    assert done.returncode == 1
    assert b"machinen: (EXEC_CWD_INVALID) " in done.stderr


async def test_exec_with_closed_stdin(vm: RegistryEntry) -> None:
    command = f"{sys.executable} -m machinen_runtime.cli exec a -- sh -c 'cat; echo end' <&-"
    done = await anyio.run_process(["/bin/sh", "-c", command], check=False)
    assert (done.stdout, done.returncode) == (b"end\n", 0)


async def test_exec_whose_reader_leaves_ends_quietly(vm: RegistryEntry) -> None:
    command = f"{sys.executable} -m machinen_runtime.cli exec a -- yes | head -1"
    with anyio.fail_after(60):
        done = await anyio.run_process(["/bin/bash", "-c", f"{command}; echo ${{PIPESTATUS[0]}}"])
    assert (done.stdout, done.stderr) == (b"y\n141\n", b"")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"]
)
async def test_a_signal_reaches_the_command(
    vm: RegistryEntry, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    caught = tmp_path / "caught"
    script = (
        f"trap 'echo x > {caught}; exit 3' {number.name[3:]}; echo ready; sleep 100 >&- 2>&- & wait"
    )
    async with await started("exec", "a", "--", "sh", "-c", script) as client:
        assert client.stdout is not None
        assert await client.stdout.receive() == b"ready\n"
        client.send_signal(number)
        with anyio.fail_after(60):
            assert await client.wait() == code
    assert caught.exists()


async def test_a_second_ctrl_c_ends_a_stubborn_command(vm: RegistryEntry) -> None:
    script = "trap 'echo no' INT; echo ready; while :; do sleep 0.1; done"
    async with await started("exec", "a", "--", "sh", "-c", script) as client:
        assert client.stdout is not None
        assert await client.stdout.receive() == b"ready\n"
        client.send_signal(signal.SIGINT)
        assert await client.stdout.receive() == b"no\n"
        client.send_signal(signal.SIGINT)
        with anyio.fail_after(60):
            assert await client.wait() == 130


async def started(*args: str) -> Process:
    return await anyio.open_process([*MACHINEN, *args], stdin=subprocess.DEVNULL)


async def test_exec_when_the_link_breaks(machinen_home: Path) -> None:
    async def dies(peer: Peer) -> None:
        await peer.frame(b"O", b"part")

    entry = register(machinen_home)
    async with fake_agent(Path(entry.socket_path), {EXEC_PORT: dies}):
        done = await machinen("exec", "a", "--", "x")
    assert (done.stdout, done.returncode) == (b"part", 1)
    assert b"(EXEC_AGENT_UNAVAILABLE)" in done.stderr


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["exec", "nobody", "--", "x"], 1, "REGISTRY_VM_NOT_FOUND"),
        (["exec", "a"], 2, "PARSE_FLAG_MISSING_VALUE"),
        (["exec", "a", "--env", "x", "--", "y"], 2, "PARSE_FLAG_MALFORMED"),
        (["frobnicate"], 2, "PARSE_FLAG_MALFORMED"),
        (["ls", "--frobnicate"], 2, "PARSE_FLAG_UNKNOWN"),
        (["boot", "--memory", "1G"], 2, "PARSE_FLAG_MALFORMED"),
        (["boot", "--name", "a", "--name", "b"], 2, "PARSE_FLAG_DUPLICATE"),
        (["boot", "--json"], 2, "PARSE_FLAG_MALFORMED"),
        (["boot", "-p", "80"], 2, "PARSE_PORT_INVALID"),
        (["boot", "-p", "0:80"], 2, "PARSE_PORT_INVALID"),
        (["boot", "--env", "=x"], 2, "PARSE_FLAG_MALFORMED"),
        (["boot", "--cwd", "relative", "-d"], 1, "BOOT_CWD_INVALID"),
        (["boot", "--memory", "1", "-d"], 1, "BOOT_MEMORY_INVALID"),
        (["fork", "nobody"], 1, "REGISTRY_VM_NOT_FOUND"),
        (["fork", "a", "--count", "0"], 2, "PARSE_FLAG_MALFORMED"),
        (["restore", "/no/such", "-d"], 1, "BOOT_SNAPSHOT_NOT_FOUND"),
        (["attach", "a", "--new", "top"], 2, "PARSE_FLAG_MISSING_VALUE"),
        (["stop"], 2, "PARSE_FLAG_MISSING_VALUE"),
        (["stop", "--all", "a"], 2, "PARSE_FLAG_MISSING_VALUE"),
        (["stop", "nobody"], 1, "REGISTRY_VM_NOT_FOUND"),
        (["logs", "nobody"], 1, "REGISTRY_VM_NOT_FOUND"),
        (["completion", "tcsh"], 2, "PARSE_FLAG_MALFORMED"),
    ],
)
async def test_mistakes_are_one_sentence_and_an_exit_code(
    machinen_home: Path, args: list[str], code: int, said: str
) -> None:
    done = await machinen(*args)
    assert (done.returncode, done.stdout) == (code, b"")
    assert done.stderr.decode().startswith(f"machinen: ({said}) ")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["boot", "web"], b"; if web is to be its name, say --name web"),
        (["boot", "-m", "2G"], b"'2G' is not a number of MiB without a unit: 2048 is 2 GiB"),
    ],
)
async def test_mistakes_of_the_first_hour_are_told_what_was_meant(
    machinen_home: Path, args: list[str], said: bytes
) -> None:
    done = await machinen(*args, "--detach")
    assert said in done.stderr, done.stderr
    assert b"say --name" not in (await machinen("boot", "./web", "--detach")).stderr


async def test_ls_shows_what_lives(machinen_home: Path) -> None:
    assert (await machinen("ls")).stdout == b"(no running VMs)\n"
    register(
        machinen_home,
        name="web/1",
        port_forward=(
            PortForward(host_port=8080, guest_port=80),
            PortForward(host_port=1, guest_port=2, host_addr="0.0.0.0"),
        ),
        forked_from="/bundle",
        forked_from_name="web",
    )
    header, row = (await machinen("ps")).stdout.decode().splitlines()
    assert header.split() == ["PID", "NAME", "STATE", "UP", "MEM", "CPU", "PORTS", "FORKED-FROM"]
    pid, name, state, up, memory, cpu, ports, source = row.split()
    assert (state, cpu) == ("-", "-")  # there is no stats file
    assert (pid, name, up, source) == (str(os.getpid()), "web/1", "2m", "web")
    assert memory.endswith("/512M")
    assert ports == "8080:80,0.0.0.0:1:2"


async def test_ls_shows_who_is_paused(machinen_home: Path, tmp_path: Path) -> None:
    stats = tmp_path / "stats"
    register(machinen_home, name="web", stats_path=str(stats))
    with closing(StatsFile(stats)) as file:
        for state in STATES:
            file.show_state(state)
            (vm,) = json.loads((await machinen("ls", "--json")).stdout)["vms"]
            assert vm["state"] == state
        file.show_state("paused")
        file.sample(os.getpid())  # the figures leave it alone
    assert (await machinen("ls")).stdout.decode().splitlines()[1].split()[1:3] == ["web", "paused"]


async def test_ls_as_json(machinen_home: Path) -> None:
    register(machinen_home, port_forward=(PortForward(host_port=8080, guest_port=80),))
    listed = json.loads((await machinen("ls", "--json")).stdout)
    assert listed["schema_version"] == 1
    (vm,) = listed["vms"]
    assert vm["memory"]["ceiling_mib"] == 512
    assert vm["memory"]["rss_bytes"] > 1_000_000
    assert vm["ports"] == [{"hostPort": 8080, "guestPort": 80, "hostAddr": "127.0.0.1"}]
    assert 125_000 <= vm["uptime_ms"] < 300_000
    assert (vm["name"], vm["forked_from"]) == ("a", None)


async def test_ls_imports_no_event_loop() -> None:
    code = (
        "import sys; from machinen_runtime.cli import main\n"
        "try: main(['ls'])\n"
        "except SystemExit: print([name for name in"
        " ('asyncio', 'anyio', 'trio', 'rich', 'psutil') if name in sys.modules])"
    )
    done = await anyio.run_process([sys.executable, "-c", code])
    assert done.stdout.decode().splitlines()[-1] == "[]"


async def test_every_verb_explains_itself_with_an_example(machinen_home: Path) -> None:
    from machinen_runtime.cli_group import VERBS

    top = (await machinen("--help")).stdout.decode()
    for verb in VERBS:
        assert f"  {verb} " in top
        done = await machinen(verb, "-h")
        assert done.returncode == 0
        assert f"machinen {verb}" in done.stdout.decode().partition("Example")[2]


async def test_names_are_completed(machinen_home: Path) -> None:
    register(machinen_home, name="web/1")
    typed = {"COMP_WORDS": "machinen exec w", "COMP_CWORD": "2"}
    done = await machinen(env={**typed, "_MACHINEN_COMPLETE": "bash_complete"})
    assert done.stdout == b"plain,web/1\n"
    for shell in ("bash", "zsh", "fish"):
        assert b"_MACHINEN_COMPLETE" in (await machinen("completion", shell)).stdout


async def test_gc_says_what_it_removes(machinen_home: Path) -> None:
    left = machinen_home / "machines" / "x"
    left.mkdir(parents=True)
    gone = await anyio.open_process(["true"])
    await gone.wait()
    dead = RegistryEntry(
        pid=gone.pid,
        name="dead",
        socket_path="/x",
        started_at=0.0,
        process_identity="another-boot/1",
        cleanup_paths=(str(left),),
    )
    registry.register(dead)
    planned = json.loads((await machinen("gc", "--dry-run", "--json")).stdout)
    assert planned == {
        "schema_version": 1,
        "dry_run": True,
        "results": [
            {
                "pid": gone.pid,
                "name": "dead",
                "status": "dead",
                "removed_paths": [str(left)],
                "failed_paths": [],
            }
        ],
    }
    assert left.exists()
    assert b"dead" in (await machinen("gc")).stdout
    assert not left.exists()
    assert b"nothing to remove" in (await machinen("gc")).stderr


async def test_stop_of_a_dead_vm_cleans_up(machinen_home: Path) -> None:
    gone = await anyio.open_process(["true"])
    await gone.wait()
    registry.register(
        RegistryEntry(
            pid=gone.pid, name="a", socket_path="/x", started_at=0.0, process_identity="x/1"
        )
    )
    stopped = json.loads((await machinen("stop", "a", "--json")).stdout)
    assert stopped["results"] == [{"pid": gone.pid, "name": "a", "status": "already_dead"}]
    assert list(registry.all_entries()) == []


async def test_stop_force_kills_the_monitor(machinen_home: Path) -> None:
    async with await anyio.open_process(["sleep", "300"]) as monitor:
        registry.register(
            RegistryEntry(pid=monitor.pid, name="a", socket_path="/x", started_at=0.0)
        )
        stopped = json.loads((await machinen("stop", "--all", "--force", "--json")).stdout)
        assert stopped["results"] == [{"pid": monitor.pid, "name": "a", "status": "stopped"}]
        assert await monitor.wait() == -signal.SIGKILL


async def test_logs_follow_a_log_over_its_rotation(machinen_home: Path) -> None:
    state = machinen_home / "machines" / "x"
    state.mkdir(parents=True)
    log = state / "console.log"
    log.write_bytes(b"first \x1b[31m\n")
    async with await anyio.open_process(["sleep", "300"]) as monitor:
        registry.register(
            RegistryEntry(
                pid=monitor.pid,
                name="a",
                socket_path="/x",
                started_at=0.0,
                cleanup_paths=("/run/x", str(state)),
            )
        )
        assert (await machinen("logs", "a")).stdout == b"first \x1b[31m\n"
        assert b"no boot log" in (await machinen("logs", "--boot", "a")).stderr
        async with await started("logs", "-f", "a") as follower:
            assert follower.stdout is not None
            seen = bytearray(await follower.stdout.receive())
            with log.open("ab") as file:
                file.write(b"second\n")
            while not seen.endswith(b"second\n"):
                seen += await follower.stdout.receive()
            log.rename(state / "console.log.1")
            log.write_bytes(b"third\n")
            while not seen.endswith(b"third\n"):
                seen += await follower.stdout.receive()
            monitor.kill()
            with anyio.fail_after(60):
                assert await follower.wait() == 0
    assert bytes(seen) == b"first \x1b[31m\nsecond\nthird\n"


async def test_attach_shows_a_session_and_comes_back(machinen_home: Path) -> None:
    entry = register(machinen_home)
    async with (
        fake_agent(Path(entry.socket_path), {EXEC_PORT: echo_session}),
        on_terminal(*MACHINEN, "attach", "a") as screen,
    ):
        await screen.until(b"before ")
        await screen.type(b"hi\x03")
        await screen.until(b"<hi\x03>")
        await screen.type(b"x\x1d")
        await screen.until(b"<x>")
        await screen.until(b"<\x1d>")
        await screen.type(b"\x1d")
        await screen.type(b"\x1dtail")
        await screen.until(b"[left a; `machinen attach a` comes back]")
        assert await screen.ended() == 0
        assert b"tail" not in screen.shown
        assert screen.shown.count(b"\x1d") == 1


async def test_attach_ends_with_the_session(machinen_home: Path) -> None:
    entry = register(machinen_home)
    async with (
        fake_agent(Path(entry.socket_path), {EXEC_PORT: echo_session}),
        on_terminal(*MACHINEN, "attach", "a") as screen,
    ):
        await screen.until(b"before ")
        await screen.type(b"q")
        assert await screen.ended() == 4
        assert "EXEC" not in await screen.handle.output()


async def test_attach_to_an_unknown_session(machinen_home: Path) -> None:
    entry = register(machinen_home)
    async with fake_agent(Path(entry.socket_path), {EXEC_PORT: echo_session}):
        done = await machinen("attach", "a", "--session", "nobody")
    assert done.returncode == 1
    assert done.stderr.startswith(b"machinen: (EXEC_SESSION_NOT_FOUND) ")


async def test_who_has_no_terminal_leaves_a_session_its_size(machinen_home: Path) -> None:
    entry = register(machinen_home)
    asked: list[dict[str, str]] = []

    async def session(peer: Peer) -> None:
        asked.append(dict(parse_fields(await peer.exactly(int((await peer.line()).split()[1])))))
        await peer.send(b"S 120 40\nP 0\nX 0\n")

    async with fake_agent(Path(entry.socket_path), {EXEC_PORT: session}):
        assert (await machinen("attach", "a")).returncode == 0
        async with on_terminal(*MACHINEN, "attach", "a") as screen:
            assert await screen.ended() == 0
    assert [fields.get("pty") for fields in asked] == [None, "80x24"]


async def test_a_watcher_is_told_that_nothing_is_typed(machinen_home: Path) -> None:
    entry = register(machinen_home)
    watch = f"exec {shlex.join(MACHINEN)} attach a </dev/null"
    async with (
        fake_agent(Path(entry.socket_path), {EXEC_PORT: echo_session}),
        on_terminal("sh", "-c", watch) as screen,
    ):
        await screen.until(
            b"[stdin is at its end: nothing more is typed; Ctrl-C ends the watching]"
        )
        await screen.type(b"\x03")
        assert await screen.ended() == 130


async def test_a_session_streams_without_a_terminal(machinen_home: Path) -> None:
    entry = register(machinen_home)
    async with fake_agent(Path(entry.socket_path), {EXEC_PORT: echo_session}):
        done = await machinen("attach", "a", stdin=b"q")
        assert (done.stdout, done.returncode) == (b"before <q>", 4)
        async with await started("attach", "a") as client:  # its stdin is at its end
            assert client.stdout is not None
            assert await client.stdout.receive() == b"before "
            with anyio.move_on_after(0.5) as waited:
                await client.stdout.receive()
            assert waited.cancelled_caught  # no Ctrl-D was typed into other people's session
            client.terminate()
            assert await client.wait() == 143


async def test_a_terminal_of_ones_own_sees_the_end_of_the_input(machinen_home: Path) -> None:
    entry = register(machinen_home)
    typed: list[bytes] = []

    async def note(peer: Peer) -> None:
        await peer.exactly(int((await peer.line()).split()[1]))
        while not typed or not typed[-1].endswith(b"\x04"):
            typed.append(await peer.exactly(int((await peer.line())[2:])))
        await peer.send(b"X 0\n")

    async with fake_agent(Path(entry.socket_path), {EXEC_PORT: note}):
        assert (await machinen("exec", "-t", "a", stdin=b"ls\n")).returncode == 0
    assert b"".join(typed) == b"ls\n\x04"


async def test_a_resized_window_resizes_the_session(machinen_home: Path) -> None:
    sizes: list[bytes] = []

    async def note(peer: Peer) -> None:
        await peer.exactly(int((await peer.line()).split()[1]))
        await peer.send(b"S 80 24\nP 0\n")
        await peer.frame(b"O", b"ready")
        sizes.append(await peer.line())
        await peer.send(b"X 0\n")

    entry = register(machinen_home)
    async with (
        fake_agent(Path(entry.socket_path), {EXEC_PORT: note}),
        on_terminal(*MACHINEN, "attach", "a") as screen,
    ):
        await screen.until(b"ready")
        screen.handle.resize(101, 31)
        await until(lambda: bool(sizes))
        assert sizes == [b"R 101 31"]
        assert await screen.ended() == 0
