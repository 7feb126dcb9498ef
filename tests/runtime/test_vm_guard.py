"""What a killed test session leaves goes, VMs and programs alike, and nothing else does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.vm.child import heeding
from tests.vm.guard import ROOT, guarded

SESSION = """
import os, sys, time
from pathlib import Path
import psutil
from machinen_runtime.registry import register
from machinen_runtime.registry_entry import RegistryEntry
from tests.vm.guard import guarded

home = Path(sys.argv[1])
with guarded(home):
    register(RegistryEntry(pid=int(sys.argv[2]), socket_path="/s", started_at=time.time() * 1000))
    print(*(child.pid for child in psutil.Process().children()), flush=True)
    time.sleep(600)
"""


def test_what_a_killed_session_registered_goes_with_it(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "vms").mkdir(parents=True)
    env = {**os.environ, "MACHINEN_REGISTRY_DIR": str(home / "vms")}
    with subprocess.Popen(["sleep", "600"]) as vm, subprocess.Popen(["sleep", "600"]) as other:
        argv = [sys.executable, "-c", SESSION, str(home), str(vm.pid)]
        with subprocess.Popen(argv, env=env, cwd=ROOT, stdout=subprocess.PIPE) as session:
            assert session.stdout is not None
            guard = psutil.Process(int(session.stdout.readline()))
            os.kill(session.pid, signal.SIGKILL)
        assert vm.wait(60) == -signal.SIGTERM
        guard.wait(60)
        assert not home.exists()
        assert other.poll() is None
        other.kill()


@pytest.mark.parametrize("name", ["INT", "HUP", "CHLD"])
def test_a_tied_program_heeds_what_its_session_ignores(name: str) -> None:
    number = signal.Signals[f"SIG{name}"]
    before = signal.signal(number, signal.SIG_IGN)
    try:
        told = subprocess.run(
            heeding("env", "--list-signal-handling", "true"), stderr=subprocess.PIPE
        )
    finally:
        signal.signal(number, before)
    assert f"{name} " not in told.stderr.decode()


def test_a_session_that_ends_by_itself_waits_for_its_guard(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    before = set(psutil.Process().children())
    with guarded(home):
        (guard,) = set(psutil.Process().children()) - before
    assert not guard.is_running()
    assert not home.exists()
