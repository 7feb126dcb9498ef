"""The programs and the accelerator a sandbox needs on the host."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from machinen_runtime.doctor_check import Check, CheckStatus
from machinen_runtime.errors import BootError
from machinen_runtime.machines import resolve_qemu_binary
from machinen_runtime.rootfs_image import resolve_mke2fs
from vmm.accel import choose_accel
from vmm.arch import UnsupportedArchError, host_arch
from vmm.errors import VmmError

_VERSION = re.compile(r"\d+(?:\.\d+)+(?:~[\w.]+)?|\d{4}_\d\d_\d\d\.\w+")
"""Dotted numbers, Debian's `0.0~git…`, or passt's own `2024_05_23.abcdef`."""
_RUN_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tool:
    command: str
    package: str
    needed_for: str
    if_missing: CheckStatus
    version_option: str | None = "--version"
    variable: str | None = None
    """Names the program instead of PATH, if set."""


_TOOLS = (
    _Tool(
        command="qemu-img",
        package="qemu-utils",
        needed_for="the disk overlay of each sandbox",
        if_missing="failed",
    ),
    _Tool(
        command="setpriv",
        package="util-linux",
        needed_for="machinen install",
        if_missing="warning",
    ),
    _Tool(
        command="tar",
        package="tar",
        needed_for="images",
        if_missing="failed",
    ),
    _Tool(
        command="passt",
        package="passt",
        needed_for="guests reaching the outside",
        if_missing="warning",
        variable="MACHINEN_PASST",
    ),
    _Tool(
        command="mksquashfs",
        package="squashfs-tools",
        needed_for="mounting host directories as disks",
        if_missing="warning",
        version_option="-version",
        variable="MACHINEN_MKSQUASHFS",
    ),
    _Tool(
        command="mmdebstrap",
        package="mmdebstrap",
        needed_for="machinen install",
        if_missing="warning",
    ),
    _Tool(
        command="zstd",
        package="zstd",
        needed_for="machinen install, zstd images",
        if_missing="warning",
    ),
)
_FAKEROOT = _Tool(
    command="fakeroot",
    package="fakeroot",
    needed_for="images without being root",
    if_missing="warning",
)


def check_tools() -> list[Check]:
    """Processor, accelerator, QEMU, then every other program."""
    tools = _TOOLS if os.geteuid() == 0 else (*_TOOLS, _FAKEROOT)
    return [
        *_check_machine(),
        _check_qemu(),
        *(_check_tool(tool) for tool in tools),
        _check_mke2fs(),
    ]


def _check_machine() -> list[Check]:
    """The accelerator and why it was chosen."""
    name, needed_for = "accelerator", "running the guest's processor"
    try:
        host_arch()
        accel = choose_accel()
    except UnsupportedArchError as error:
        fix = "use a machine with one of these processors"
        return [Check(name=name, status="failed", found=str(error), needed_for=needed_for, fix=fix)]
    except VmmError as error:
        fix = "unset MACHINEN_ACCEL"
        return [Check(name=name, status="failed", found=str(error), needed_for=needed_for, fix=fix)]
    if accel.kind == "kvm":
        return [Check(name=name, status="ok", found=f"KVM: {accel.reason}", needed_for=needed_for)]
    return [
        Check(
            name=name,
            status="warning",
            found=f"TCG: {accel.reason}",
            needed_for=needed_for,
            fix="sandboxes run, but emulated and slowly; with hardware virtualisation (in a VM: "
            "nested) and access to /dev/kvm they are fast",
        )
    ]


def _check_qemu() -> Check:
    name, needed_for = "qemu", "every sandbox"
    try:
        binary = resolve_qemu_binary()
    except UnsupportedArchError as error:
        return Check(
            name=name,
            status="failed",
            found=str(error),
            needed_for=needed_for,
            fix="use a machine with one of these processors",
        )
    except BootError as error:
        return Check(
            name=name,
            status="failed",
            found=str(error),
            needed_for=needed_for,
            fix="run `make setup` in a checkout, or install QEMU 8.2 or newer yourself",
        )
    return _found(name, binary, "--version", needed_for)


def _check_tool(tool: _Tool) -> Check:
    explicit = os.environ.get(tool.variable, "") if tool.variable else ""
    path = shutil.which(explicit or tool.command) or (
        None if explicit else shutil.which(tool.command, path="/usr/sbin:/sbin")
    )
    if path is None:
        what = f"{tool.variable}={explicit} is no program" if explicit else "missing"
        return Check(
            name=tool.command,
            status=tool.if_missing,
            found=what,
            needed_for=tool.needed_for,
            fix=f"unset {tool.variable}" if explicit else f"install the package {tool.package}",
        )
    return _found(tool.command, path, tool.version_option, tool.needed_for)


def _check_mke2fs() -> Check:
    needed_for = "machinen install, images"
    path = resolve_mke2fs()
    if path is None:
        return Check(
            name="mke2fs",
            status="warning",
            found="missing",
            needed_for=needed_for,
            fix="install the package e2fsprogs (and unset MACHINEN_MKE2FS)",
        )
    return _found("mke2fs", str(path), "-V", needed_for)


def _found(name: str, path: str, version_option: str | None, needed_for: str) -> Check:
    version = version_of([path, version_option]) if version_option else None
    found = f"{version} ({path})" if version else path
    return Check(
        name=name,
        status="ok",
        found=found,
        needed_for=needed_for,
        path=str(Path(path).absolute()),
        version=version,
    )


def version_of(argv: Sequence[str]) -> str | None:
    """What looks like a version in the output of a command; None if it has none or does not run."""
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_RUN_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # Further lines hold licences and authors, with numbers of their own.
    first_line = (done.stdout.strip() or done.stderr.strip()).partition("\n")[0]
    found = _VERSION.search(first_line)
    return found.group(0) if found else None
