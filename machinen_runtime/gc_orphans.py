"""Directories that no registry entry speaks of: what a launch or fork left when killed outright.

A monitor removes its own directories and a fork its own bundle; only SIGKILL at the wrong moment
leaves them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from machinen_runtime.paths import cache_root, runtime_root, state_root
from machinen_runtime.pids import validate_pid

BUNDLE_PREFIX = "bundle-"
MIN_AGE_S = 60.0
"""A VM is in the registry a moment after its directories are made; younger ones are left alone."""


def ephemeral_bundle_name(token: str) -> str:
    """The name of a fork's temporary bundle; it says whose it is."""
    return f"{BUNDLE_PREFIX}{os.getpid()}-{token}"


def orphaned_paths(known: Iterable[str], now: float | None = None) -> list[Path]:
    """Directories below our roots that belong to nobody; `known` are those of registry entries."""
    kept = set(known)
    now = time.time() if now is None else now
    found: list[Path] = []
    for root in (state_root(), runtime_root()):
        with suppress(FileNotFoundError):
            found += [path for path in sorted(root.iterdir()) if str(path) not in kept]
    found += sorted((cache_root() / "templates").glob(f"{BUNDLE_PREFIX}*"))  # never finished
    return [path for path in found if _is_orphan(path, now)]


def _is_orphan(path: Path, now: float) -> bool:
    if not path.is_dir() or path.is_symlink():
        return False
    owner = _bundle_owner(path.name)
    if owner is not None:
        return validate_pid(owner) != "alive"
    with suppress(FileNotFoundError):
        return now - path.stat().st_mtime > MIN_AGE_S
    return False


def _bundle_owner(name: str) -> int | None:
    """The process that made a temporary bundle (or the one it is staged in)."""
    stem = name.removeprefix(".")
    if not stem.startswith(BUNDLE_PREFIX):
        return None
    number = stem.removeprefix(BUNDLE_PREFIX).partition("-")[0]
    return int(number) if number.isascii() and number.isdigit() else None
