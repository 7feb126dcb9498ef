"""A root filesystem tarball as an ext4 disk image, made once per content and then only read.

Cached as `<sha256 of the tarball>.img` with a marker `<…>.img.ok` beside it. The marker is written
last and records the image's size and modification time: an image without one is torn, an image that
differs from it was written to; both are built again. VMs get overlays, never the image itself, so
unlike in the declaration's lifecycle the marker stays when the image is handed out.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

from machinen_runtime.cached_image import (
    OnPhase,
    exclusive,
    fingerprint,
    is_clean,
    mark_clean,
    publish,
    staging_dir,
    timed,
)
from machinen_runtime.errors import ErrorCode, ProvisionError
from machinen_runtime.machines import confinement_wanted
from machinen_runtime.oci_image import read_oci_image, write_merged_tarball
from machinen_runtime.paths import cache_root, ensure_private_dir, write_atomically
from vmm.confined_tool import Confines, complaint_of, run_confined

BLOCK_BYTES = 4096
DEFAULT_MIN_SIZE_BYTES = 2 << 30
DEFAULT_SIZE_MULTIPLIER = 2.5
_BYTES_PER_INODE = 16384
_EXTRACT = ("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xp")
"""GNU tar neither leaves the directory by `..`, absolute names or links, nor follows a link that
the archive made; without --xattrs capabilities would be lost."""


def rootfs_img_cache_dir() -> Path:
    """Where images are kept unless the caller says otherwise: `~/.cache/machinen/rootfs`."""
    return cache_root() / "rootfs"


def resolve_mke2fs() -> Path | None:
    """mke2fs: `MACHINEN_MKE2FS`, then PATH, then the sbin directories a user's PATH often lacks."""
    explicit = os.environ.get("MACHINEN_MKE2FS", "")
    if explicit:
        return Path(explicit) if os.access(explicit, os.X_OK) else None
    found = shutil.which("mke2fs") or shutil.which("mke2fs", path="/usr/sbin:/sbin")
    return Path(found) if found else None


def mark_rootfs_image_clean(img_path: str | Path) -> None:
    """Vouch for the image at `img_path` as it is now. Does nothing if there is none."""
    mark_clean(Path(img_path))


def ensure_rootfs_image(
    tar_path: str | Path,
    *,
    cache_dir: Path | None = None,
    force: bool = False,
    size_multiplier: float = DEFAULT_SIZE_MULTIPLIER,
    min_size_bytes: int = DEFAULT_MIN_SIZE_BYTES,
    size_bytes: int | None = None,
    on_phase: OnPhase | None = None,
) -> Path:
    """The cached ext4 image of a tarball (plain, gz, xz, zst, bz2) or container image.

    It is built on first use.

    Callers and processes may come at once: one builds, the others wait for it.

    Args:
        force: build it again even if it is cached.
        size_multiplier: size as a multiple of the unpacked tree.
        min_size_bytes: the least size.
        size_bytes: the exact size instead; a cached image of another size gets a sibling.
        on_phase: told `sha256`, `oci-merge` (of a container image), `tar-extract` and `mke2fs`
            with their milliseconds.

    Raises:
        ProvisionError: PROVISION_BASE_NOT_FOUND (no tarball), ROOTFS_IMG_TOOL_MISSING,
            PROVISION_INSTALL_HOOK_FAILED (tar or mke2fs failed).
        BootError: BOOT_PACK_FAILED, a container image that cannot be used.
    """
    tarball = Path(tar_path).absolute()
    cache = ensure_private_dir(cache_dir or rootfs_img_cache_dir())
    with timed("sha256", on_phase):
        container = read_oci_image(tarball)
        key = f"oci-{container.key}" if container else _tarball_sha256(tarball, cache)
    # Overlays record this path, so one path never comes to mean an image of another size.
    suffix = "" if size_bytes is None else f"-{size_bytes}"
    image = cache / f"{key}{suffix}.img"
    if not force and is_clean(image):
        return image
    with exclusive(image), staging_dir(cache) as staging:
        if not force and is_clean(image):
            return image  # somebody else was faster
        new = staging / "new.img"
        if container is not None:
            with timed("oci-merge", on_phase):
                write_merged_tarball(tarball, staging / "merged.tar")
            tarball = staging / "merged.tar"
        build_rootfs_image(
            tarball,
            new,
            size_multiplier=size_multiplier,
            min_size_bytes=min_size_bytes,
            size_bytes=size_bytes,
            on_phase=on_phase,
        )
        publish(new, image)
    return image


def remember_tarball(tarball: Path) -> None:
    """Hash a tarball now, so that its first boot need not. A cache that fails is no error."""
    with suppress(OSError):
        _tarball_sha256(tarball, ensure_private_dir(rootfs_img_cache_dir()))


