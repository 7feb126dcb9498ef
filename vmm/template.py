"""Templates: a guest kept just after its agent came up, before it was anybody in particular.

The monitor of a VM that boots its kernel greets the agent without a name, without entropy and
without opening the channel to anybody, takes a snapshot of that, and only then greets it as the VM
it is to be. A VM started from the template gets everything in the same order: name, time and
entropy, mounts, workload. Which template fits which VM is the runtime's business (warm.py there);
the monitor only makes sure that it would start QEMU as the template's was started.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vmm.errors import VmmError
from vmm.machine import machine_sum
from vmm.snapshot_engine import SnapshotRequest
from vmm.spec import VmSpec

if TYPE_CHECKING:
    from vmm.snapshot_engine import SnapshotEngine


def check_template(spec: VmSpec) -> None:
    """Make sure a VM can go on from its template.

    Raises:
        VmmError: RESTORE_FAILED if this monitor would start another kind of machine.
    """
    expected = spec.restore.machine_sum if spec.restore is not None else ""
    if expected and expected != machine_sum(spec):
        message = "the template was made of another machine than this monitor would start"
        raise VmmError("RESTORE_FAILED", message)


async def keep_template(spec: VmSpec, engine: SnapshotEngine) -> dict[str, Any]:
    """Write the guest as it is now to `spec.template_dir`; the status line that says how it went.

    It is not synced, and a failure is only told: the VM goes on either way.
    """
    request = SnapshotRequest(
        directory=Path(spec.template_dir or ""), leave_running=True, durable=False, bare=True
    )
    try:
        report = await engine.snapshot(request)
    except VmmError as error:
        return {"event": "template", "error": error.to_json()}
    return {
        "event": "template",
        "report": dataclasses.asdict(report),
        "machine_sum": machine_sum(spec),
    }
