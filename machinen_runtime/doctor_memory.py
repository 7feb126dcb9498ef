"""Whether forks, restores and warm boots return to the host what their guests free."""

from __future__ import annotations

from machinen_runtime.doctor_check import Check
from machinen_runtime.errors import BootError
from machinen_runtime.machines import give_back_wanted, resolve_qemu_binary
from vmm.arch import UnsupportedArchError
from vmm.ram_shim import shim_path, why_not


def check_given_back() -> Check:
    """Where they cannot, sandboxes run all the same: a warning."""
    name, needed_for = "given back", "forks and warm boots returning memory"
    try:
        if not give_back_wanted():
            fix = "unset MACHINEN_GIVE_BACK"
            found = "off: MACHINEN_GIVE_BACK"
            return Check(name=name, status="warning", found=found, needed_for=needed_for, fix=fix)
    except BootError as error:
        fix = "unset MACHINEN_GIVE_BACK"
        return Check(name=name, status="failed", found=str(error), needed_for=needed_for, fix=fix)
    try:
        reason = why_not(resolve_qemu_binary(), shim_path())
    except (BootError, UnsupportedArchError) as error:
        reason = str(error)
    if reason is None:
        found = "what their guests free is the host's again"
        return Check(name=name, status="ok", found=found, needed_for=needed_for)
    return Check(
        name=name,
        status="warning",
        found="memory they once changed stays theirs",
        needed_for=needed_for,
        fix=reason,
    )
