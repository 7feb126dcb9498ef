"""A real QEMU, confined, whose QMP somebody hostile has got hold of: what it refuses to do."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.vmm.specs import make_spec
from vmm.arch import host_arch
from vmm.confine import child_environment, confinement
from vmm.landlock import landlock_abi
from vmm.machine import SANDBOX, Endpoints, file_options
from vmm.spec import VmSpec

QEMU = shutil.which(host_arch().qemu_binary)
pytestmark = [
    pytest.mark.skipif(QEMU is None, reason="no QEMU"),
    pytest.mark.skipif(landlock_abi() < 6, reason="an older kernel"),
]


class Qemu:
    """QEMU with a machine that never runs, and its QMP."""

    def __init__(self, spec: VmSpec, own: Path, stack: ExitStack) -> None:
        self.run_dir = Path(spec.run_dir)
        ours, theirs = socket.socketpair()
        stack.callback(ours.close)
        endpoints = Endpoints(
            qmp_fd=0, line_fd=0, console_fd=0, channel_path="", layers=[spec.disk.base]
        )
        with theirs:
            process = subprocess.Popen(
                [
                    *(spec.qemu_binary, "-nodefaults", "-no-user-config", "-display", "none", "-S"),
                    *("-machine", host_arch().machine_type, "-cpu", "max", "-m", "16"),
                    *("-sandbox", SANDBOX),
                    *("-chardev", f"socket,id=qmp0,fd={theirs.fileno()}"),
                    *("-mon", "chardev=qmp0,mode=control"),
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                preexec_fn=confinement(spec, endpoints, str(own), stack),
                cwd="/",
                env=child_environment(spec),
            )
        stack.callback(process.wait)
        stack.callback(process.kill)
        ours.settimeout(60)
        self._socket = ours
        self._lines = stack.enter_context(ours.makefile("rb"))
        self._lines.readline()
        self.do("qmp_capabilities")

    def do(self, command: str, **arguments: object) -> Any:
        """What it returns, or the sentence it refuses with."""
        request = {"execute": command, "arguments": arguments}
        self._socket.sendall(json.dumps(request).encode())
        while True:
            answer = json.loads(self._lines.readline())
            if "return" in answer:
                return answer["return"]
            if "error" in answer:
                return answer["error"]["desc"]

    def add_file(self, path: Path | str, *, writable: bool = False) -> Any:
        options = {**file_options(str(path)), "auto-read-only": False}
        return self.do("blockdev-add", **{**options, "node-name": "n", "read-only": not writable})


@pytest.fixture
def qemu(tmp_path: Path) -> Generator[Qemu]:
    spec = replace(make_spec(tmp_path), qemu_binary=QEMU or "", passt_binary="/usr/bin/passt")
    own = Path(spec.state_dir, "own")
    own.mkdir()
    (own / "disk-1.qcow2").write_bytes(bytes(4096))
    with ExitStack() as stack:
        yield Qemu(spec, own, stack)


def test_it_opens_its_disks_and_no_other_file(qemu: Qemu, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(4096))
    assert "Permission denied" in qemu.add_file(tmp_path / "secret")
    assert "Permission denied" in qemu.add_file("/etc/shadow")
    assert "Permission denied" in qemu.add_file(tmp_path / "base.ext4", writable=True)
    assert qemu.add_file(tmp_path / "state/own/disk-1.qcow2", writable=True) == {}


def test_it_writes_no_file_that_was_not_made_for_it(qemu: Qemu, tmp_path: Path) -> None:
    refused = qemu.do("dump-guest-memory", paging=False, protocol=f"file:{tmp_path / 'core'}")
    assert "Permission denied" in refused or "could not" in refused.lower(), refused
    assert not (tmp_path / "core").exists()


def test_a_debugger_may_come_to_its_directory_and_it_goes_to_nobody(qemu: Qemu) -> None:
    wanted = f"gdbserver unix:{qemu.run_dir}/debug.sock,server=on,wait=off"
    qemu.do("human-monitor-command", **{"command-line": wanted})
    with socket.socket(socket.AF_UNIX) as debugger:
        debugger.connect(str(qemu.run_dir / "debug.sock"))
    with socket.socket(socket.AF_UNIX) as monitor:
        path = str(qemu.run_dir / "control.sock")
        monitor.bind(path)
        monitor.listen()
        address = {"type": "unix", "data": {"path": path}}
        backend = {"type": "socket", "data": {"addr": address, "server": False}}
        refused = qemu.do("chardev-add", id="c", backend=backend)
    assert "Operation not permitted" in refused


def test_it_starts_no_program(qemu: Qemu, tmp_path: Path) -> None:
    refused = qemu.do("migrate", uri=f"exec:touch {tmp_path / 'started'}")
    status = qemu.do("query-migrate")
    assert isinstance(refused, str) or status.get("status") == "failed"
    assert not (tmp_path / "started").exists()
