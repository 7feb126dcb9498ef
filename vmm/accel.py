"""KVM or TCG, and why.

`/dev/kvm` alone proves nothing: inside a VM without nested virtualisation the file can open and a
guest then hangs for minutes. So KVM needs the file to open for writing and the processor to show
its extension (`vmx` or `svm` in /proc/cpuinfo; on arm64 the device exists only where EL2 is
usable). `MACHINEN_ACCEL` overrides.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vmm.arch import Arch, host_arch
from vmm.errors import VmmError

KVM_DEVICE = Path("/dev/kvm")
CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Accel:
    """What executes the guest's instructions, with the sentence `machinen doctor` shows."""

    kind: Literal["kvm", "tcg"]
    reason: str


def choose_accel() -> Accel:
    """Decide for this machine. Raises VmmError ACCEL_INVALID on a bad `MACHINEN_ACCEL`."""
    return decide_accel(
        arch=host_arch(),
        environ=os.environ,
        kvm_problem=probe_kvm_device(),
        cpu_flags=read_cpuinfo_flags(),
    )


def decide_accel(
    *, arch: Arch, environ: Mapping[str, str], kvm_problem: str | None, cpu_flags: Set[str]
) -> Accel:
    """The decision itself; pure.

    Args:
        kvm_problem: why /dev/kvm cannot be used, None if it opens.
        cpu_flags: the flags /proc/cpuinfo lists.
    """
    override = environ.get("MACHINEN_ACCEL", "")
    if override:
        return _accel_from_override(override)
    if kvm_problem is not None:
        return Accel("tcg", kvm_problem)
    if arch.name == "amd64":
        extension = next((flag for flag in ("vmx", "svm") if flag in cpu_flags), None)
        if extension is None:
            return Accel("tcg", f"{KVM_DEVICE} opens, but the processor shows neither vmx nor svm")
        return Accel("kvm", f"{KVM_DEVICE} opens and the processor has {extension}")
    return Accel("kvm", f"{KVM_DEVICE} opens")


def _accel_from_override(override: str) -> Accel:
    match override:
        case "kvm" | "tcg":
            return Accel(override, f"MACHINEN_ACCEL={override}")
        case _:
            raise VmmError(
                "ACCEL_INVALID",
                f"MACHINEN_ACCEL is {override!r}: set it to kvm or tcg, or unset it",
            )


def probe_kvm_device(device: Path = KVM_DEVICE) -> str | None:
    """Why `device` cannot be used, or None if it opens for reading and writing."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        return f"{device} does not exist"
    except PermissionError:
        return f"{device} may not be opened: add your user to the group kvm"
    except OSError as error:
        return f"{device} does not open: {error.strerror}"
    return None


def read_cpuinfo_flags(cpuinfo: Path = CPUINFO) -> frozenset[str]:
    """The flags of the first processor in `cpuinfo`."""
    return parse_cpu_flags(cpuinfo.read_text(encoding="utf-8", errors="replace"))


def parse_cpu_flags(cpuinfo_text: str) -> frozenset[str]:
    """The words after the first `flags` (amd64) or `Features` (arm64); empty if there is none."""
    for line in cpuinfo_text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()
