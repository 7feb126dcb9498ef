"""What differs per processor architecture: names of binaries, devices and files.

Names follow dpkg (`amd64`, `arm64`), because the guest is Debian. Pure facts; nothing here looks at
the machine except `host_arch()`.
"""

from __future__ import annotations

import os
from collections.abc import Set
from dataclasses import dataclass

MIN_QEMU_VERSION = (8, 2)
"""Forks need `memory-backend-file,share=off,readonly=on,rom=off` and the `file:` migration URI."""


class UnsupportedArchError(RuntimeError):
    """This processor architecture is none that Machinen knows a guest for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arch:
    """One architecture, for the host and its guests alike: a VM runs on its host's own kind."""

    name: str
    """dpkg's word: `amd64`, `arm64`."""
    uname: str
    """The kernel's word: `x86_64`, `aarch64`."""
    qemu_binary: str
    machine_type: str
    """QEMU's `-machine` type with what an idle guest should not pay for switched off.

    Versioned, so that a snapshot loads into a newer QEMU too; an HPET alone costs an idle guest
    1.3 % of a core.
    """
    console_device: str
    """The serial console as the guest kernel names it."""
    kernel_file: str
    """The bootable kernel in a base directory."""
    assets_kernel_file: str
    """The same in a directory that `MACHINEN_ASSETS_DIR` names."""
    kernel_package: str
    """Debian's meta package that depends on the current cloud kernel."""
    qemu_package: str
    """The Debian package that has `qemu_binary`."""
    tcg_cpu: str = "max"
    """The CPU model under TCG: on amd64 without "fast" byte-wise string instructions.

    TCG runs `rep movsb` and `rep stosb` a byte at a time (0.1 GB/s); without those flags kernel and
    libc copy and clear by words or vectors, ten times as fast. Flags of QEMU 8.2 or newer.
    """

    def kvm_cpu(self, cpu_flags: Set[str] = frozenset()) -> str:
        """The CPU model under KVM: on amd64 a named one, so that a snapshot may travel.

        Args:
            cpu_flags: the host's flags, see `vmm.accel.read_cpuinfo_flags`.
        """
        if self.name != "amd64":
            return "host"
        return "Haswell-noTSX" if "avx2" in cpu_flags else "Westmere"


AMD64 = Arch(
    name="amd64",
    uname="x86_64",
    qemu_binary="qemu-system-x86_64",
    machine_type="pc-q35-8.2,hpet=off,sata=off,smbus=off,usb=off,vmport=off",
    console_device="ttyS0",
    kernel_file="vmlinux",
    assets_kernel_file="vmlinux-amd64",
    kernel_package="linux-image-cloud-amd64",
    qemu_package="qemu-system-x86",
    tcg_cpu="max,-erms,-fsrm,-fzrm,-fsrs,-fsrc",
)

ARM64 = Arch(
    name="arm64",
    uname="aarch64",
    qemu_binary="qemu-system-aarch64",
    machine_type="virt-8.2,gic-version=max,usb=off",
    console_device="ttyAMA0",
    kernel_file="Image",
    assets_kernel_file="Image-arm64",
    kernel_package="linux-image-cloud-arm64",
    qemu_package="qemu-system-arm",
)

_BY_MACHINE = {"x86_64": AMD64, "amd64": AMD64, "aarch64": ARM64, "arm64": ARM64}


def arch_for(machine: str) -> Arch:
    """The architecture that uname or dpkg calls `machine`. Raises UnsupportedArchError."""
    try:
        return _BY_MACHINE[machine.lower()]
    except KeyError:
        raise UnsupportedArchError(
            f"no guest for this processor ({machine}): Machinen runs on x86_64 and aarch64"
        ) from None


def host_arch() -> Arch:
    """This machine's architecture. Raises UnsupportedArchError."""
    return arch_for(os.uname().machine)
