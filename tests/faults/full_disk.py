"""Small file systems that fill up: a tmpfs, mounted for the length of a block."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def small_tmpfs(path: Path, size_bytes: int, *, files: int = 0) -> Generator[Path]:
    """A tmpfs of `size_bytes` at `path`; `files`: no more inodes than that."""
    path.mkdir(parents=True, exist_ok=True)
    options = f"size={size_bytes}" + (f",nr_inodes={files}" if files else "")
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(path: Path, leave_bytes: int = 0) -> Path:
    """A file that takes what is free there, but for `leave_bytes`."""
    ballast = path / "ballast"
    free = os.statvfs(path)
    wanted = free.f_bavail * free.f_frsize - leave_bytes
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, wanted))
    return ballast
