"""Pack directories and tarballs as an initramfs: cpio archives of the format newc, uncompressed.

Whatever is packed belongs to root (what comes from a tarball keeps its owner), carries time 0 and
is sorted, so equal input gives equal bytes: those of `cpio -o -H newc --reproducible`. An archive
appears whole or not at all. `python -m machinen_runtime.mkinitramfs_cli --help` is the same on a
command line.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from machinen_runtime.assets import resolve_guest_binary
from machinen_runtime.cpio import character_device, directory, regular_file, write_cpio
from machinen_runtime.errors import ErrorCode, MkinitramfsError
from machinen_runtime.mkinitramfs_base import base_laid
from machinen_runtime.mkinitramfs_options import (
    PackBundleOptions,
    PackMinimalOptions,
    PackRootfsOptions,
    PackTinyBundleOptions,
    PackWorkspaceOptions,
)
from machinen_runtime.mkinitramfs_tree import Tree, clean_path, matching, named
from machinen_runtime.option_types import StrPath, validate_mount_guest

CONFIG = "machinen-config.json"
MIB = 1 << 20
DEFAULT_WORKSPACE_EXCLUDES = (
    ".DS_Store",
    ".git",
    ".hg",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".svn",
    ".venv",
    "__pycache__",
    "node_modules",
)
"""What a workspace can do without, or makes again by itself."""


def mkinitramfs_bundle(**options: Any) -> None:
    """Pack a bundle: base tarball, then `mount`, then the bundle's `rootfs/`; what is later wins.

    On top come `/machinen-config.json`, `/init`, `/agent`, `/dev/console` and, if asked for,
    `/fuse-agent`. Keywords are the fields of `PackBundleOptions`.

    Raises:
        MkinitramfsError: MKINITRAMFS_BUNDLE_INVALID, MKINITRAMFS_BASE_EXTRACT_FAILED,
            MKINITRAMFS_INIT_MISSING.
    """
    chosen = PackBundleOptions(**options)
    bundle = _directory(chosen.bundle, "the bundle")
    excluded = matching(chosen.excludes)
    config = _config_of(bundle, chosen.env)
    tree = Tree()
    with base_laid(tree, chosen.base, excluded), _invalid_bundle(bundle):
        if chosen.mount is not None:
            host = _directory(chosen.mount.host, "the directory to mount")
            tree.lay_directory(host, chosen.mount.guest.lstrip("/"), excluded)
        rootfs = bundle / "rootfs"
        if rootfs.is_dir():
            tree.lay_directory(rootfs, "", excluded)
        tree.put(regular_file(CONFIG, config))
        _put_programs(tree, chosen.init_path, chosen.fuse_agent_path)
        agent = _program(chosen.exec_agent_path, "agent", "the agent")
        tree.put(regular_file("agent", agent, 0o755))
        _write(tree, chosen.out)


def mkinitramfs_tiny_bundle(**options: Any) -> None:
    """Pack what a guest needs to find its root disk: init, agent, config and a few files of /etc.

    `/etc/machinen-boot-epoch` holds the time in seconds since 1970: `SOURCE_DATE_EPOCH`, or now.
    Keywords are the fields of `PackTinyBundleOptions`.

    Raises:
        MkinitramfsError: MKINITRAMFS_BUNDLE_INVALID, MKINITRAMFS_INIT_MISSING.
        BootError: BOOT_MOUNT_INVALID if `mount_guest` is no path under /mnt.
    """
    chosen = PackTinyBundleOptions(**options)
    bundle = _directory(chosen.bundle, "the bundle")
    tree = Tree()
    with _invalid_bundle(bundle):
        tree.put(regular_file(CONFIG, _config_of(bundle, chosen.env)))
        tree.put(regular_file("etc/machinen-boot-epoch", b"%d\n" % _epoch()))
        if chosen.mount_guest is not None:
            guest = validate_mount_guest(chosen.mount_guest)
            tree.put(regular_file("etc/machinen-mountdisk-guest", guest.encode() + b"\n"))
        tree.put(directory("tmp", 0o1777))
        _put_programs(tree, chosen.init_path, chosen.fuse_agent_path)
        tree.put(regular_file("agent", _program(None, "agent", "the agent"), 0o755))
        _write(tree, chosen.out)


def mkinitramfs_rootfs(**options: Any) -> None:
    """Pack a directory as a root, with `/init` and, if given, `/machinen-config.json`.

    Keywords are the fields of `PackRootfsOptions`.

    Raises:
        MkinitramfsError: MKINITRAMFS_BUNDLE_INVALID, MKINITRAMFS_INIT_MISSING.
    """
    chosen = PackRootfsOptions(**options)
    rootfs = _directory(chosen.rootfs, "the root")
    tree = Tree()
    with _invalid_bundle(rootfs):
        tree.lay_directory(rootfs, "", matching(chosen.excludes))
        _put_config_file(tree, chosen.config)
        _put_programs(tree, chosen.init_path, None)
        _write(tree, chosen.out)


def mkinitramfs_minimal(**options: Any) -> None:
    """Pack `/init`, `/dev/console` and, if given, `/machinen-config.json`.

    Keywords are the fields of `PackMinimalOptions`.

    Raises:
        MkinitramfsError: MKINITRAMFS_BUNDLE_INVALID, MKINITRAMFS_INIT_MISSING.
    """
    chosen = PackMinimalOptions(**options)
    tree = Tree()
    with _invalid_bundle(Path(chosen.out)):
        _put_config_file(tree, chosen.config)
        _put_programs(tree, chosen.init_path, None)
        _write(tree, chosen.out)


def mkinitramfs_workspace(**options: Any) -> None:
    """Pack a directory of work under one name, to be laid over another initramfs.

    Keywords are the fields of `PackWorkspaceOptions`.

    Raises:
        MkinitramfsError: MKINITRAMFS_WORKSPACE_INVALID, MKINITRAMFS_WORKSPACE_TOO_LARGE.
    """
    chosen = PackWorkspaceOptions(**options)
    workspace = Path(chosen.workspace)
    if not workspace.is_dir():
        raise _invalid_workspace(f"{workspace} is not a directory: check the path")
    excludes = DEFAULT_WORKSPACE_EXCLUDES if chosen.excludes is None else chosen.excludes
    if not chosen.max_mb > 0:
        raise _invalid_workspace(f"max_mb must be positive, not {chosen.max_mb!r}")
    limit = chosen.max_mb * MIB
    tree = Tree()
    try:
        mountpoint = clean_path(chosen.mountpoint)
        if not mountpoint:
            raise ValueError("mountpoint must name a directory")
        tree.lay_directory(workspace, mountpoint, named(excludes))
        if sum(entry.size for entry in tree.entries()) > limit:
            raise _too_large(workspace, chosen.max_mb)
        _write(tree, chosen.out, limit_bytes=limit)
    except _TooLargeError as error:
        raise _too_large(workspace, chosen.max_mb) from error
    except (OSError, ValueError) as error:
        raise _invalid_workspace(f"cannot pack {workspace}: {error}") from error


class _TooLargeError(Exception):
    """The archive has more bytes than it may."""


def _put_programs(tree: Tree, init_path: StrPath | None, fuse_agent_path: StrPath | None) -> None:
    tree.put(regular_file("init", _program(init_path, "init", "the init"), 0o755))
    tree.put(character_device("dev/console", 5, 1))
    if fuse_agent_path is not None:
        agent = _program(fuse_agent_path, "", "the FUSE agent")
        tree.put(regular_file("fuse-agent", agent, 0o755))


def _program(path: StrPath | None, ours: str, what: str) -> bytes:
    """The bytes of a program: the caller's, or our guest binary `ours`."""
    found = resolve_guest_binary(ours) if path is None else Path(path)
    try:
        return found.read_bytes()
    except OSError as error:
        raise MkinitramfsError(
            ErrorCode.MKINITRAMFS_INIT_MISSING,
            f"cannot read {what} {found}: {error.strerror}; check the path",
        ) from error


