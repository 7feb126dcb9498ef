"""A script without async: boot, exec, fork, stop; on a real guest."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from machinen_runtime import Exited, sync
from machinen_runtime.registry import live_entries
from tests.vm.conftest import MEMORY_MIB

pytestmark = pytest.mark.vm


def test_a_plain_script_boots_runs_forks_and_stops(vm_home: Path) -> None:
    with sync.boot(name="plain", memory=MEMORY_MIB, network="none", args=["-device", "edu"]) as vm:
        pid = vm.pid
        assert vm.exec("cat /proc/sys/kernel/hostname").stdout == "plain\n"
        vm.write_file("/root/note", "before the fork")
        assert vm.exec("cat /sys/bus/pci/devices/*/device | grep -c 0x11e8").stdout == "1\n"
        fork = vm.fork(name="plain-2", args=["-device", "edu"])
        assert fork.exec("cat /root/note").stdout == "before the fork"
        assert {info.name for info in vm.sessions()} == {"main"}
        with fork.open_session("main", cols=80, rows=24) as session:
            session.send(b"exit\n")
            while not isinstance(session.receive(), Exited):
                pass
        assert fork.wait().code == 0
        assert vm.memory_stats().ceiling_mib == MEMORY_MIB
    assert not psutil.pid_exists(pid)
    assert [entry.name for entry in live_entries() if entry.name in ("plain", "plain-2")] == []
