"""What no registry entry speaks of: what a launch, a fork, a snapshot or a cache left half-made.

Everybody removes what they have begun; only SIGKILL at the wrong moment leaves it. What lies in a
directory that others use, too, carries its maker's pid in a name that begins with a dot.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from machinen_runtime.file_age import seconds_unchanged
from machinen_runtime.paths import (
    cache_root,
    remove_tree,
    runtime_root,
    snapshots_root,
    state_root,
)
from machinen_runtime.pids import validate_pid

BUNDLE_PREFIX = "bundle-"
MIN_AGE_S = 60.0
"""A VM is in the registry a moment after its directories are made; younger ones are left alone."""


def ephemeral_bundle_name(token: str) -> str:
    """The name of a fork's temporary bundle; it says whose it is."""
    return f"{BUNDLE_PREFIX}{os.getpid()}-{token}"


_UNFINISHED = re.compile(r"\..+\.(\d+)[-.][0-9a-f]{8}", re.ASCII)
"""What `unfinished_path` and `paths.write_atomically` make."""


def unfinished_path(path: Path) -> Path:
    """Where to make what shall lie at `path`: beside it, under a name that says whose it is.

    What processes that are gone have left there is removed.
    """
    for left in path.parent.glob(f".{_escaped(path.name)}.*"):
        if _is_left(left):
            remove_tree(left)
    return path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")


def _escaped(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _is_left(path: Path) -> bool:
    """Whether `path` was begun by a process that is gone."""
    maker = _UNFINISHED.fullmatch(path.name)
    return maker is not None and validate_pid(int(maker[1])) != "alive"


def _unfinished() -> list[Path]:
    """Snapshots and parts of caches that were begun and never ended."""
    places = [snapshots_root(), cache_root(), *cache_root().glob("*/")]
    found = [path for place in places for path in sorted(place.glob(".*")) if _is_left(path)]
    return found


def orphaned_paths(known: Iterable[str], now: float | None = None) -> list[Path]:
    """What belongs to nobody below our roots; `known` are the directories of registry entries."""
    kept = set(known)
    now = time.time() if now is None else now
    found: list[Path] = []
    for root in (state_root(), runtime_root()):
        with suppress(FileNotFoundError):
            found += [path for path in sorted(root.iterdir()) if str(path) not in kept]
    found += sorted((cache_root() / "templates").glob(f"{BUNDLE_PREFIX}*"))  # never finished
    return [path for path in found if _is_orphan(path, now)] + _unfinished()


def _is_orphan(path: Path, now: float) -> bool:
    if not path.is_dir() or path.is_symlink():
        return False
    owner = _bundle_owner(path.name)
    if owner is not None:
        return validate_pid(owner) != "alive"
    with suppress(FileNotFoundError):
        return seconds_unchanged(path, now) > MIN_AGE_S
    return False


def _bundle_owner(name: str) -> int | None:
    """The process that made a temporary bundle (or the one it is staged in)."""
    stem = name.removeprefix(".")
    if not stem.startswith(BUNDLE_PREFIX):
        return None
    number = stem.removeprefix(BUNDLE_PREFIX).partition("-")[0]
    return int(number) if number.isascii() and number.isdigit() else None
