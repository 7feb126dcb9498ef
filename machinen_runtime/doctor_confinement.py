"""How far this kernel lets a sandbox's QEMU and our tools be confined, and whether they are."""

from __future__ import annotations

from machinen_runtime.doctor_check import Check
from machinen_runtime.errors import BootError
from machinen_runtime.machines import confinement_wanted
from vmm.confined_tool import LEAST_ABI
from vmm.landlock import abi_notes, landlock_abi


def check_confinement() -> Check:
    """A kernel that cannot do all of it is a warning: sandboxes run, and say so in their logs."""
    name, needed_for = "confinement", "keeping who broke into QEMU or a tool there"
    try:
        wanted = confinement_wanted()
    except BootError as error:
        fix = "unset MACHINEN_CONFINE"
        return Check(name=name, status="failed", found=str(error), needed_for=needed_for, fix=fix)
    if not wanted:
        return Check(
            name=name,
            status="warning",
            found="off: MACHINEN_CONFINE",
            needed_for=needed_for,
            fix="unset MACHINEN_CONFINE",
        )
    abi = landlock_abi()
    missing = abi_notes(abi)
    if abi < LEAST_ABI:
        missing.append("which files tar, mke2fs and other tools see (Linux 5.19)")
    files = f"its own files alone (Landlock {abi})" if abi else "all files"
    found = f"no capabilities, few system calls, {files}"
    return Check(
        name=name,
        status="warning" if missing else "ok",
        found=found,
        needed_for=needed_for,
        fix=f"use a newer kernel, with Landlock; not confined: {'; '.join(missing)}"
        if missing
        else None,
    )
