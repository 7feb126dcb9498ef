"""Real guests: where their state lies, VMs to share, and the check that nothing is left."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import cast

import anyio
import psutil
import pytest

from machinen_runtime.boot import boot
from machinen_runtime.channel_sessions import Output, TerminalSession
from machinen_runtime.handle import VmHandle
from tests.vm.guard import guarded

MEMORY_MIB = 512


@pytest.fixture(scope="session", autouse=True)
def vm_home() -> Generator[Path]:
    """Registry, disks and sockets of these tests: a short path, since sockets have 107 bytes.

    The installed base is the user's own. When the last test has ended, nothing may be left; when
    this process is killed instead, a guard sees to it.
    """
    home = Path(tempfile.mkdtemp(prefix="mv-", dir="/tmp"))
    variables = {
        "MACHINEN_REGISTRY_DIR": str(home / "vms"),
        "MACHINEN_STATE_DIR": str(home / "m"),
        "MACHINEN_RUNTIME_DIR": str(home / "r"),
        "MACHINEN_SNAPSHOTS_DIR": str(home / "snapshots"),
        "MACHINEN_DETACHED_LOG_DIR": str(home / "logs"),
        "MACHINEN_CRASHES_DIR": str(home / "crashes"),
    }
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    with guarded(home):
        yield home
        left = leftovers(home)  # the guard ends what is left, and removes the directory
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    assert not left, f"left behind: {left}"


def leftovers(home: Path) -> list[str]:
    """Processes that run in `home`'s name, and directories of VMs that are gone."""
    found = [str(path) for name in ("m", "r") for path in (home / name).glob("*")]
    for process in psutil.process_iter(["cmdline"]):
        cmdline = " ".join(cast("list[str] | None", process.info["cmdline"]) or [])
        if str(home) in cmdline:
            found.append(f"{process.pid} {cmdline}")
    return found


def qemu_of(vm: VmHandle) -> psutil.Process:
    """The QEMU process of a VM."""
    children = psutil.Process(vm.pid).children()
    return next(child for child in children if "qemu" in child.name())


async def say(session: TerminalSession, text: str, wanted: str) -> bytes:
    """Type `text` and wait for what shall come; all that came."""
    await session.send(text.encode())
    seen = b""
    with anyio.move_on_after(60):
        while wanted.encode() not in seen:
            event = await session.receive()
            if isinstance(event, Output):
                seen += event.data
    assert wanted.encode() in seen, f"{text!r} was answered by {seen!r}"
    return seen


@pytest.fixture(scope="module")
async def vm(vm_home: Path, anyio_backend: str) -> AsyncGenerator[VmHandle]:
    """One small VM for all tests of a module: a login shell in session `main`."""
    async with await boot(name="shared", memory=MEMORY_MIB, network="none") as handle:
        yield handle