def _put_config_file(tree: Tree, config: StrPath | None) -> None:
    if config is not None:
        tree.put(regular_file(CONFIG, Path(config).read_bytes()))


def _config_of(bundle: Path, env: Mapping[str, str]) -> bytes:
    """The bundle's config with `env` below its own; the very bytes of the file if there is none."""
    path = bundle / CONFIG
    try:
        text = path.read_bytes()
        config = json.loads(text)
    except OSError as error:
        raise _invalid(f"{path}: {error.strerror}; a bundle needs it") from error
    except (ValueError, RecursionError) as error:
        raise _invalid(f"{path} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise _invalid(f"{path} must hold an object")
    if not env:
        return text
    fields = cast("dict[str, Any]", config)
    own = fields.get("env", {})
    if not isinstance(own, dict):
        raise _invalid(f"{path}: env must map names to strings")
    return json.dumps({**fields, "env": {**env, **cast("dict[str, Any]", own)}}, indent=2).encode()


def _epoch() -> int:
    explicit = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(explicit) if explicit.isdecimal() else int(time.time())


@contextmanager
def _invalid_bundle(what: Path) -> Generator[None]:
    """What cannot be read or written, or does not fit the format, makes a bundle invalid."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise _invalid(f"cannot pack {what}: {error}") from error


def _write(tree: Tree, out: StrPath, limit_bytes: float | None = None) -> None:
    """Write the archive beside `out` and rename it."""
    target = Path(out).absolute()
    with tempfile.NamedTemporaryFile(dir=target.parent, prefix=".new-", delete=False) as new:
        try:
            size = write_cpio(tree.entries(), new)
            if limit_bytes is not None and size > limit_bytes:
                raise _TooLargeError
            new.flush()
            os.fchmod(new.fileno(), 0o644)
            Path(new.name).replace(target)
        except BaseException:
            Path(new.name).unlink(missing_ok=True)
            raise


def _directory(path: StrPath, what: str) -> Path:
    found = Path(path)
    if not found.is_dir():
        raise _invalid(f"{what} {found} is not a directory: check the path")
    return found


def _invalid(message: str) -> MkinitramfsError:
    return MkinitramfsError(ErrorCode.MKINITRAMFS_BUNDLE_INVALID, message)


def _invalid_workspace(message: str) -> MkinitramfsError:
    return MkinitramfsError(ErrorCode.MKINITRAMFS_WORKSPACE_INVALID, message)


def _too_large(workspace: Path, max_mb: float) -> MkinitramfsError:
    return MkinitramfsError(
        ErrorCode.MKINITRAMFS_WORKSPACE_TOO_LARGE,
        f"{workspace} makes an archive of more than {max_mb:g} MiB; exclude something, or pass a"
        " greater max_mb",
    )
