"""The quieter verbs of `machinen` on a real VM, and the shapes of what they print."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest

from machinen_runtime.cli_reference import SHAPES, shape_mismatches
from machinen_runtime.handle import VmHandle
from tests.vm.child import MACHINEN
from tests.vm.conftest import say

pytestmark = pytest.mark.vm


async def machinen(*args: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return await anyio.run_process([*MACHINEN, *args], input=stdin, check=False)


async def printed(*args: str, verb: str | None = None) -> dict[str, Any]:
    """What a verb prints as JSON; it must have succeeded and have the promised shape."""
    done = await machinen(*args, "--json")
    assert done.returncode == 0, done.stderr.decode()
    value = json.loads(done.stdout)
    assert value.pop("schema_version") == 1
    assert shape_mismatches(value, SHAPES[verb or args[0]]) == []
    return value


async def test_json_has_the_shape_that_is_promised(vm: VmHandle, tmp_path: Path) -> None:
    name = str(vm.name)
    (listed,) = (each for each in (await printed("ls"))["vms"] if each["name"] == name)
    assert isinstance(listed["cpu"]["percent"], float)
    inspected = await printed("inspect", name)
    assert inspected["entry"]["socketPath"] == str(vm.vsock_path)
    assert [each["name"] for each in inspected["sessions"]] == ["main"]
    await printed("sessions", name)
    await printed("secrets", "set", name, "A=1", verb="secrets set")
    await printed("snapshot", name, str(tmp_path / "s"), "--keep-alive")
    forked = await printed("fork", name, "--new-name", "shape")
    restored = await printed("restore", str(tmp_path / "s"), "--name", "shape-2", "--detach")
    assert restored["pid"] != forked["pid"]
    await printed("stop", "shape", "shape-2")


async def test_pause_and_resume_say_what_became_of_whom(vm: VmHandle) -> None:
    name = str(vm.name)
    assert (await machinen("pause", name)).stdout == f"{name}: paused\n".encode()
    assert (await printed("inspect", name))["sessions"] is None
    assert (await vm.status()).state == "paused"
    done = await machinen("rename", name, "other")
    assert done.returncode == 1
    assert b"resume it first" in done.stderr
    done = await machinen("exec", name, "--", "true")
    assert (done.returncode, b"it is paused; resume it first" in done.stderr) == (1, True)
    resumed = await printed("resume", "--all")
    assert {"pid": vm.pid, "name": name, "state": "running"} in resumed["results"]
    assert (await vm.exec("echo on")).stdout == "on\n"


async def test_rename_there_and_back(vm: VmHandle) -> None:
    before = str(vm.name)
    renamed = await printed("rename", before, "cli/renamed")
    assert renamed == {"pid": vm.pid, "name": "cli/renamed", "previous_name": before}
    assert (await machinen("exec", "cli/renamed", "--", "hostname")).stdout == b"cli-renamed\n"
    assert (await machinen("exec", before, "--", "true")).returncode == 1
    assert (await machinen("rename", "cli/renamed", before)).returncode == 0


async def test_stats_go_on_until_one_leaves(vm: VmHandle) -> None:
    argv = [*MACHINEN, "stats", str(vm.name), "--watch", "--interval", "0.25", "--json"]
    async with await anyio.open_process(argv) as watcher:
        assert watcher.stdout is not None
        seen = b""
        with anyio.fail_after(60):
            while seen.count(b"\n") < 3:
                seen += await watcher.stdout.receive()
        watcher.terminate()
        assert await watcher.wait() == 143
    for line in seen.splitlines()[:3]:
        value = json.loads(line)
        del value["schema_version"]
        assert shape_mismatches(value, SHAPES["stats"]) == []


async def test_a_port_leads_into_the_guest_until_it_is_taken_away(vm: VmHandle) -> None:
    serve = "import socket; s = socket.create_server(('', 7007)); print('up', flush=True)\n"
    serve += "while True: s.accept()[0].sendall(b'hello')"
    async with vm.open_session("served", cmd=["python3", "-c", serve], create=True) as session:
        await say(session, "", "up")
        added = await printed("port", "add", str(vm.name), "0:7007", verb="port add")
        port: int = added["hostPort"]
        async with await anyio.connect_tcp("127.0.0.1", port) as client:
            assert await client.receive() == b"hello"
        assert (await machinen("port", "ls", str(vm.name))).stdout.split()[-2:] == [
            f"127.0.0.1:{port}".encode(),
            b"7007",
        ]
        assert (await machinen("port", "rm", str(vm.name), str(port))).returncode == 0
        with pytest.raises(OSError, match="connect"):
            await anyio.connect_tcp("127.0.0.1", port)
    assert (await machinen("port", "ls", str(vm.name))).stdout == b"(no port forwards)\n"


async def test_a_log_is_followed_as_it_grows(vm: VmHandle) -> None:
    async with await anyio.open_process([*MACHINEN, "logs", "-f", str(vm.name)]) as follower:
        assert follower.stdout is not None
        seen = await follower.stdout.receive()
        await vm.exec("echo '<0>shouted' >/dev/kmsg")
        with anyio.fail_after(60):
            while b"shouted" not in seen:
                seen += await follower.stdout.receive()
        follower.send_signal(signal.SIGINT)
        with anyio.fail_after(60):
            assert await follower.wait() == 130


async def test_repl_speaks_with_the_guest(vm: VmHandle) -> None:
    lines = b"uname -s\ncd /usr; pwd\npwd\nkill -9 $$\n"
    done = await machinen("repl", str(vm.name), "--cwd", "/etc", stdin=lines)
    assert (done.stdout, done.returncode) == (b"Linux\n/usr\n/etc\n", 137)


async def test_the_end_of_the_console_is_shown(vm: VmHandle) -> None:
    whole = (await machinen("logs", str(vm.name))).stdout
    done = await machinen("logs", str(vm.name), "--tail", "2")
    assert done.stdout
    assert whole.endswith(done.stdout)
    assert done.stdout.count(b"\n") == 2
