"""Programs of the host under a pseudo-terminal."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from machinen_runtime.errors import BootError, ErrorCode, ExecError
from machinen_runtime.handle import ExitStatus
from machinen_runtime.pty_process import boot_pty


async def test_a_program_runs_on_a_terminal_of_its_own() -> None:
    script = 'stty size; tty | cut -c1-8; echo $TERM $X; pwd; [ "$(ps -o tpgid= $$)" -eq $$ ]'
    vm = boot_pty(
        binary="sh", args=["-c", script], cols=100, rows=30, env={"X": "y"}, cwd="/", name="vt220"
    )
    assert (await vm.output()).split() == ["30", "100", "/dev/pts", "vt220", "y", "/"]
    assert await vm.wait() == ExitStatus(code=0, signal=None)
    assert await vm.error_output() == await vm.output()


async def test_input_and_resize_reach_it() -> None:
    vm = boot_pty(binary="sh", args=["-c", "trap 'stty size; exit 5' WINCH; echo ready; read x"])
    assert b"ready" in await vm.stdout.receive()
    vm.resize(90, 20)
    await vm.stdin.send(b"\n")
    assert (await vm.wait()).code == 5
    assert "20 90" in await vm.output()
    vm.resize(80, 24)


async def test_kill_ends_the_whole_group(tmp_path: Path) -> None:
    vm = boot_pty(binary="sh", args=["-c", "trap '' HUP; sleep 300 & echo $!; wait"])
    child = int((await vm.stdout.receive()).split()[0])
    with anyio.fail_after(60):
        await vm.kill()
    assert (await vm.wait()).signal == "SIGKILL"
    with pytest.raises(ProcessLookupError):
        os.kill(vm.pid, 0)
    with anyio.fail_after(60):
        while await anyio.Path(f"/proc/{child}").exists():
            state = await anyio.Path(f"/proc/{child}/stat").read_text()
            if state.split()[2] == "Z":
                break
            await anyio.sleep(0.01)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BootError, match="no program frobnicate") as caught:
        boot_pty(binary="frobnicate")
    assert caught.value.code is ErrorCode.BOOT_VMM_MISSING
    with pytest.raises(BootError) as caught:
        boot_pty(binary="sh", cwd=tmp_path / "missing")
    assert caught.value.code is ErrorCode.BOOT_CWD_INVALID
    with pytest.raises(ExecError):
        boot_pty(binary="sh", cols=0)
