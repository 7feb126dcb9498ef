"""gdb's remote protocol against a real VM and its fork: it looks, steps, leaves, is thrown out."""

from __future__ import annotations

import json
import os
import shutil
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest

from machinen_runtime.debugging import start_debugger, stop_debugger
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.handle import VmHandle
from tests.vm.child import MACHINEN

pytestmark = pytest.mark.vm

WAIT_S = 60


class Gdb:
    """A client of GDB's remote serial protocol: `$text#sum`, acknowledged by `+`."""

    def __init__(self, path: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(WAIT_S)
        self.socket.connect(path)
        self._unread = b""

    def ask(self, text: str) -> str:
        self.socket.sendall(b"$%b#%02x" % (text.encode(), sum(text.encode()) % 256))
        while True:
            head, mark, rest = self._unread.partition(b"#")
            if mark and len(rest) >= 2 and b"$" in head:
                self._unread = rest[2:]
                self.socket.sendall(b"+")
                return head.partition(b"$")[2].decode()
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self._unread += data


async def state_becomes(vm: VmHandle, is_it: Callable[[str, str], bool]) -> None:
    """Wait for an event that says so."""
    with anyio.fail_after(WAIT_S):
        async with vm.events(stats_interval_ms=250) as events:
            async for _ in events:
                status = await vm.status()
                if is_it(status.state, status.debugger):
                    return


async def look_around(vm: VmHandle) -> None:
    """Connect, read registers and memory, and leave a breakpoint behind."""
    found = await start_debugger(vm.entry)
    assert await start_debugger(vm.entry) == found
    assert stat.S_IMODE(os.stat(found.path).st_mode) == 0o600
    assert found.path in found.command
    assert (await vm.status()).debugger == "listening"
    assert (await vm.exec("echo runs")).stdout == "runs\n"

    gdb = await anyio.to_thread.run_sync(Gdb, found.path)
    with gdb.socket:
        assert "PacketSize" in gdb.ask("qSupported:multiprocess-")
        assert gdb.ask("?").startswith("T05")
        registers = gdb.ask("g")
        assert len(registers) > 200
        pc = int.from_bytes(bytes.fromhex(registers[16 * 16 : 17 * 16]), "little")
        assert len(gdb.ask(f"m{pc:x},4")) == 8
        await state_becomes(vm, lambda state, debugger: (state, debugger) == ("paused", "holding"))
        with pytest.raises(BootError, match="gdb holds the VM") as caught:
            await vm.resume()
        assert caught.value.code is ErrorCode.VM_CONTROL_FAILED
        assert (await start_debugger(vm.entry)).held
        assert gdb.ask(f"Z1,{pc:x},1") == "OK"

        assert await stop_debugger(vm.entry)
        assert not await stop_debugger(vm.entry)
        with pytest.raises((EOFError, ConnectionError)):
            gdb.ask("?")
    await state_becomes(vm, lambda state, debugger: (state, debugger) == ("running", ""))
    assert not os.path.exists(found.path)
    for _ in range(3):  # over the breakpoint, which is gone
        assert (await vm.exec("echo runs on")).stdout == "runs on\n"


async def test_gdb_looks_into_a_vm_and_is_thrown_out(vm: VmHandle) -> None:
    await look_around(vm)
    await look_around(vm)


async def test_a_vm_that_gdb_left_runs_and_one_paused_before_stays_paused(vm: VmHandle) -> None:
    found = await start_debugger(vm.entry)
    gdb = await anyio.to_thread.run_sync(Gdb, found.path)
    with gdb.socket:
        gdb.ask("?")
        await state_becomes(vm, lambda state, _: state == "paused")
        assert gdb.ask("D") == "OK"
        await state_becomes(
            vm, lambda state, debugger: (state, debugger) == ("running", "listening")
        )
    await vm.pause()
    assert await stop_debugger(vm.entry)
    assert (await vm.status()).state == "paused"
    await vm.resume()
    assert (await vm.exec("echo back")).stdout == "back\n"


async def test_a_fork_is_debugged_apart_from_its_source(vm: VmHandle) -> None:
    async with await vm.fork(name="looked-into") as fork:
        assert (await fork.status()).debugger == ""
        await look_around(fork)
        assert (await vm.status()).debugger == ""


async def test_the_command_line_says_how_to_connect(vm: VmHandle, tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        argv = [*MACHINEN, "debug", "shared", *arguments]
        return subprocess.run(argv, capture_output=True, text=True, check=True)

    shown = json.loads((await anyio.to_thread.run_sync(run, "--json")).stdout)
    assert (await anyio.to_thread.run_sync(run)).stdout == shown["command"] + "\n"
    if gdb := shutil.which("gdb"):
        argv = [
            gdb,
            "-batch",
            "-nx",
            "-ex",
            f"target remote {shown['socket']}",
            "-ex",
            "info registers",
        ]
        said = await anyio.run_process([*argv, "-ex", "detach"], cwd=tmp_path, check=False)
        assert b"rip " in said.stdout, said.stderr
    assert "let go of" in (await anyio.to_thread.run_sync(run, "--stop")).stderr
    assert "was not debugged" in (await anyio.to_thread.run_sync(run, "--stop")).stderr
    assert (await vm.exec("echo runs")).stdout == "runs\n"
