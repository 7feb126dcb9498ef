"""Compile the guest binaries into `guest/bin/<arch>/`; also a command of its own.

`make -C guest BUILD=<dir>` leaves `init` and `agent` in `<dir>`. Needs nothing but the standard
library, because it runs inside package builds.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from pathlib import Path

BINARIES = ("init", "agent")
_ARCH_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}


def compile_guest(guest_dir: Path) -> Path:
    """Build the guest binaries and return the directory they are in.

    Raises:
        RuntimeError: make or the compiler failed (the message has their output), or there is no
            guest for this processor.
    """
    machine = platform.machine()
    if machine not in _ARCH_NAMES:
        raise RuntimeError(f"no guest for this processor ({machine}): only x86_64 and aarch64")
    arch = _ARCH_NAMES[machine]
    build_dir = guest_dir / "build" / arch
    build_dir.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(
            ["make", "-C", str(guest_dir), f"BUILD={build_dir}"],
            capture_output=True,
            text=True,
        )
    except FileNotFoundError as error:
        raise RuntimeError("make is missing: install make, gcc and libc6-dev") from error
    if done.returncode != 0:
        raise RuntimeError(f"the guest binaries do not compile:\n{done.stdout}\n{done.stderr}")
    bin_dir = guest_dir / "bin" / arch
    bin_dir.mkdir(parents=True, exist_ok=True)
    for name in BINARIES:
        _install(build_dir / name, bin_dir / name)
    return bin_dir


def _install(built: Path, target: Path) -> None:
    """Copy by rename: a VM may be reading the old one for its initramfs."""
    new = target.with_name(f".{target.name}.new")
    shutil.copyfile(built, new)
    new.chmod(0o755)
    new.replace(target)


if __name__ == "__main__":
    try:
        compile_guest(Path(__file__).resolve().parent)
    except RuntimeError as error:
        sys.exit(f"machinen: {error}")
