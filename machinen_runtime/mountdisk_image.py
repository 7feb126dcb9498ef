"""The two disks of a `mount`: a host directory as squashfs, and an empty ext4 for what is written.

The squashfs is cached as `<key>.sqfs`, where the key is a hash over the whole tree: paths, modes,
sizes, times, link targets, contents. Owners are not part of it: in the guest everything is root's,
so whoever mounts the same tree gets the same image. It is never written to, so unlike in the
declaration's lifecycle the marker stays when the image is handed out.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from machinen_runtime.cached_image import (
    OnPhase,
    exclusive,
    is_clean,
    mark_clean,
    publish,
    staging_dir,
    timed,
)
from machinen_runtime.errors import BootError, ErrorCode, ProvisionError
from machinen_runtime.machines import confinement_wanted
from machinen_runtime.options import DEFAULT_MOUNT_UPPER_BYTES
from machinen_runtime.paths import cache_root, ensure_private_dir, write_atomically
from machinen_runtime.rootfs_image import resolve_mke2fs
from vmm.confined_tool import Confines, complaint_of, run_confined

BLOCK_BYTES = 4096
MAX_BUILDS = 3
"""A directory that changes while it is copied is copied again; one that never rests is refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsureMountDiskImageResult:
    """The cached squashfs, and the hash of the tree it holds."""

    lower_path: Path
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsureMountDiskUpperResult:
    """An empty, sparse ext4 and its size in bytes."""

    upper_path: Path
    size_bytes: int


def mountdisk_img_cache_dir() -> Path:
    """Where the images are kept unless the caller says otherwise: `~/.cache/machinen/mountdisk`."""
    return cache_root() / "mountdisk"


def resolve_mksquashfs() -> Path | None:
    """mksquashfs: `MACHINEN_MKSQUASHFS`, then PATH, then the sbin directories.

    Raises:
        BootError: BOOT_MOUNTDISK_TOOL_MISSING if the variable names no program.
    """
    explicit = os.environ.get("MACHINEN_MKSQUASHFS", "")
    if explicit:
        if os.access(explicit, os.X_OK):
            return Path(explicit)
        message = f"MACHINEN_MKSQUASHFS={explicit} is no program: correct or unset it"
        raise BootError(ErrorCode.BOOT_MOUNTDISK_TOOL_MISSING, message)
    found = shutil.which("mksquashfs") or shutil.which("mksquashfs", path="/usr/sbin:/sbin")
    return Path(found) if found else None


def mark_mount_disk_image_clean(img_path: str | Path) -> None:
    """Vouch for the image at `img_path` as it is now. Does nothing if there is none."""
    mark_clean(Path(img_path))


def ensure_mount_disk_image(
    host_abs: str | Path,
    *,
    cache_dir: Path | None = None,
    force: bool = False,
    on_phase: OnPhase | None = None,
) -> EnsureMountDiskImageResult:
    """The cached squashfs of a directory, made on first use; callers may come at once.

    Args:
        force: make it again even if it is cached.
        on_phase: told `manifest-hash` and `mksquashfs` with their milliseconds.

    Raises:
        BootError: BOOT_MOUNT_HOST_NOT_FOUND, BOOT_MOUNT_INVALID (no directory, or a file in it
            cannot be read), BOOT_MOUNTDISK_TOOL_MISSING. ProvisionError:
            PROVISION_INSTALL_HOOK_FAILED (mksquashfs failed, or the directory never rests).
    """
    root = _checked_directory(Path(host_abs))
    mksquashfs = _require(resolve_mksquashfs(), "mksquashfs", "squashfs-tools")
    cache = ensure_private_dir(cache_dir or mountdisk_img_cache_dir())
    for _ in range(MAX_BUILDS):
        with timed("manifest-hash", on_phase):
            key = manifest_key(root, cache)
        image = cache / f"{key}.sqfs"
        result = EnsureMountDiskImageResult(lower_path=image, key=key)
        if is_clean(image) and not force:
            return result
        with exclusive(image), staging_dir(cache) as staging:
            if is_clean(image) and not force:
                return result  # somebody else was faster
            with timed("mksquashfs", on_phase):
                new = staging / "new.sqfs"
                argv = [str(mksquashfs), str(root), str(new), *_SQUASHFS_OPTIONS]
                _run(argv, [root], new)
                _sync_file(new)
            if manifest_key(root, cache) == key:
                publish(new, image)
                return result
    message = f"{root} changes all the time: mount it when it rests, or use a live mount"
    raise ProvisionError(ErrorCode.PROVISION_INSTALL_HOOK_FAILED, message)


_SQUASHFS_OPTIONS = (
    *("-noappend", "-no-progress", "-quiet", "-comp", "zstd"),
    *("-all-root", "-no-xattrs", "-mkfs-time", "0"),
)
"""The image depends on the tree alone; files keep their times, by which build tools decide."""


def ensure_mount_disk_upper(
    *, size_bytes: int = DEFAULT_MOUNT_UPPER_BYTES
) -> EnsureMountDiskUpperResult:
    """A fresh, sparse ext4 image of `size_bytes` in a temporary file that is the caller's.

    VMs of ours do not use it: they share one empty image and write to overlays.

    Raises:
        BootError: BOOT_MOUNT_INVALID for a size that is no multiple of 4096,
            BOOT_MOUNTDISK_TOOL_MISSING. ProvisionError: PROVISION_INSTALL_HOOK_FAILED.
    """
    _check_size(size_bytes)
    descriptor, name = tempfile.mkstemp(prefix="machinen-mount-upper-", suffix=".img")
    os.close(descriptor)
    try:
        _make_ext4(Path(name), size_bytes)
    except BaseException:
        Path(name).unlink()
        raise
    return EnsureMountDiskUpperResult(upper_path=Path(name), size_bytes=size_bytes)


