"""Which disk the options mean, what is refused, and that a size reaches the overlay."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.overlay_template import (
    MAX_DISK_BYTES,
    ensure_overlay_template,
    overlay_size_bytes,
)
from machinen_runtime.root_disk import RootDisk, prepare_root_disk, resolve_image
from tests.runtime.test_rootfs_image import write_tarball

MIB = 1 << 20


@pytest.fixture
def ext4(tmp_path: Path, machinen_home: Path) -> Path:
    path = tmp_path / "disk.img"
    subprocess.run(["/usr/sbin/mke2fs", "-q", "-t", "ext4", str(path), "8M"], check=True)
    return path


@pytest.fixture
def base(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ext4: Path) -> Path:
    """A directory of assets whose disk is the base."""
    monkeypatch.setenv("MACHINEN_ASSETS_DIR", str(tmp_path))
    return ext4.rename(tmp_path / "rootfs.ext4")


def refusal(**options: object) -> tuple[ErrorCode, str]:
    with pytest.raises(BootError) as caught:
        prepare_root_disk(options.pop("image", None), **options)  # type: ignore[arg-type]
    return caught.value.code, str(caught.value)


def test_without_options_it_is_the_base_as_it_is(base: Path) -> None:
    assert prepare_root_disk(None) == RootDisk(base=base)
    assert prepare_root_disk(None, root_disk=True) == RootDisk(base=base)
    assert prepare_root_disk(None, root_disk=False, size_bytes=1) == RootDisk(base=base)


def test_a_prebuilt_image_is_taken_as_it_is(ext4: Path) -> None:
    assert prepare_root_disk(None, root_disk=ext4, size_bytes=1) == RootDisk(base=ext4)
    found = prepare_root_disk(None, root_disk=ext4.name, cwd=ext4.parent)
    assert found.base == ext4


def test_an_image_gets_its_cached_disk_and_phases_are_told(
    tmp_path: Path, machinen_home: Path
) -> None:
    phases: list[str] = []
    tarball = write_tarball(tmp_path / "root.tar", b"hi")
    disk = prepare_root_disk(tarball, on_phase=lambda name, ms: phases.append(name))
    assert disk.base.parent == machinen_home / "cache" / "rootfs"
    assert phases == ["sha256", "tar-extract", "mke2fs"]


def test_a_missing_root_disk_is_named(tmp_path: Path) -> None:
    code, message = refusal(root_disk=tmp_path / "nowhere.img")
    assert code is ErrorCode.BOOT_IMAGE_NOT_FOUND
    assert "nowhere.img" in message


@pytest.mark.parametrize("content", [b"", b"\0" * 4096, b"x" * 4097])
def test_what_is_no_ext4_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "disk.img"
    path.write_bytes(content)
    assert refusal(root_disk=path)[0] is ErrorCode.BOOT_OPTION_INVALID


def test_an_ext4_cut_off_within_a_sector_is_refused(ext4: Path) -> None:
    with ext4.open("ab") as file:
        file.write(b"x")
    assert refusal(root_disk=ext4)[0] is ErrorCode.BOOT_OPTION_INVALID


@pytest.mark.parametrize("size", [8 * MIB - 1, MAX_DISK_BYTES + 1])
def test_a_size_the_image_cannot_have_is_refused(base: Path, size: int) -> None:
    code, message = refusal(size_bytes=size)
    assert code is ErrorCode.BOOT_OPTION_INVALID
    assert str(8 * MIB) in message


def test_a_size_is_rounded_up_to_whole_blocks(base: Path) -> None:
    assert prepare_root_disk(None, size_bytes=9 * MIB + 1).size_bytes == 9 * MIB + 4096


def test_an_overlay_is_as_large_as_asked(ext4: Path) -> None:
    assert overlay_size_bytes(ensure_overlay_template(ext4)) == 8 * MIB
    larger = ensure_overlay_template(ext4, 3 << 40)
    assert overlay_size_bytes(larger) == 3 << 40
    assert larger.stat().st_size < MIB
    assert ensure_overlay_template(ext4, 3 << 40) == larger


@given(st.binary(max_size=64) | st.binary(max_size=40).map(lambda tail: b"QFI\xfb" + tail))
def test_what_is_no_overlay_has_no_size(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("layer") / "disk-1.qcow2"
    path.write_bytes(content)
    try:
        assert 0 < overlay_size_bytes(path) <= MAX_DISK_BYTES
    except BootError as error:
        assert error.code is ErrorCode.BOOT_SNAPSHOT_INVALID  # noqa: PT017


@pytest.mark.parametrize("option", ["backing_file={secret},backing_fmt=raw", "data_file={secret}"])
def test_a_layer_that_leads_to_another_file_is_refused(tmp_path: Path, option: str) -> None:
    secret, layer = tmp_path / "secret", tmp_path / "disk-1.qcow2"
    secret.write_bytes(b"hunter2".ljust(65536))
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", option.format(secret=secret)]
    subprocess.run([*argv, str(layer), "64K"], check=True)
    with pytest.raises(BootError, match="do not use this bundle") as caught:
        overlay_size_bytes(layer)
    assert caught.value.code is ErrorCode.BOOT_SNAPSHOT_INVALID


def test_a_layer_that_was_merged_names_a_file_without_a_name(ext4: Path, tmp_path: Path) -> None:
    layer = tmp_path / "disk-1.qcow2"
    head = bytearray(ensure_overlay_template(ext4).read_bytes())
    head[8:20] = struct.pack(">QI", 512, 0)  # as QEMU's block-stream leaves it
    layer.write_bytes(head)
    assert overlay_size_bytes(layer) == 8 * MIB


def test_an_image_is_looked_for_from_cwd(tmp_path: Path) -> None:
    (tmp_path / "root.tar").touch()
    assert resolve_image("root.tar", tmp_path) == tmp_path / "root.tar"
    assert resolve_image(None) is None
    with pytest.raises(BootError) as caught:
        resolve_image("root.tar", tmp_path / "elsewhere")
    assert caught.value.code is ErrorCode.BOOT_IMAGE_NOT_FOUND
