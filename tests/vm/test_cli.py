"""The command line on real guests, from `boot` to `stop`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterable
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.screen import on_terminal
from tests.vm.child import MACHINEN, heeding
from tests.vm.conftest import MEMORY_MIB, leftovers

pytestmark = pytest.mark.vm

SMALL = ["--memory", str(MEMORY_MIB), "--network", "none"]
KEY = b"\x1d"


async def machinen(*args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return await anyio.run_process([*MACHINEN, *args], input=stdin, check=False)


async def answer(*args: str) -> dict[str, Any]:
    """What a verb prints as JSON; it must have succeeded."""
    done = await machinen(*args, "--json")
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
async def name(vm_home: Path, anyio_backend: str) -> AsyncGenerator[str]:
    """A detached VM called `cli`."""
    booted = await answer("boot", "--name", "cli", "--detach", *SMALL)
    assert (booted["name"], booted["detached"]) == ("cli", True)
    yield "cli"
    stopped = await answer("stop", "cli")
    assert [result["status"] for result in stopped["results"]] == ["stopped"]


async def test_commands_run_in_the_guest(name: str) -> None:
    done = await machinen("exec", name, "--", "uname", "-s")
    assert (done.stdout, done.returncode) == (b"Linux\n", 0)
    assert (await machinen("exec", name, "--", "sh", "-c", "exit 7")).returncode == 7
    data = os.urandom(300_000)
    assert (await machinen("exec", name, "--", "cat", stdin=data)).stdout == data
    assert (await machinen("exec", name, "--", "no-such-program")).returncode == 127


async def test_a_large_output_arrives_whole(name: str) -> None:
    done = await machinen("exec", name, "--", "sh", "-c", "yes | head -c 5000000")
    assert done.stdout == b"y\n" * 2_500_000


async def test_ctrl_c_ends_the_command_in_the_guest(name: str) -> None:
    args = ["exec", name, "--", "sh", "-c", "echo ready; exec sleep 98765"]
    async with await anyio.open_process([*MACHINEN, *args]) as client:
        assert client.stdout is not None
        assert await client.stdout.receive() == b"ready\n"
        client.send_signal(signal.SIGINT)
        with anyio.fail_after(60):
            assert await client.wait() == 130
    assert (await machinen("exec", name, "--", "pgrep", "-f", "98765")).stdout == b""


async def test_a_vm_is_listed_measured_and_logged(name: str) -> None:
    (listed,) = (vm for vm in (await answer("ls"))["vms"] if vm["name"] == name)
    assert listed["memory"]["ceiling_mib"] == MEMORY_MIB
    measured = await answer("stats", name)
    assert measured["status"]["state"] == "running"
    assert 0 < measured["memory"]["rss_bytes"] < 2 * MEMORY_MIB << 20
    assert b"of 512M" in (await machinen("stats", name)).stdout
    sessions = (await answer("sessions", name))["sessions"]
    assert [session["name"] for session in sessions] == ["main"]
    assert (await machinen("logs", name)).returncode == 0


async def test_a_terminal_attaches_leaves_and_finds_the_same_screen(name: str) -> None:
    async with on_terminal(*MACHINEN, "attach", name) as first:
        await first.type(b"echo $((6*7)); stty size\r")
        await first.until(b"42\r\n24 80\r\n")
        await first.type(KEY + KEY)
        assert await first.ended() == 0
    async with on_terminal(*MACHINEN, "attach", name) as second:
        await second.until(b"42\r\n24 80\r\n")
        await second.type(KEY + KEY)
        assert await second.ended() == 0


async def test_a_command_gets_a_terminal(name: str) -> None:
    script = "tty; stty size; read x; exit 6"
    async with on_terminal(*MACHINEN, "exec", "--tty", name, "--", "sh", "-c", script) as screen:
        await screen.until(b"/dev/pts/")
        await screen.type(b"\r")
        assert await screen.ended() == 6


async def test_fork_snapshot_and_restore_carry_a_counter_on(name: str, tmp_path: Path) -> None:
    count = "i=0; while :; do i=$((i+1)); echo $i > /run/counter; sleep 0.1; done"
    start = f"setsid sh -c '{count}' >/dev/null 2>&1 </dev/null &"
    assert (await machinen("exec", name, "--", "sh", "-c", start)).returncode == 0
    await reaches([name], 1)
    forked = await answer("fork", name, "--new-name", "cli-fork", "--detach")
    assert (forked["source"], forked["ephemeral"]) == ("cli", True)
    assert forked["paused_ms"] > 0
    carried_on = await reaches([name, "cli-fork"], 2)
    assert (await machinen("exec", "cli-fork", "--", "hostname")).stdout == b"cli-fork\n"
    (listed,) = (vm for vm in (await answer("ls"))["vms"] if vm["name"] == "cli-fork")
    assert listed["forked_from_name"] == "cli"
    bundle = tmp_path / "bundle"
    snapped = await answer("snapshot", "cli-fork", str(bundle))
    assert snapped["snap_dir"] == str(bundle)
    assert "cli-fork" not in {vm["name"] for vm in (await answer("ls"))["vms"]}
    moved = bundle.rename(tmp_path / "moved")
    assert (await answer("restore", str(moved), "--name", "back", "--detach"))["name"] == "back"
    await reaches(["back"], carried_on)
    done = await machinen("stop", "--force", "back")
    assert (done.stdout, done.returncode) == (b"back: stopped\n", 0)


async def reaches(names: Iterable[str], at_least: int) -> int:
    """Wait until the counter in every VM has come that far; the least of them."""
    least = 0
    with anyio.fail_after(60):
        while least < at_least:
            read = [await machinen("exec", vm, "--", "cat", "/run/counter") for vm in names]
            least = min(int(done.stdout or b"0") for done in read)
    return least


async def test_a_vm_booted_without_detach_ends_with_its_workload() -> None:
    argv = heeding(
        "env", "--ignore-signal=INT,HUP,CHLD", sys.executable, "-m", "machinen_runtime.cli"
    )
    argv += ["boot", "--name", "shown", *SMALL, "--env", "MORE=2", "--cwd", "/usr/lib", "--"]
    argv += ["sh", "-c", "read x; [ $PWD = /usr/lib ] && exit $((x + MORE))"]
    async with on_terminal(*argv) as screen:
        await running("shown")
        await screen.type(b"7\r")
        assert await screen.ended() == 9
    assert "shown" not in {vm["name"] for vm in (await answer("ls"))["vms"]}


async def test_leaving_a_vm_booted_without_detach_stops_it() -> None:
    async with on_terminal(*MACHINEN, "boot", "--name", "left", *SMALL) as screen:
        await screen.until(b"root@left")
        await screen.type(KEY + KEY)
        assert await screen.ended() == 0
    assert b"[stopping the sandbox" in screen.shown
    assert "left" not in {vm["name"] for vm in (await answer("ls"))["vms"]}


async def running(vm: str) -> None:
    """Wait until a VM's agent answers."""
    with anyio.fail_after(60):
        while (await machinen("exec", vm, "--", "true")).returncode:
            pass


@pytest.mark.parametrize("after_s", [0.3, 1.0, 2.5])
async def test_an_interrupted_boot_leaves_nothing(vm_home: Path, after_s: float) -> None:
    before = leftovers(vm_home)
    async with await anyio.open_process(
        [*MACHINEN, "boot", "--name", "cut", "--detach", "--cold", *SMALL]
    ) as client:
        await anyio.sleep(after_s)
        client.send_signal(signal.SIGTERM if after_s > 2 else signal.SIGINT)
        said = b""
        with anyio.fail_after(60):
            assert client.stderr is not None
            async for piece in client.stderr:
                said += piece
            code = await client.wait()
    if code in (1, -signal.SIGINT):  # Python itself had not come to our code yet
        assert b"machinen_runtime" not in said, said.decode()
    else:
        assert code == (143 if after_s > 2 else 130), said.decode()
    assert leftovers(vm_home) == before
    assert "cut" not in {vm["name"] for vm in (await answer("ls"))["vms"]}