def build_rootfs_image(
    tarball: Path,
    image: Path,
    *,
    size_multiplier: float = DEFAULT_SIZE_MULTIPLIER,
    min_size_bytes: int = DEFAULT_MIN_SIZE_BYTES,
    size_bytes: int | None = None,
    on_phase: OnPhase | None = None,
) -> None:
    """Write a new sparse ext4 image with the tarball's tree to `image`. Raises as ensure_… does."""
    mke2fs = resolve_mke2fs()
    if mke2fs is None:
        raise ProvisionError(
            ErrorCode.ROOTFS_IMG_TOOL_MISSING,
            "mke2fs is missing: install the package e2fsprogs, or set MACHINEN_MKE2FS",
        )
    with staging_dir(image.parent) as staging, _ownership(staging) as as_root:
        tree = staging / "tree"
        tree.mkdir(mode=0o755)
        with timed("tar-extract", on_phase):
            argv = [*as_root, *_EXTRACT, "-f", str(tarball), "-C", str(tree)]
            _run(argv, _confines(as_root, staging, reads=[tarball], writes=[tree]))
        tree_bytes, files = _measure(tree)
        if size_bytes is None:
            size_bytes = max(min_size_bytes, int(tree_bytes * size_multiplier))
        with timed("mke2fs", on_phase):
            image.touch()  # so that mke2fs need not be let make files there
            argv = [*as_root, *_mke2fs_argv(mke2fs, tree, image, size_bytes, files)]
            _run(argv, _confines(as_root, staging, reads=[mke2fs, tree], writes=[image]))
            with image.open("rb") as file:
                os.fsync(file.fileno())  # whatever vouches for the image must not outlive its data


def _mke2fs_argv(mke2fs: Path, tree: Path, image: Path, size_bytes: int, files: int) -> list[str]:
    blocks = -(-size_bytes // BLOCK_BYTES)
    # By default an inode per 16 KiB: a tree of tiny files needs more, and so will the guest.
    inodes = max(size_bytes // _BYTES_PER_INODE, files * 2 + 1024)
    # With lazy initialisation every guest would zero inode tables later, into its own overlay.
    options = f"lazy_itable_init=0,lazy_journal_init=0,hash_seed={uuid.uuid4()}"
    return [
        *(str(mke2fs), "-q", "-F", "-t", "ext4", "-b", str(BLOCK_BYTES), "-m", "0"),
        *(
            "-N",
            str(inodes),
            "-L",
            "machinen",
            "-E",
            options,
            "-d",
            str(tree),
            str(image),
            str(blocks),
        ),
    ]


@contextmanager
def _ownership(staging: Path) -> Generator[list[str]]:
    """A command prefix under which files keep their owners: none as root, else fakeroot."""
    if os.geteuid() == 0:
        yield []
        return
    if shutil.which("fakeroot") is None:
        raise ProvisionError(
            ErrorCode.ROOTFS_IMG_TOOL_MISSING,
            "only root can unpack a root filesystem here: install the package fakeroot",
        )
    state = staging / "fakeroot.state"
    state.touch()
    yield ["fakeroot", "-i", str(state), "-s", str(state), "--"]


def _confines(
    as_root: list[str], staging: Path, *, reads: list[Path], writes: list[Path]
) -> Confines:
    """With what fakeroot keeps in `staging`, if it is used."""
    wanted = confinement_wanted()
    if not as_root:
        return Confines(wanted=wanted, reads=reads, writes=writes)
    return Confines(wanted=wanted, reads=reads, writes=[*writes, staging], fakeroot=True)


def _run(argv: list[str], confines: Confines) -> None:
    try:
        run_confined(argv, confines)
    except FileNotFoundError as error:
        raise ProvisionError(
            ErrorCode.ROOTFS_IMG_TOOL_MISSING, f"{argv[0]} is missing: install it"
        ) from error
    except subprocess.CalledProcessError as error:
        raise ProvisionError(
            ErrorCode.PROVISION_INSTALL_HOOK_FAILED,
            f"{' '.join(argv)} failed: {complaint_of(error)[-2000:]}",
        ) from error


def _measure(tree: Path) -> tuple[int, int]:
    """Bytes the tree takes on disk and inodes it needs, hard links counted once."""
    total, directories, seen = 0, 0, set[int]()
    for directory, _, files in os.walk(tree):
        total += BLOCK_BYTES
        directories += 1
        for name in files:
            info = os.lstat(os.path.join(directory, name))
            if info.st_ino not in seen:
                seen.add(info.st_ino)
                total += -(-info.st_size // BLOCK_BYTES) * BLOCK_BYTES
    return total, directories + len(seen)


def _tarball_sha256(tarball: Path, cache: Path) -> str:
    """The hash of the tarball, remembered for as long as its size and time stay the same."""
    try:
        now = fingerprint(tarball)
    except OSError as error:
        raise ProvisionError(
            ErrorCode.PROVISION_BASE_NOT_FOUND, f"there is no image at {tarball}: check the path"
        ) from error
    path_key = hashlib.sha256(os.fsencode(tarball)).hexdigest()[:32]
    note = cache / f"{path_key}.sha256"
    try:
        known = json.loads(note.read_text())
        if known["fingerprint"] == now:
            return str(known["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    with tarball.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    write_atomically(note, json.dumps({"fingerprint": now, "sha256": digest}))
    return digest
