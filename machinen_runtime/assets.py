"""Where the kernel, the base root and our guest binaries are found.

Two layouts hold the same things. `MACHINEN_ASSETS_DIR` names a directory of release files
(`Image-arm64`, `virt-arm64.dtb`, `rootfs-debian-arm64.tar.gz`; for amd64 `vmlinux-amd64`, …);
without it we look into `~/.machinen/bases/<release>-<arch>/`, which `machinen install` fills.
"""

from __future__ import annotations

import os
from pathlib import Path

from guest import guest_binary
from machinen_runtime.errors import ErrorCode, MkinitramfsError, ProvisionError
from machinen_runtime.paths import bases_root
from vmm.arch import AMD64, UnsupportedArchError, host_arch

DEFAULT_RELEASE = "trixie"
"""Debian 13."""

ROOTFS_TARBALL = "rootfs.tar.gz"
ROOTFS_DISK = "rootfs.ext4"
DTB = "virt.dtb"
MODULES_DIR = "modules"
MODULES_LIST = "load"
MOUNT_MODULES_DIR = "modules-mount"
META = "meta.json"

_INSTALL_HINT = "run `machinen install`"


def arch_name() -> str:
    """This machine's architecture in dpkg's words. Raises PROVISION_BASE_NOT_FOUND."""
    try:
        return host_arch().name
    except UnsupportedArchError as error:
        raise ProvisionError(ErrorCode.PROVISION_BASE_NOT_FOUND, str(error)) from error


def default_base_dir(release: str = DEFAULT_RELEASE) -> Path:
    """The directory `machinen install` fills, whether it exists or not."""
    return bases_root() / f"{release}-{arch_name()}"


def resolve_base_rootfs(explicit: str | Path | None = None, cwd: str | Path | None = None) -> Path:
    """The base root as a tarball: `explicit` (against `cwd`), then MACHINEN_ASSETS_DIR, then ours.

    Raises:
        ProvisionError: PROVISION_BASE_NOT_FOUND, PROVISION_ASSETS_DIR_INVALID.
    """
    return _resolve(
        "the base root",
        ErrorCode.PROVISION_BASE_NOT_FOUND,
        f"rootfs-debian-{arch_name()}.tar.gz",
        ROOTFS_TARBALL,
        explicit,
        cwd,
    )


def resolve_base_kernel(explicit: str | Path | None = None, cwd: str | Path | None = None) -> Path:
    """The kernel QEMU boots, in the order of `resolve_base_rootfs`.

    Raises:
        ProvisionError: PROVISION_KERNEL_NOT_FOUND, PROVISION_ASSETS_DIR_INVALID.
    """
    arch_name()
    arch = host_arch()
    return _resolve(
        "the guest kernel",
        ErrorCode.PROVISION_KERNEL_NOT_FOUND,
        arch.assets_kernel_file,
        arch.kernel_file,
        explicit,
        cwd,
    )


def resolve_base_dtb(explicit: str | Path | None = None, cwd: str | Path | None = None) -> Path:
    """A device tree for arm64, in the order of `resolve_base_rootfs`; QEMU makes its own if none.

    Raises:
        ProvisionError: PROVISION_DTB_NOT_FOUND (always on amd64), PROVISION_ASSETS_DIR_INVALID.
    """
    if explicit is None and arch_name() == AMD64.name:
        raise ProvisionError(
            ErrorCode.PROVISION_DTB_NOT_FOUND,
            "an amd64 guest has no device tree: leave dtb unset",
        )
    return _resolve(
        "the device tree",
        ErrorCode.PROVISION_DTB_NOT_FOUND,
        f"virt-{arch_name()}.dtb",
        DTB,
        explicit,
        cwd,
    )


def resolve_base_disk() -> Path:
    """The base root as an ext4 disk image, to be read through overlays only.

    The path is the image's own, not the link to the current one: an overlay that records it stays
    right when a later install makes another.

    Raises:
        ProvisionError: PROVISION_BASE_NOT_FOUND, PROVISION_ASSETS_DIR_INVALID.
    """
    return _resolve(
        "the base disk",
        ErrorCode.PROVISION_BASE_NOT_FOUND,
        f"rootfs-debian-{arch_name()}.ext4",
        ROOTFS_DISK,
        None,
        None,
    ).resolve()


def resolve_modules_dir() -> Path:
    """The directory with the initramfs' kernel modules and their loading order.

    Raises:
        ProvisionError: PROVISION_KERNEL_NOT_FOUND, PROVISION_ASSETS_DIR_INVALID.
    """
    modules_list = _resolve(
        "the guest kernel's modules",
        ErrorCode.PROVISION_KERNEL_NOT_FOUND,
        f"modules-{arch_name()}/{MODULES_LIST}",
        f"{MODULES_DIR}/{MODULES_LIST}",
        None,
        None,
    )
    return modules_list.parent


def resolve_mount_modules_dir() -> Path:
    """The same for the modules that only a VM with a `mount` loads. Raises likewise."""
    modules_list = _resolve(
        "the guest kernel's modules for mounts",
        ErrorCode.PROVISION_KERNEL_NOT_FOUND,
        f"{MOUNT_MODULES_DIR}-{arch_name()}/{MODULES_LIST}",
        f"{MOUNT_MODULES_DIR}/{MODULES_LIST}",
        None,
        None,
    )
    return modules_list.parent


def resolve_guest_binary(name: str) -> Path:
    """The compiled guest binary `name` for this machine. Raises MKINITRAMFS_INIT_MISSING."""
    try:
        return guest_binary(name, arch_name())
    except FileNotFoundError as error:
        raise MkinitramfsError(ErrorCode.MKINITRAMFS_INIT_MISSING, str(error)) from error


def _resolve(
    what: str,
    missing: ErrorCode,
    assets_name: str,
    base_name: str,
    explicit: str | Path | None,
    cwd: str | Path | None,
) -> Path:
    if explicit is not None:
        path = Path(cwd or Path.cwd(), explicit).absolute()
        if not path.is_file():
            raise ProvisionError(missing, f"{what} is not at {path}: check the path")
        return path
    assets_dir = os.environ.get("MACHINEN_ASSETS_DIR", "")
    if assets_dir:
        return _resolve_in_assets_dir(what, Path(assets_dir).absolute(), (assets_name, base_name))
    path = default_base_dir() / base_name
    if not path.is_file():
        raise ProvisionError(missing, f"{what} is not installed ({path}): {_INSTALL_HINT}")
    return path


def _resolve_in_assets_dir(what: str, assets_dir: Path, names: tuple[str, str]) -> Path:
    for name in names:
        if (assets_dir / name).is_file():
            return assets_dir / name
    raise ProvisionError(
        ErrorCode.PROVISION_ASSETS_DIR_INVALID,
        f"MACHINEN_ASSETS_DIR={assets_dir} lacks {what} ({names[0]}): put it there, or unset the "
        f"variable and {_INSTALL_HINT}",
    )
