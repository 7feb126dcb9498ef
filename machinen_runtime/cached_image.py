"""Disk images in the cache: whole or absent, made by one while the others wait.

Beside each image lies a marker that records its size and modification time. It is written last: an
image without one is torn, an image that differs from it was written to; both are made again.
"""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from machinen_runtime.gc_orphans import unfinished_path
from machinen_runtime.paths import remove_tree, write_atomically

OnPhase = Callable[[str, float], None]
"""Told the name of an inner step and its milliseconds."""


def is_clean(image: Path) -> bool:
    """Whether `image` is whole and as it was when it was marked."""
    try:
        return json.loads(marker_of(image).read_text()) == fingerprint(image)
    except (OSError, ValueError):
        return False


def mark_clean(image: Path) -> None:
    """Vouch for the image as it is now. Does nothing if there is none."""
    if image.is_file():
        write_atomically(marker_of(image), json.dumps(fingerprint(image)))


def fingerprint(path: Path) -> list[int]:
    """What changes when a file is written to."""
    info = path.stat()
    return [info.st_size, info.st_mtime_ns]


def marker_of(image: Path) -> Path:
    """The marker's path."""
    return image.with_name(image.name + ".ok")


def publish(new: Path, image: Path) -> None:
    """Put a finished image in its place, marked."""
    marker_of(image).unlink(missing_ok=True)
    new.replace(image)
    mark_clean(image)


@contextmanager
def exclusive(image: Path) -> Generator[None]:
    """Hold the lock of this one image; freed by the kernel if we die."""
    with image.with_name(image.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def staging_dir(parent: Path) -> Generator[Path]:
    """A directory to work in, gone afterwards."""
    staging = unfinished_path(parent / "staging")
    staging.mkdir(mode=0o700)
    try:
        yield staging
    finally:
        remove_tree(staging)


@contextmanager
def timed(name: str, on_phase: OnPhase | None) -> Generator[None]:
    """Tell `on_phase` how long the block took."""
    started = time.perf_counter()
    yield
    if on_phase is not None:
        on_phase(name, (time.perf_counter() - started) * 1000)
