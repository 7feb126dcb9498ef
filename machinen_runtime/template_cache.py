"""What the templates cost on disk, and which of them go: the longest unused first."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

from machinen_runtime.bundle import read_bundle
from machinen_runtime.bundle_check import verify_sums
from machinen_runtime.content_sum import content_sum
from machinen_runtime.errors import MachinenError
from machinen_runtime.templates import (
    last_used,
    remove_template,
    template_keys,
    template_path,
)

MAX_MIB_VARIABLE = "MACHINEN_TEMPLATES_MAX_MIB"
DEFAULT_MAX_BYTES = 4 << 30
DEFAULT_MAX_UNUSED_DAYS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedTemplate:
    """One template. Times in ms since 1970."""

    key: str
    path: str
    size_bytes: int
    """What it takes on the disk, less than its files are long."""
    used_at: float
    """When a VM started from it last."""
    made_at: float | None = None
    image: str | None = None
    """The image it was booted from; None: the installed base."""
    memory_mib: int | None = None
    cpus: int | None = None
    network: str | None = None
    problem: str | None = None
    """Why no VM can start from it; the next boot makes it again."""


def list_templates(*, check: bool = False) -> list[CachedTemplate]:
    """All templates, the one used last first.

    Args:
        check: read every byte and compare it with the checksums.
    """
    found = [_describe(key, check=check) for key in template_keys()]
    return sorted(found, key=lambda each: -each.used_at)


def prune_templates(
    *,
    max_bytes: int | None = None,
    max_unused_days: float | None = None,
    everything: bool = False,
    dry_run: bool = False,
    spare: str | None = None,
) -> list[CachedTemplate]:
    """Remove templates that nobody used for so long, then the longest unused until the rest fits.

    None: the limits that also hold by themselves. One that a VM starts from right now stays, and so
    does `spare`. Returns what went, or with `dry_run` would go.
    """
    limit = default_max_bytes() if max_bytes is None else max_bytes
    days = DEFAULT_MAX_UNUSED_DAYS if max_unused_days is None else max_unused_days
    oldest_kept = (time.time() - days * 86400) * 1000
    removed: list[CachedTemplate] = []
    kept_bytes = 0
    for each in list_templates():
        goes = everything or each.problem is not None or each.used_at < oldest_kept
        if not goes and kept_bytes + each.size_bytes > limit:
            goes = True
        if goes and each.key != spare and (dry_run or remove_template(each.key)):
            removed.append(each)
        else:
            kept_bytes += each.size_bytes
    return removed


def evict(spare: str) -> None:
    """Keep the cache within its limits, after `spare` was made."""
    prune_templates(spare=spare)


def default_max_bytes() -> int:
    """4 GiB, or what MACHINEN_TEMPLATES_MAX_MIB says."""
    text = os.environ.get(MAX_MIB_VARIABLE, "")
    return int(text) << 20 if text.isascii() and text.isdigit() else DEFAULT_MAX_BYTES


def _describe(key: str, *, check: bool) -> CachedTemplate:
    path = template_path(key)
    found = CachedTemplate(
        key=key, path=str(path), size_bytes=_disk_bytes(path), used_at=last_used(key) * 1000
    )
    try:
        meta = read_bundle(path)
        if check:
            verify_sums(path, meta, content_sum)
    except MachinenError as error:
        return replace(found, problem=str(error))
    return replace(
        found,
        made_at=meta.snapped_at,
        image=meta.source_image,
        memory_mib=meta.machine.memory_mib,
        cpus=meta.machine.cpus,
        network=meta.machine.network,
    )


def _disk_bytes(directory: Path) -> int:
    """Bytes allocated; what goes meanwhile counts nothing."""
    total = 0
    for root, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_blocks * 512
            except FileNotFoundError:
                continue
    return total
