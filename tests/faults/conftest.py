"""A source VM per module, run by a monitor in which processes may be killed at any phase."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import pytest

from machinen_runtime.boot import boot
from tests.fakes import until
from tests.faults.aftermath import KEEP, PATIENCE_S, Scene, passts_of
from tests.faults.faulty_vmm import FAULTS
from tests.vm.conftest import MEMORY_MIB, vm_home

__all__ = ["vm_home"]

ROOT = Path(__file__).parents[2]
SMALL: dict[str, Any] = {"memory": MEMORY_MIB, "network": "none"}
TALK = """
import contextlib, socket, time
with socket.socket(type=socket.SOCK_DGRAM) as talk:
    while True:
        with contextlib.suppress(OSError):
            talk.sendto(b"x", ("10.0.2.2", 9))
        time.sleep(0.2)
"""
"""The source uses its network: else it has no process for it."""
MONITOR = ROOT / "tests/faults/monitor.sh"
"""In one place: a template is of the monitor that made it, and one cold boot serves all modules."""


@pytest.fixture(scope="module")
def faults(vm_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    """Where faults are armed; every monitor started meanwhile looks there."""
    directory = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MACHINEN_VMM", str(MONITOR))
        patch.setenv("MACHINEN_TEST_PYTHON", sys.executable)
        patch.setenv(FAULTS, str(directory))
        yield directory


@pytest.fixture(scope="module")
async def scene(vm_home: Path, faults: Path, anyio_backend: str) -> AsyncGenerator[Scene]:
    """A source that must survive all tests of a module."""
    async with await boot(name="source", **{**SMALL, "network": "full"}) as source:
        await source.exec(KEEP)
        await source.exec(f"setsid python3 -c '{TALK}' </dev/null >/dev/null 2>&1 &")
        await until(lambda: len(passts_of(source)) == 1, timeout_s=PATIENCE_S)
        yield Scene(vm_home, source, faults)


@pytest.fixture(autouse=True)
def disarmed(request: pytest.FixtureRequest) -> Generator[None]:
    """A fault that one test armed strikes no other one."""
    yield
    if "faults" in request.fixturenames:
        for order in request.getfixturevalue("faults").iterdir():
            order.unlink()
