"""Where kernel and roots are found, and what is said when they are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from machinen_runtime import assets
from machinen_runtime.errors import ErrorCode, MachinenError, MkinitramfsError, ProvisionError
from vmm.arch import AMD64, ARM64, Arch

Resolve = Callable[..., Path]

RESOLVERS = [
    pytest.param(
        assets.resolve_base_rootfs,
        ErrorCode.PROVISION_BASE_NOT_FOUND,
        marks=pytest.mark.provokes(ErrorCode.PROVISION_BASE_NOT_FOUND),
    ),
    pytest.param(
        assets.resolve_base_kernel,
        ErrorCode.PROVISION_KERNEL_NOT_FOUND,
        marks=pytest.mark.provokes(ErrorCode.PROVISION_KERNEL_NOT_FOUND),
    ),
    pytest.param(
        assets.resolve_base_dtb,
        ErrorCode.PROVISION_DTB_NOT_FOUND,
        marks=pytest.mark.provokes(ErrorCode.PROVISION_DTB_NOT_FOUND),
    ),
]


@pytest.fixture(autouse=True)
def home(machinen_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MACHINEN_ASSETS_DIR", raising=False)
    return machinen_home


def run_on(arch: Arch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "host_arch", lambda: arch)


@pytest.mark.parametrize(("resolve", "code"), RESOLVERS)
def test_an_explicit_path_is_taken_against_cwd(
    resolve: Resolve, code: ErrorCode, tmp_path: Path
) -> None:
    (tmp_path / "mine").touch()
    assert resolve("mine", cwd=tmp_path) == tmp_path / "mine"
    assert resolve(tmp_path / "mine") == tmp_path / "mine"
    with pytest.raises(ProvisionError) as caught:
        resolve("other", cwd=tmp_path)
    assert caught.value.code is code


@pytest.mark.parametrize(
    ("arch", "kernel", "rootfs"),
    [
        (ARM64, "Image-arm64", "rootfs-debian-arm64.tar.gz"),
        (AMD64, "vmlinux-amd64", "rootfs-debian-amd64.tar.gz"),
    ],
)
def test_the_assets_dir_comes_before_the_base(
    arch: Arch, kernel: str, rootfs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_on(arch, monkeypatch)
    base = assets.default_base_dir()
    base.mkdir(parents=True)
    for path in (base / arch.kernel_file, base / "rootfs.tar.gz"):
        path.touch()
    assert assets.resolve_base_kernel() == base / arch.kernel_file
    assert assets.resolve_base_rootfs() == base / "rootfs.tar.gz"
    monkeypatch.setenv("MACHINEN_ASSETS_DIR", str(tmp_path))
    for name in (kernel, rootfs):
        (tmp_path / name).touch()
    assert assets.resolve_base_kernel() == tmp_path / kernel
    assert assets.resolve_base_rootfs() == tmp_path / rootfs


@pytest.mark.provokes(ErrorCode.PROVISION_ASSETS_DIR_INVALID)
def test_an_assets_dir_without_the_file_is_invalid_and_nothing_else_is_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MACHINEN_ASSETS_DIR", str(tmp_path))
    for resolve in (assets.resolve_base_kernel, assets.resolve_base_disk):
        with pytest.raises(ProvisionError, match=str(tmp_path)) as caught:
            resolve()
        assert caught.value.code is ErrorCode.PROVISION_ASSETS_DIR_INVALID


def test_what_is_not_installed_names_the_command_that_installs_it() -> None:
    with pytest.raises(ProvisionError, match="machinen install"):
        assets.resolve_base_rootfs()


def test_amd64_has_no_device_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    run_on(AMD64, monkeypatch)
    with pytest.raises(ProvisionError, match="no device tree") as caught:
        assets.resolve_base_dtb()
    assert caught.value.code is ErrorCode.PROVISION_DTB_NOT_FOUND


def test_the_base_disk_is_the_image_behind_the_link() -> None:
    base = assets.default_base_dir()
    base.mkdir(parents=True)
    (base / "rootfs-0123.ext4").touch()
    (base / "rootfs.ext4").symlink_to("rootfs-0123.ext4")
    assert assets.resolve_base_disk() == base / "rootfs-0123.ext4"


def test_a_guest_binary_that_was_never_compiled_says_how_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guest.GUEST_DIR", tmp_path)
    with pytest.raises(MkinitramfsError, match="make setup") as caught:
        assets.resolve_guest_binary("init")
    assert caught.value.code is ErrorCode.MKINITRAMFS_INIT_MISSING
    assert isinstance(caught.value, MachinenError)
