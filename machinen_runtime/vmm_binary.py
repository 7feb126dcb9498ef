"""Where the monitor's program is: `MACHINEN_VMM`, or the one our package brings."""

from __future__ import annotations

import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.option_types import StrPath

SCRIPT = "machinen-vmm"


def resolve_vmm_binary() -> str:
    """The program that runs one VM: `MACHINEN_VMM`, else `machinen-vmm` of our own package.

    Raises:
        BootError: BOOT_VMM_MISSING if `MACHINEN_VMM` names no program; BOOT_VMM_PACKAGE_BROKEN if
            our package lacks its monitor.
    """
    explicit = os.environ.get("MACHINEN_VMM", "")
    if explicit:
        return _program(explicit, None, f"MACHINEN_VMM={explicit}")
    ours = Path(sys.executable).with_name(SCRIPT)
    found = str(ours) if os.access(ours, os.X_OK) else shutil.which(SCRIPT)
    if found is None or find_spec("vmm") is None:
        raise _broken()
    return found


def resolve_vmm_command(binary: StrPath | None, cwd: StrPath | None = None) -> list[str]:
    """The command a VM is started with; empty for our own monitor under this very Python.

    Raises:
        BootError: BOOT_VMM_MISSING if `binary` (against `cwd`) or `MACHINEN_VMM` is no program;
            BOOT_VMM_PACKAGE_BROKEN if our package lacks its monitor.
    """
    if binary is not None:
        return [_program(os.fspath(binary), cwd, f"the option binary={os.fspath(binary)!r}")]
    if os.environ.get("MACHINEN_VMM"):
        return [resolve_vmm_binary()]
    if find_spec("vmm") is None:
        raise _broken()
    return []


def _program(name: str, cwd: StrPath | None, what: str) -> str:
    """An executable file, absolute; a name without a slash may also be in PATH."""
    path = os.path.abspath(os.path.join(cwd or "", name))
    if os.path.isfile(path) and os.access(path, os.X_OK):
        return path
    found = shutil.which(name) if os.sep not in name else None
    if found is None:
        raise BootError(
            ErrorCode.BOOT_VMM_MISSING, f"{what} names no program: correct it, or leave it out"
        )
    return found


def _broken() -> BootError:
    return BootError(
        ErrorCode.BOOT_VMM_PACKAGE_BROKEN,
        "the monitor is not part of this installation: install the package machinen again",
    )
