"""Find the very base disk a bundle was taken on: by content, wherever it lies on this host.

An overlay only makes sense on the bytes it was made on, so a path or a release name is not enough.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from pathlib import Path

from machinen_runtime.content_sum import known_sum
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.paths import bases_root, cache_root


def find_base_disk(recorded: Path, size_bytes: int, content: str) -> Path | None:
    """The disk with these contents: where it was, in any installed base, or in the image cache.

    `content` is its `content_sum`. Only files of the right size are read, and each only once.
    """
    for candidate in _candidates(recorded):
        with suppress(OSError):
            real = candidate.resolve(strict=True)
            if real.stat().st_size == size_bytes and known_sum(real) == content:
                return real
    return None


def missing_base_disk(
    bundle: Path, recorded: Path, size_bytes: int, content: str, source_image: str | None
) -> BootError:
    """BOOT_IMAGE_NOT_FOUND: which file is missing, and how to get it."""
    origin = f"made from the image {source_image}" if source_image else "from `machinen install`"
    return BootError(
        ErrorCode.BOOT_IMAGE_NOT_FOUND,
        f"the snapshot in {bundle} needs the base disk {recorded.name} ({origin}; {size_bytes} "
        f"bytes, {content or 'no checksum'}), and no installed base or cached image of this host "
        f"has these bytes; copy {recorded} from the host of the snapshot to "
        f"{cache_root() / 'rootfs'}/",
    )


def _candidates(recorded: Path) -> Generator[Path]:
    yield recorded
    yield from sorted(bases_root().glob("*/*.ext4"))
    for pattern in ("*.img", "*.ext4"):
        yield from sorted((cache_root() / "rootfs").glob(pattern))
