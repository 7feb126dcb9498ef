"""The initramfs of every VM: init, agent, a console node and the modules that reach the root.

Content-addressed and shared by all VMs. It stays uncompressed: under TCG, unpacking costs the guest
more than QEMU saves by reading less.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from machinen_runtime.assets import MODULES_DIR, MODULES_LIST, resolve_guest_binary
from machinen_runtime.cpio import (
    CpioEntry,
    build_cpio,
    character_device,
    directory,
    regular_file,
)
from machinen_runtime.errors import ErrorCode, MkinitramfsError
from machinen_runtime.file_age import seconds_unchanged
from machinen_runtime.host_refusals import pass_exhaustion
from machinen_runtime.paths import cache_root, ensure_private_dir, write_atomically

_LAYOUT_VERSION = b"1"
_MAX_UNUSED_DAYS = 7


def ensure_initramfs(
    base_dir: Path, modules_dir: Path | None = None, mount_modules_dir: Path | None = None
) -> Path:
    """The initramfs for the kernel in `base_dir`; built if this very content is not yet cached.

    Its modules lie in `modules_dir`, or in `base_dir/modules`; those in `mount_modules_dir` come
    on top: only a VM with a `mount` pays for them.

    Raises:
        MkinitramfsError: MKINITRAMFS_INIT_MISSING (guest binaries not compiled),
            MKINITRAMFS_BASE_EXTRACT_FAILED (no modules in `base_dir`).
    """
    init = resolve_guest_binary("init").read_bytes()
    agent = resolve_guest_binary("agent").read_bytes()
    modules = read_modules(modules_dir or base_dir / MODULES_DIR)
    if mount_modules_dir is not None:
        modules |= read_modules(mount_modules_dir)
    cache_dir = ensure_private_dir(cache_root() / "initramfs")
    path = cache_dir / f"{_content_key(init, agent, modules)}.img"
    contents = build_cpio(initramfs_entries(init, agent, modules))
    if _holds(path, contents):
        os.utime(path)
        return path
    write_atomically(path, contents)
    _remove_unused(cache_dir)
    return path


def _holds(path: Path, contents: bytes) -> bool:
    """Whether the cached file is whole: to compare 2 MB takes a millisecond or two."""
    with suppress(OSError):
        return path.stat().st_size == len(contents) and path.read_bytes() == contents
    return False


def read_modules(modules_dir: Path) -> dict[str, bytes]:
    """File name → contents of each module, in the order `modules_dir/load` lists them."""
    try:
        names = (modules_dir / MODULES_LIST).read_text(encoding="utf-8").split()
        return {name: (modules_dir / name).read_bytes() for name in names}
    except OSError as error:
        pass_exhaustion(error)
        raise MkinitramfsError(
            ErrorCode.MKINITRAMFS_BASE_EXTRACT_FAILED,
            f"the kernel modules in {modules_dir} are incomplete: run `machinen install`",
        ) from error


def initramfs_entries(init: bytes, agent: bytes, modules: dict[str, bytes]) -> list[CpioEntry]:
    """What the guest kernel unpacks; `/modules/load` holds absolute paths in loading order."""
    load_list = "".join(f"/modules/{name}\n" for name in modules)
    return [
        directory("dev"),
        character_device("dev/console", 5, 1),
        regular_file("init", init, 0o755),
        regular_file("agent", agent, 0o755),
        directory("modules"),
        regular_file("modules/load", load_list.encode()),
        *(regular_file(f"modules/{name}", data) for name, data in modules.items()),
    ]


def _content_key(init: bytes, agent: bytes, modules: dict[str, bytes]) -> str:
    key = hashlib.sha256(_LAYOUT_VERSION)
    for name, data in {"init": init, "agent": agent, **modules}.items():
        key.update(b"%s\0%d\0" % (name.encode(), len(data)))
        key.update(data)
    return key.hexdigest()


def _remove_unused(cache_dir: Path) -> None:
    """Drop what no boot has touched for a week; QEMU reads the file only while it starts."""
    for path in [*cache_dir.glob("*.img"), *cache_dir.glob(".*.img.*")]:
        with suppress(FileNotFoundError):  # another boot tidies up, too
            if seconds_unchanged(path) > _MAX_UNUSED_DAYS * 86400:
                path.unlink()
