"""The machine a VM gets on this host.

Processor, board, accelerator, and the programs that make it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import cast

from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.host_refusals import pass_exhaustion
from machinen_runtime.paths import cache_root, ensure_private_dir, write_atomically
from vmm.accel import choose_accel, read_cpuinfo_flags
from vmm.arch import MIN_QEMU_VERSION, UnsupportedArchError, host_arch
from vmm.errors import VmmError
from vmm.spec import MachineSpec, Network

_VERSION = re.compile(r"version (\d+)\.(\d+)")


def machine_for(*, memory_mib: int, cpus: int = 1, network: Network = "full") -> MachineSpec:
    """The machine a cold boot gets on this host.

    Raises:
        BootError: BOOT_VMM_MISSING on a processor we have no guest for, BOOT_OPTION_INVALID
            for a bad MACHINEN_ACCEL.
    """
    try:
        arch, accel = host_arch(), choose_accel()
    except UnsupportedArchError as error:
        raise BootError(ErrorCode.BOOT_VMM_MISSING, str(error)) from error
    except VmmError as error:
        raise BootError(ErrorCode.BOOT_OPTION_INVALID, str(error)) from error
    tcg = accel.kind == "tcg"
    return MachineSpec(
        arch=arch.name,
        accel=accel.kind,
        machine_type=arch.machine_type,
        cpu_model=arch.tcg_cpu if tcg else arch.kvm_cpu(read_cpuinfo_flags()),
        memory_mib=memory_mib,
        cpus=cpus,
        network=network,
        modern_virtio=False,
    )


def resolve_qemu_binary() -> str:
    """QEMU for this host's architecture, new enough; MACHINEN_QEMU overrides.

    Raises:
        BootError: BOOT_VMM_MISSING, with what to do.
    """
    arch = host_arch()
    found = os.environ.get("MACHINEN_QEMU") or shutil.which(arch.qemu_binary)
    if not found or not os.access(found, os.X_OK):
        message = f"{arch.qemu_binary} is missing: install the package {arch.qemu_package}"
        raise BootError(ErrorCode.BOOT_VMM_MISSING, f"{message}, or run `make setup`")
    version = _qemu_version(found)
    if version < MIN_QEMU_VERSION:
        have, need = (".".join(map(str, each)) for each in (version, MIN_QEMU_VERSION))
        message = f"{found} is version {have}; Machinen needs {need} or newer"
        raise BootError(ErrorCode.BOOT_VMM_MISSING, f"{message} (on Debian 12: from backports)")
    return os.path.abspath(found)


def resolve_passt() -> str | None:
    """passt, or None: QEMU's own user network serves then."""
    return os.environ.get("MACHINEN_PASST") or shutil.which("passt")


def confinement_wanted() -> bool:
    """Whether monitors and QEMU give up the rights they do not need; MACHINEN_CONFINE overrides.

    Raises:
        BootError: BOOT_OPTION_INVALID for a bad MACHINEN_CONFINE.
    """
    return _switched_on("MACHINEN_CONFINE")


def give_back_wanted() -> bool:
    """Whether copies return memory that their guests free; MACHINEN_GIVE_BACK overrides.

    Raises:
        BootError: BOOT_OPTION_INVALID for a bad MACHINEN_GIVE_BACK.
    """
    return _switched_on("MACHINEN_GIVE_BACK")


def _switched_on(variable: str) -> bool:
    word = os.environ.get(variable) or "on"
    if word not in ("on", "off"):
        message = f"{variable} is {word!r}: set it to on or off, or unset it"
        raise BootError(ErrorCode.BOOT_OPTION_INVALID, message)
    return word == "on"


def _qemu_version(binary: str) -> tuple[int, int]:
    """Ask the binary once; the answer is cached until the file changes."""
    stat = os.stat(binary)
    key = f"{os.path.realpath(binary)} {stat.st_size} {stat.st_mtime_ns}"
    cache = cache_root() / "qemu-version.json"
    cached = _read_cache(cache).get(key)
    if cached:
        return cached
    try:
        reply = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, check=True, timeout=20
        )
    except (OSError, subprocess.SubprocessError) as error:
        pass_exhaustion(error)
        message = f"{binary} does not run: {error}"
        raise BootError(ErrorCode.BOOT_VMM_MISSING, message) from error
    found = _VERSION.search(reply.stdout)
    version = (int(found[1]), int(found[2])) if found else (0, 0)
    ensure_private_dir(cache.parent)
    write_atomically(cache, json.dumps({key: version}))
    return version


def _read_cache(path: Path) -> dict[str, tuple[int, int]]:
    try:
        raw = json.loads(path.read_bytes())
        return {str(key): (int(major), int(minor)) for key, (major, minor) in raw.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return cast("dict[str, tuple[int, int]]", {})
