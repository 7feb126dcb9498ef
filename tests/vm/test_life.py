"""Boots and endings of real VMs: exit statuses, deaths by every hand, and that nothing is left."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import anyio
import psutil
import pytest
from anyio.abc import Process

from machinen_runtime.attach import attach
from machinen_runtime.boot import boot
from machinen_runtime.channel_exec import VsockExec
from machinen_runtime.errors import BootError, ErrorCode, ExecError, RegistryError
from machinen_runtime.gc import run_gc
from machinen_runtime.log_events import LogEvent, PhaseLogEvent
from machinen_runtime.option_types import PortForward
from machinen_runtime.registry import live_entries
from tests.vm.child import SIGNALS, heeding
from tests.vm.conftest import MEMORY_MIB, leftovers, qemu_of
from vmm.requests import EXIT_QEMU_DIED

pytestmark = pytest.mark.vm

DIAL = "python3 -c 'import socket; socket.create_connection((\"{}\", {}), 5)'"
SMALL: dict[str, Any] = {"memory": MEMORY_MIB, "network": "none"}


async def wait_for_no(path: Path) -> None:
    """Until `path` is gone; half a minute at most, on a busy machine."""
    with anyio.fail_after(60):
        while path.exists():
            await anyio.sleep(0.02)


async def test_the_exit_code_of_the_workload_is_that_of_the_vm() -> None:
    vm = await boot(cmd=["sh", "-c", "echo from the guest; exit 7"], **SMALL)
    assert await vm.wait() == await vm.wait()
    assert (await vm.wait()).code == 7
    assert "from the guest" in await vm.output()
    assert "Power down" in await vm.error_output()


@pytest.mark.provokes(ErrorCode.BOOT_CMD_FAILED)
async def test_a_workload_that_cannot_start_says_so_and_leaves_nothing(vm_home: Path) -> None:
    before = leftovers(vm_home)
    with pytest.raises(BootError) as caught:
        await boot(cmd=["/no/such/program"], **SMALL)
    assert caught.value.code is ErrorCode.BOOT_CMD_FAILED
    assert leftovers(vm_home) == before


async def test_the_workload_gets_environment_directory_and_typed_input() -> None:
    async with await boot(
        name="typed",
        cmd=["sh", "-c", 'read l; echo "$A $PWD $l"'],
        env={"A": "b"},
        guest_cwd="/usr",
        **SMALL,
    ) as vm:
        await vm.stdin.send(b"hello\n")
        assert (await vm.wait()).code == 0
        assert "b /usr hello" in await vm.output()


async def test_boot_reports_its_phases_and_a_name_is_held_once() -> None:
    events: list[LogEvent] = []
    async with await boot(name="only", on_log=events.append, **SMALL) as vm:
        phases = next(event for event in events if isinstance(event, PhaseLogEvent))
        assert phases.kind == "boot"
        assert phases.phases["monitor.agent"] > 0
        with pytest.raises(RegistryError) as caught:
            await boot(name="only", **SMALL)
        assert caught.value.code is ErrorCode.REGISTRY_NAME_IN_USE
        assert [entry.name for entry in live_entries() if entry.pid == vm.pid] == ["only"]
        assert (await (await attach(name="only")).exec("echo hi")).stdout == "hi\n"
    assert all(entry.name != "only" for entry in live_entries())


async def test_a_host_port_leads_to_a_server_in_the_guest() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    forward = PortForward(host_port=port, guest_port=8000)
    async with await boot(name="web", port_forward=[forward], **SMALL) as vm:
        await vm.exec("cd /etc; setsid python3 -m http.server 8000 >/dev/null 2>&1 </dev/null &")
        await vm.exec(
            "until python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 8000))'"
            " 2>/dev/null; do sleep 0.1; done"
        )
        async with await anyio.connect_tcp("127.0.0.1", port) as client:
            await client.send(b"GET /debian_version HTTP/1.0\r\n\r\n")
            reply = b""
            while b"13" not in reply:
                reply += await client.receive()
        with pytest.raises(BootError) as caught:
            await boot(name="second", port_forward=[forward], **SMALL)
        assert caught.value.code is ErrorCode.BOOT_PORT_FORWARD_IN_USE


async def test_the_guest_reaches_the_outside_and_not_the_loopback_of_its_host() -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        server.settimeout(30)
        port = server.getsockname()[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only asks for our own address
            address = probe.getsockname()[0]
        async with await boot(name="net", memory=MEMORY_MIB) as vm:
            result = await vm.exec_raw(DIAL.format(address, port))
            assert result.exit_code == 0, result.stderr
            server.accept()[0].close()
            assert (await vm.exec_raw(DIAL.format("10.0.2.2", port))).exit_code != 0


async def test_stop_lets_the_guest_end_its_workload() -> None:
    async with await boot(
        name="kind",
        cmd=["sh", "-c", PATIENT],
        **SMALL,
    ) as vm:
        seen = b""
        while b"ready" not in seen:
            seen += await vm.stdout.receive()
        assert (await vm.stop(grace_ms=5000)).code == 5
        assert "bye" in await vm.output()


async def test_pause_stops_the_guest_and_resume_lets_it_go_on() -> None:
    async with await boot(name="paused", **SMALL) as vm:
        await vm.pause()
        assert (await vm.status()).state == "paused"
        with anyio.move_on_after(0.5) as waiting:
            await vm.exec("true")
        assert waiting.cancelled_caught
        with pytest.raises(ExecError, match="it is paused; resume it first"):
            await VsockExec.run(vm.vsock_path, ["true"], connect_timeout_ms=200)
        await vm.resume()
        assert (await vm.exec("echo back")).stdout == "back\n"


async def test_killing_the_monitor_takes_qemu_along_and_gc_leaves_no_file(vm_home: Path) -> None:
    vm = await boot(name="headless", **SMALL)
    qemu = qemu_of(vm)
    os.kill(vm.pid, signal.SIGKILL)
    await wait_for_no(Path(f"/proc/{qemu.pid}"))
    assert (await vm.wait()).signal == "SIGKILL"
    assert all(entry.pid != vm.pid for entry in live_entries())
    results = [result for result in run_gc() if result.pid == vm.pid]
    assert len(results) == 1
    assert results[0].failed_paths == []
    assert not any(Path(path).exists() for path in vm.entry.cleanup_paths)
    await vm.detach()


async def test_killing_qemu_ends_the_monitor_which_cleans_up() -> None:
    vm = await boot(name="bodiless", **SMALL)
    qemu_of(vm).kill()
    with anyio.fail_after(60):
        assert (await vm.wait()).code == EXIT_QEMU_DIED
    assert not any(Path(path).exists() for path in vm.entry.cleanup_paths)
    assert (await attach_fails(vm.pid)) is ErrorCode.REGISTRY_VM_NOT_FOUND


async def attach_fails(pid: int) -> ErrorCode:
    """The code with which attach(pid) is refused."""
    with pytest.raises(RegistryError) as caught:
        await attach(pid=pid)
    return caught.value.code


PATIENT = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
BOOT_AND_WAIT = """
import anyio, sys
from machinen_runtime.boot import boot
async def main():
    lives_on = {"no": {}, "yes": {"detached": True}, "untied": {"pdeathsig": False}}[sys.argv[2]]
    vm = await boot(name=sys.argv[1], memory=512, network="none", **lives_on)
    print(vm.pid, flush=True)
    await anyio.sleep_forever()
