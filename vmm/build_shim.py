"""Compile private_ram.c into `vmm/bin/<arch>/private_ram.so`; also a command of its own.

Needs nothing but the standard library, because it runs inside package builds. What it is for:
vmm/ram_shim.py.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

SHIM = "private_ram.so"
COMPILER = (
    *("-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O2"),
    *("-shared", "-fPIC", "-nostdlib", "-fno-stack-protector", "-s", "-Wl,-z,relro,-z,now"),
)
"""No library is linked, so that the binary fits every libc of this architecture."""
_ARCH_NAMES = {"x86_64": "amd64", "aarch64": "arm64"}


def compile_shim(vmm_dir: Path) -> Path:
    """Build the library and return its path. By rename: a QEMU may be loading the old one.

    Raises:
        RuntimeError: the compiler failed (the message has its output), or there is no guest for
            this processor.
    """
    machine = platform.machine()
    if machine not in _ARCH_NAMES:
        raise RuntimeError(f"no guest for this processor ({machine}): only x86_64 and aarch64")
    target = vmm_dir / "bin" / _ARCH_NAMES[machine] / SHIM
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{SHIM}.{os.getpid()}")
    source = str(vmm_dir / "private_ram.c")
    argv = [os.environ.get("CC", "gcc"), *COMPILER, "-o", str(new), source]
    try:
        done = subprocess.run(argv, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise RuntimeError(f"{argv[0]} is missing: install gcc and libc6-dev") from error
    if done.returncode != 0:
        raise RuntimeError(f"private_ram.c does not compile:\n{done.stdout}\n{done.stderr}")
    new.chmod(0o755)
    new.replace(target)
    return target


if __name__ == "__main__":
    try:
        compile_shim(Path(__file__).resolve().parent)
    except RuntimeError as error:
        sys.exit(f"machinen: {error}")
