"""A client that does one thing to a VM, and is killed at a moment of it.

`python -m tests.faults.client OPERATION MOMENT OPTIONS`, the options as JSON. A moment
`client.<phase>` is the end of a phase of its own, `stage.<stage>` one of provision(); others are
those of tests/faults/faulty_vmm.py, whose monitor kills us.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import anyio

from machinen_runtime.attach import attach
from machinen_runtime.boot import boot
from machinen_runtime.handle import VmHandle
from machinen_runtime.log_events import PhaseTimer
from machinen_runtime.provision import provision
from machinen_runtime.restore import restore
from tests.faults.faulty_vmm import FAULTS, kill


def die_after(phase: str) -> None:
    """Be killed at the end of a phase that we measure ourselves."""
    mark = PhaseTimer.mark

    def fatal_mark(self: PhaseTimer, name: str, elapsed_ms: float) -> None:
        mark(self, name, elapsed_ms)
        if name == phase:
            kill(os.getpid())

    PhaseTimer.mark = fatal_mark


def die_in(stage: str) -> Any:
    """The `on_progress` of a provision() that is killed when it enters a stage."""

    def on_progress(entered: str, done_bytes: int) -> None:
        if entered == stage and (stage != "archive" or done_bytes):
            kill(os.getpid())

    return on_progress


async def install(vm: VmHandle) -> None:
    """Change the base a little."""
    await vm.exec("echo new >/root/new")


async def act(operation: str, moment: str, options: dict[str, Any]) -> None:
    """Do it; it does not come back."""
    when, _, phase = moment.partition(".")
    match when:
        case "client":
            die_after(phase)
        case "stage":
            options["on_progress"] = die_in(phase)
        case _:
            Path(os.environ[FAULTS], f"{moment}.client").write_text(str(os.getpid()))
    match operation:
        case "boot":
            await boot(detached=True, **options)
        case "restore":
            await restore(detached=True, **options)
        case "provision":
            await provision(install=install, **options)
        case "fork":
            await (await attach(pid=options.pop("pid"))).fork(detached=True, **options)
        case "snapshot":
            await (await attach(pid=options.pop("pid"))).snapshot(**options)
        case _:
            raise ValueError(operation)


if __name__ == "__main__":
    anyio.run(act, sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
