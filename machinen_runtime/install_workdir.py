"""Where mmdebstrap works: outside of our private directories, cleared of what a killed run left."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from machinen_runtime.errors import ErrorCode, ProvisionError


@contextmanager
def enterable_dir(name: str) -> Generator[Path]:
    """A directory that apt's unprivileged user can reach, unlike any below a private home.

    It has a fixed name, so what a killed run left in it goes when the next run starts.
    """
    path = Path(tempfile.gettempdir()) / f"machinen-install-{os.getuid()}-{name}"
    if path.is_symlink() or (path.exists() and path.stat().st_uid != os.getuid()):
        raise ProvisionError(
            ErrorCode.PROVISION_INSTALL_HOOK_FAILED, f"{path} belongs to somebody else: remove it"
        )
    _end_strays(path)
    remove_unmounted(path)
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    try:
        yield path
    finally:
        remove_unmounted(path)


def remove_unmounted(path: Path, mountinfo: str | None = None) -> None:
    """Remove a directory, if it is there; raises rather than reach into what is mounted below it.

    `mountinfo`: the mounts to heed, in the format of proc(5); by default those of this process.
    """
    text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    mounts = [line.split()[4] for line in text.splitlines()]
    if inside := [mount for mount in mounts if Path(mount).is_relative_to(path)]:
        raise ProvisionError(
            ErrorCode.PROVISION_INSTALL_HOOK_FAILED,
            f"something is mounted below {path}: run `umount {' '.join(reversed(inside))}`",
        )
    if path.exists():
        shutil.rmtree(path)


def _end_strays(path: Path) -> None:
    """End what a killed run left working in `path`: it ends by itself, but not at once."""
    strays = [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(path) in word for word in process.info["cmdline"] or ())
    ]
    for stray in strays:
        with suppress(psutil.NoSuchProcess):
            stray.kill()
    psutil.wait_procs(strays, timeout=5)
