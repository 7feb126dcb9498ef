"""Warm boots without a guest: a `start` that writes what a monitor writes, and may be told to fail.

As a program it makes a template and stops at the step it is told, for a test that kills it there.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn

import anyio

from machinen_runtime import templates, warm
from machinen_runtime.launch import Launched, LaunchRequest
from machinen_runtime.monitor_process import MonitorLink
from machinen_runtime.registry_entry import RegistryEntry
from vmm.requests import SnapshotReport
from vmm.spec import MachineSpec

MACHINE = MachineSpec(
    arch="amd64", accel="tcg", machine_type="q35", cpu_model="max", memory_mib=64, network="none"
)
MACHINE_SUM = "0" * 32
RAM = b"kernel" + bytes(100_000) + b"agent"
QCOW2 = b"QFI\xfb\0\0\0\3" + bytes(16) + (1 << 20).to_bytes(8, "big") + bytes(480)


def make_request(home: Path) -> LaunchRequest:
    """A cold boot whose files lie below `home`, older than what changes from now on."""
    files = {"base.ext4": bytes(1 << 20), "vmlinux": b"kernel", "qemu": b"emulator"}
    for name, data in files.items():
        path = home / name
        if not path.exists():
            path.write_bytes(data)
            os.utime(path, (1000, 1000))
    (home / ("ab" * 32 + ".img")).touch()
    return LaunchRequest(
        machine=MACHINE,
        qemu_binary=str(home / "qemu"),
        passt_binary=None,
        name="web",
        base_disk=home / "base.ext4",
        kernel=home / "vmlinux",
        initrd=home / ("ab" * 32 + ".img"),
    )


class FakeStart:
    """Starts nothing, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[LaunchRequest] = []
        self.before: Callable[[LaunchRequest], Awaitable[object]] | None = None
        """Called with each request first; what it raises is how the start fails."""
        self.writes = True

    async def __call__(
        self, request: LaunchRequest, monitor: MonitorLink | None = None
    ) -> Launched:
        self.asked.append(request)
        if self.before is not None:
            await self.before(request)
        launched = Launched(RegistryEntry(pid=1, socket_path="/s", started_at=1.0), {}, None)
        if request.template_dir is not None and self.writes:
            launched.template = write_template(request)
        return launched

    @property
    def last(self) -> LaunchRequest:
        return self.asked[-1]


def write_template(request: LaunchRequest) -> dict[str, Any]:
    """What the monitor writes, and the message it sends."""
    directory = request.template_dir
    assert directory is not None
    directory.mkdir(mode=0o700)
    (directory / "state").write_bytes(b"devices")
    (directory / "ram.img").write_bytes(RAM)
    (directory / "disk-1.qcow2").write_bytes(QCOW2)
    report = SnapshotReport(
        directory=str(directory),
        id="12345678",
        name=request.name,
        machine=dataclasses.asdict(request.machine),
        qemu_version="10.0.8",
        base=str(request.base_disk),
        layers=["disk-1.qcow2"],
        state="state",
        ram_image="ram.img",
        ram_copied_bytes=len(RAM),
        paused_ms=1.0,
        quiesced=False,
        phases={},
    )
    return {
        "event": "template",
        "report": dataclasses.asdict(report),
        "machine_sum": MACHINE_SUM,
    }


STEPS: dict[str, tuple[Any, str]] = {
    "the files are written": (templates, "publish"),
    "the checksums are known": (templates, "write_meta"),
    "all is synced": (templates, "remove_tree"),
    "it is in its place": (warm, "evict"),
}
"""Where a maker can be stopped: the function it is about to call."""


def main(home: Path, step: str) -> None:
    """Make a template; say `here` and wait for the end when `step` is reached."""

    def stop_here(*_: object, **__: object) -> NoReturn:
        print("here", flush=True)  # noqa: T201
        time.sleep(600)
        sys.exit("nobody killed us")

    if step in STEPS:
        owner, name = STEPS[step]
        setattr(owner, name, stop_here)
    start = FakeStart()
    if step == "the guest boots":

        async def stop(_: LaunchRequest) -> None:
            stop_here()

        start.before = stop
    anyio.run(warm.launch_warm, make_request(home), start)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
