"""Specs for tests: a machine nobody starts, with real files behind the disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from vmm.spec import DiskSpec, MachineSpec, RestoreSpec, VmSpec

MACHINE = MachineSpec(
    arch="amd64",
    accel="tcg",
    machine_type="pc-q35-8.2,hpet=off",
    cpu_model="max",
    memory_mib=4,
    cpus=2,
)


def make_spec(directory: Path, **changes: object) -> VmSpec:
    """A cold boot whose files and directories lie in `directory`."""
    for name in ("run", "state"):
        (directory / name).mkdir(exist_ok=True)
    (directory / "base.ext4").write_bytes(b"base")
    (directory / "empty.qcow2").write_bytes(b"an empty overlay")
    spec = VmSpec(
        id="abcd",
        name="web",
        hostname="web",
        run_dir=str(directory / "run"),
        state_dir=str(directory / "state"),
        qemu_binary="/opt/qemu-system-x86_64",
        kernel="/boot/vmlinux",
        initrd="/boot/initramfs",
        machine=MACHINE,
        disk=DiskSpec(
            base=str(directory / "base.ext4"),
            layers=[],
            overlay_template=str(directory / "empty.qcow2"),
        ),
    )
    return replace(spec, **changes)  # pyright: ignore[reportArgumentType]


def restored(spec: VmSpec, directory: Path) -> VmSpec:
    """The same VM, restored from a bundle's files in `directory`."""
    return replace(
        spec,
        restore=RestoreSpec(state=str(directory / "state"), ram_image=str(directory / "ram.img")),
    )