anyio.run(main)
"""


@pytest.mark.parametrize("detached", ["no", "yes", "untied"])
async def test_a_vm_dies_with_the_process_that_booted_it_unless_detached(detached: str) -> None:
    argv = heeding(sys.executable, "-c", BOOT_AND_WAIT, f"child-{detached}", detached)
    async with await anyio.open_process(argv, stderr=None) as booter:
        pid = await pid_of(booter)
        booter.kill()
    if detached != "no":
        vm = await attach(pid=pid)
        if detached == "yes":
            assert vm.entry.boot_log_path is not None
            assert "the workload runs" in Path(vm.entry.boot_log_path).read_text()
        assert (await vm.exec("echo on my own")).stdout == "on my own\n"
        await vm.stop()
    await wait_for_no(Path(f"/proc/{pid}"))


async def pid_of(booter: Process) -> int:
    """The VM's pid, once it is there; ValueError if the booter ended without a word."""
    assert booter.stdout is not None
    with anyio.fail_after(120):
        async for told in booter.stdout:
            return int(told)
    raise ValueError(f"it ended with {await booter.wait()}")


@pytest.mark.parametrize("ignored", ["--ignore-signal", "--block-signal"])
async def test_a_vm_ends_as_told_whatever_its_starter_did_with_signals(
    ignored: str, vm_home: Path
) -> None:
    argv = heeding(
        "env", f"{ignored}={','.join(SIGNALS)}", sys.executable, "-c", BOOT_AND_WAIT, "deaf", "yes"
    )
    async with await anyio.open_process(argv, stderr=None) as booter:
        pid = await pid_of(booter)
        booter.kill()
    vm = await attach(pid=pid)
    for process in (psutil.Process(pid), qemu_of(vm)):
        assert not deaf_to(process.pid) & {getattr(signal, f"SIG{name}") for name in SIGNALS}
    os.kill(pid, signal.SIGINT)
    await wait_for_no(Path(f"/proc/{pid}"))
    assert not any(Path(path).exists() for path in vm.entry.cleanup_paths)
    assert pid in [result.pid for result in run_gc()]  # what tells of its end goes then


def deaf_to(pid: int) -> set[int]:
    """The signals that a process blocks or ignores, see proc(5)."""
    rows = dict(row.split(":", 1) for row in Path(f"/proc/{pid}/status").read_text().splitlines())
    mask = int(rows["SigBlk"], 16) | int(rows["SigIgn"], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


@pytest.mark.parametrize("delay", [0.02, 0.15, 0.5, 1.5])
async def test_a_boot_interrupted_at_any_moment_leaves_nothing(delay: float, vm_home: Path) -> None:
    before = sorted(leftovers(vm_home))
    argv = heeding(sys.executable, "-c", BOOT_AND_WAIT, "interrupted", "yes")
    async with await anyio.open_process(argv, stdout=PIPE, stderr=DEVNULL) as booter:
        await anyio.sleep(delay)  # the moment of the interruption is the test's input
        booter.send_signal(signal.SIGINT)
        assert booter.stdout is not None
        with anyio.fail_after(60):
            said = b"".join([part async for part in booter.stdout])
            await booter.wait()
    if said:  # a warm boot may be over by then, and a detached VM stays
        await (await attach(pid=int(said))).stop()
    with anyio.fail_after(60):
        while sorted(leftovers(vm_home)) != before:
            await anyio.sleep(0.05)
    assert all(entry.name != "interrupted" for entry in live_entries())


async def test_a_monitor_needs_little_and_an_idle_vm_costs_nothing_else() -> None:
    async with await boot(name="idle", **SMALL) as vm:
        monitor = psutil.Process(vm.pid)
        assert monitor.memory_full_info().pss < 40 << 20
        assert [child.name() for child in monitor.children()] == [qemu_of(vm).name()]
