"""The two pipes between a monitor and whoever starts it.

Status, monitor to starter, one JSON object a line: `started` (pid, name), `serving` (the sockets
are there), `agent` (the guest answers), `template` (report, or error: what became of the one that
was asked for), `ready` (phases; the agent answers, the workload runs) or `failed` (error, console,
qemu: the last words of both); from a monitor that is not its starter's child also `ended` (status).
Lifeline, starter to monitor: end of file is the starter's death,
`LET_GO` before it says that the VM lives on.
"""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import replace
from typing import Any

from vmm.spec import VmSpec

LET_GO = b"D"
NEST_ENDS = ("spec", "status", "lifeline")
"""A monitor's ends of its pipes, as a nest gets them (vmm/nest.py)."""
NEST_STDIO = ("console", "input", "output")
"""And of those to whoever started it and did not detach."""


def report(spec: VmSpec, message: dict[str, Any]) -> None:
    """Send one line to the starter; one that went away needs none."""
    if spec.status_fd is not None:
        with suppress(OSError):
            os.write(spec.status_fd, json.dumps(message).encode() + b"\n")


def adopt(spec: VmSpec, ends: dict[str, int]) -> VmSpec:
    """The spec with the numbers that its pipes have here."""
    return replace(
        spec,
        status_fd=ends["status"],
        lifeline_fd=ends["lifeline"],
        main_input_fd=ends.get("input"),
        main_output_fd=ends.get("output"),
        console_to_stderr="console" in ends,
    )