def ensure_upper_base(size_bytes: int, cache_dir: Path | None = None) -> Path:
    """The empty ext4 that all uppers of this size lie on, from the cache. Raises as above."""
    _check_size(size_bytes)
    cache = ensure_private_dir(cache_dir or mountdisk_img_cache_dir())
    image = cache / f"upper-{size_bytes}.img"
    if is_clean(image):
        return image
    with exclusive(image), staging_dir(cache) as staging:
        if not is_clean(image):
            new = staging / "new.img"
            _make_ext4(new, size_bytes)
            _sync_file(new)
            publish(new, image)
    return image


# -- the tree's hash ------------------------------------------------------------------------------


def manifest_key(root: Path, cache: Path) -> str:
    """The hash over a tree: sha256 of a line per entry, sorted by path, the root among them.

    A line: path, mode in octal, size, mtime in ns, then the link's target or the sha256 of the
    contents; NUL between, LF behind. What was hashed before is remembered by what lstat(2) says of
    every entry, change times included, so an unchanged tree is not read again.
    """
    entries = sorted(_entries(os.fsencode(root)))
    seen = hashlib.sha256()
    for relative, info in entries:
        facts = (info.st_mode, info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino)
        seen.update(relative + b"\0%d %d %d %d %d\n" % facts)
    note = cache / f"{seen.hexdigest()}.key"
    try:
        known = json.loads(note.read_text())
        if isinstance(known, str) and len(known) == seen.digest_size * 2:
            return known
    except (OSError, ValueError):
        pass  # not seen yet, or torn: read the tree
    key = hashlib.sha256()
    for relative, info in entries:
        key.update(_line(os.fsencode(root), relative, info))
    write_atomically(note, json.dumps(key.hexdigest()))
    return key.hexdigest()


def _entries(root: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    """Every entry with its path below the root; the root itself is the empty path."""
    yield b"", os.stat(root)

    def fail(error: OSError) -> None:
        raise _unreadable(error) from error

    for directory, names, files in os.walk(root, onerror=fail):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            try:
                yield os.path.relpath(path, root), os.lstat(path)
            except FileNotFoundError:
                continue  # gone meanwhile: the next look at the tree will differ


def _line(root: bytes, relative: bytes, info: os.stat_result) -> bytes:
    path = os.path.join(root, relative)
    content = b""
    try:
        if stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        elif stat.S_ISREG(info.st_mode):
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest().encode()
    except FileNotFoundError:
        content = b"gone"
    except OSError as error:
        raise _unreadable(error) from error
    facts = b"%o\0%d\0%d" % (info.st_mode, info.st_size, info.st_mtime_ns)
    return relative + b"\0" + facts + b"\0" + content + b"\n"


def _unreadable(error: OSError) -> BootError:
    where = os.fsdecode(error.filename or "")
    message = f"cannot copy {where} for the mount: {error.strerror}; make it readable, or remove it"
    return BootError(ErrorCode.BOOT_MOUNT_INVALID, message)


# -- programs -------------------------------------------------------------------------------------


def _checked_directory(path: Path) -> Path:
    if not path.is_absolute():
        message = f"the directory to mount must be an absolute path, not {path}"
        raise BootError(ErrorCode.BOOT_MOUNT_INVALID, message)
    if not path.exists():
        message = f"no such directory to mount: {path}"
        raise BootError(ErrorCode.BOOT_MOUNT_HOST_NOT_FOUND, message)
    if not path.is_dir():
        message = f"{path} is no directory: a mount takes one"
        raise BootError(ErrorCode.BOOT_MOUNT_INVALID, message)
    return path.resolve()


def _check_size(size_bytes: int) -> None:
    if size_bytes <= 0 or size_bytes % BLOCK_BYTES:
        message = f"the upper's size must be a positive multiple of {BLOCK_BYTES}, not {size_bytes}"
        raise BootError(ErrorCode.BOOT_MOUNT_INVALID, message)


def _require(tool: Path | None, name: str, package: str) -> Path:
    if tool is None:
        message = f"{name} is missing: install the package {package}"
        raise BootError(ErrorCode.BOOT_MOUNTDISK_TOOL_MISSING, message)
    return tool


def _make_ext4(image: Path, size_bytes: int) -> None:
    mke2fs = _require(resolve_mke2fs(), "mke2fs", "e2fsprogs")
    # With lazy initialisation every guest would zero inode tables later, into its own overlay.
    options = "lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0"
    argv = [str(mke2fs), "-q", "-F", "-t", "ext4", "-b", str(BLOCK_BYTES), "-m", "0"]
    blocks = str(size_bytes // BLOCK_BYTES)
    _run([*argv, "-L", "machinen-upper", "-E", options, str(image), blocks], [], image)


def _run(argv: list[str], reads: list[Path], output: Path) -> None:
    output.touch()  # so that the tool need not be let make files there
    try:
        run_confined(argv, Confines(wanted=confinement_wanted(), reads=reads, writes=[output]))
    except subprocess.CalledProcessError as error:
        message = f"{Path(argv[0]).name} failed: {complaint_of(error)[-1000:]}"
        raise ProvisionError(ErrorCode.PROVISION_INSTALL_HOOK_FAILED, message) from error


def _sync_file(path: Path) -> None:
    """Whatever vouches for the image must not outlive its data."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
