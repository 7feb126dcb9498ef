"""Which template fits which VM: a checksum over everything the guest could have noticed so far.

All of it is content: a kernel, disk or QEMU with other bytes has another key, so a template is
never stale, only unused. What is handed over after the start (name, workload, mounts shown live,
port forwards, what an allowlist permits) is not in it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from machinen_runtime.content_sum import known_sum
from machinen_runtime.launch import LaunchRequest
from machinen_runtime.monitor_process import vmm_command
from vmm.accel import read_cpuinfo_flags
from vmm.spec import MachineSpec

FORMAT = 1
"""Of what the monitor keeps; a higher number makes all templates of before unused."""


def why_never_warm(request: LaunchRequest) -> str | None:
    """Why no template can serve this VM, in words for the log; None if one can."""
    if request.extra_args:
        return "it has arguments of its own for QEMU"
    if request.dtb is not None:
        return "it has a device tree of its own"
    if request.kernel is None or request.initrd is None:
        return "it boots no kernel"
    return None


def template_key(request: LaunchRequest) -> str:
    """32 hex digits. Reads what it has not seen before, so: for a worker thread.

    Raises:
        OSError: a file cannot be read; the boot itself will say so.
    """
    assert request.kernel is not None
    assert request.initrd is not None
    parts = {
        "format": FORMAT,
        "machinen": _version(),
        "machine": dataclasses.asdict(_as_guests_see_it(request.machine)),
        "processor": _processor(request.machine),
        "disk": _sum_of(request.base_disk),
        "disk_bytes": request.disk_size_bytes or request.base_disk.stat().st_size,
        "kernel": _sum_of(request.kernel),
        "initramfs": request.initrd.stem,  # its name is its content's checksum
        "qemu": _sum_of(Path(request.qemu_binary)),
        "monitor": vmm_command(request.vmm_command),
        "monitor_env": sorted(request.vmm_env.items()),
    }
    text = json.dumps(parts, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _as_guests_see_it(machine: MachineSpec) -> MachineSpec:
    """An allowlist is the monitor's affair: the machine is one without a network card."""
    return dataclasses.replace(machine, network="full" if machine.network == "full" else "none")


def _processor(machine: MachineSpec) -> list[str]:
    """With KVM the guest has met this very processor, through this very kernel."""
    if machine.accel != "kvm":
        return []
    return [os.uname().release, *sorted(read_cpuinfo_flags())]


def _sum_of(path: Path) -> str:
    return known_sum(path.resolve())


def _version() -> str:
    try:
        return version("machinen")
    except PackageNotFoundError:
        return "unknown"
