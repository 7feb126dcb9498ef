"""The guest's half on the host: kernel, modules, base root and disk, our own binaries."""

from __future__ import annotations

import fcntl
from collections.abc import Callable
from pathlib import Path

from machinen_runtime.assets import (
    arch_name,
    default_base_dir,
    resolve_base_disk,
    resolve_base_kernel,
    resolve_base_rootfs,
    resolve_guest_binary,
    resolve_modules_dir,
)
from machinen_runtime.doctor_check import Check
from machinen_runtime.errors import MachinenError
from machinen_runtime.initramfs import read_modules
from machinen_runtime.install import is_complete, read_meta
from vmm.arch import UnsupportedArchError


def check_assets() -> list[Check]:
    """Everything a boot reads that is not a program."""
    checks = [
        _check("kernel", resolve_base_kernel, "every sandbox"),
        _check("kernel modules", _whole_modules, "every sandbox"),
        _check("base disk", resolve_base_disk, "sandboxes without an image of their own"),
        _check("base root", resolve_base_rootfs, "making images"),
        _check("guest init", lambda: resolve_guest_binary("init"), "every sandbox"),
        _check("guest agent", lambda: resolve_guest_binary("agent"), "every sandbox"),
    ]
    return [*checks, *_check_install()]


def _check(name: str, resolve: Callable[[], Path], needed_for: str) -> Check:
    try:
        path = resolve()
    except (MachinenError, UnsupportedArchError) as error:
        fix = "run `make setup` in a checkout" if "guest" in name else "run `machinen install`"
        return Check(name=name, status="failed", found=str(error), needed_for=needed_for, fix=fix)
    version = read_meta(default_base_dir()).get("kernel_version") if name == "kernel" else None
    return Check(
        name=name,
        status="ok",
        found=f"{version} ({path})" if version else str(path),
        needed_for=needed_for,
        path=str(path),
        version=version,
    )


def _whole_modules() -> Path:
    directory = resolve_modules_dir()
    read_modules(directory)
    return directory


def _check_install() -> list[Check]:
    """Whether an install is at work, or was interrupted, or changed behind our back."""
    try:
        arch_name()
    except MachinenError:
        return []  # the accelerator's check has said so
    base_dir = default_base_dir()
    if not base_dir.is_dir():
        return []
    needed_for = "a base that is whole"
    if holder := _lock_holder(base_dir / ".lock"):
        return [
            Check(
                name="install",
                status="warning",
                found=f"at work right now (pid {holder})",
                needed_for=needed_for,
                fix="wait for it to finish",
            )
        ]
    if not is_complete(base_dir):
        return [
            Check(
                name="install",
                status="warning",
                found="incomplete, outdated, or changed since",
                needed_for=needed_for,
                fix="run `machinen install`; it does only what is missing",
            )
        ]
    made_at = read_meta(base_dir).get("made_at", "")
    return [Check(name="install", status="ok", found=f"complete, {made_at}", needed_for=needed_for)]


def _lock_holder(lock_path: Path) -> str | None:
    """Who holds the install lock, as text; None if nobody does."""
    try:
        with lock_path.open("r") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return lock.read().strip() or "unknown"
    except OSError:
        return None
    return None
