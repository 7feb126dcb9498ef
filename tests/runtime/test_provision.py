"""What provision() checks before it starts anything, and the tarballs it writes."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from machinen_runtime.errors import BootError, ErrorCode, MachinenError, ProvisionError
from machinen_runtime.handle import VmHandle
from machinen_runtime.image_config import ImageConfig, read_image_config
from machinen_runtime.image_writer import NewImage
from machinen_runtime.provision import provision
from machinen_runtime.provision_base import checked_config, checked_out, resolve_base
from tests.runtime.test_rootfs_image import write_tarball

CONFIG = ImageConfig(cmd=("top",), env={"A": "ä"}, cwd="/srv")


async def never(vm: VmHandle) -> None:
    raise AssertionError("the hook ran")


@pytest.fixture
def assets(tmp_path: Path, machinen_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of release files that is whole, as far as names go."""
    directory = tmp_path / "assets"
    directory.mkdir()
    for name in ("rootfs.tar.gz", "vmlinux"):
        (directory / name).touch()
    monkeypatch.setenv("MACHINEN_ASSETS_DIR", str(directory))
    return directory


async def refusal(**options: Any) -> MachinenError:
    with pytest.raises(MachinenError) as caught:
        await provision(install=never, **options)
    return caught.value


async def test_a_missing_base_is_named(assets: Path, tmp_path: Path) -> None:
    error = await refusal(out=tmp_path / "out.tar", base="nowhere.tar", cwd=tmp_path)
    assert error.code is ErrorCode.PROVISION_BASE_NOT_FOUND
    assert str(tmp_path / "nowhere.tar") in str(error)


async def test_assets_that_lack_the_root_or_the_kernel_are_named(
    assets: Path, tmp_path: Path
) -> None:
    (assets / "vmlinux").unlink()
    error = await refusal(out=tmp_path / "out.tar", base=assets / "rootfs.tar.gz")
    assert error.code is ErrorCode.PROVISION_ASSETS_DIR_INVALID
    (assets / "rootfs.tar.gz").unlink()
    error = await refusal(out=tmp_path / "out.tar")
    assert error.code is ErrorCode.PROVISION_ASSETS_DIR_INVALID


async def test_a_missing_kernel_or_device_tree_is_named(assets: Path, tmp_path: Path) -> None:
    base = write_tarball(tmp_path / "base.tar", b"hi")
    error = await refusal(out=tmp_path / "out.tar", base=base, kernel=tmp_path / "no-kernel")
    assert error.code is ErrorCode.PROVISION_KERNEL_NOT_FOUND
    error = await refusal(out=tmp_path / "out.tar", base=base, dtb=tmp_path / "no.dtb")
    assert error.code is ErrorCode.PROVISION_DTB_NOT_FOUND


async def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for out in (tmp_path, tmp_path / "no" / "such" / "directory.tar"):
        error = await refusal(out=out)
        assert isinstance(error, BootError)
        assert error.code is ErrorCode.BOOT_OPTION_INVALID


@pytest.mark.parametrize(
    "options",
    [{"cmd": []}, {"cmd": "top"}, {"env": {"": "x"}}, {"env": {"A": "\0"}}, {"guest_cwd": "srv"}],
)
async def test_what_cannot_be_baked_in_is_refused(
    assets: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    base = write_tarball(tmp_path / "base.tar", b"hi")
    error = await refusal(out=tmp_path / "out.tar", base=base, **options)
    assert error.code is ErrorCode.BOOT_OPTION_INVALID
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize("options", [{"timeout_ms": 0}, {"scratch_disk_size_bytes": 0}])
async def test_limits_are_positive(tmp_path: Path, options: dict[str, Any]) -> None:
    error = await refusal(out=tmp_path / "out.tar", **options)
    assert error.code is ErrorCode.BOOT_OPTION_INVALID


def test_the_base_without_a_disk_is_made_from_its_tarball(assets: Path) -> None:
    assert resolve_base(None, None) == assets / "rootfs.tar.gz"
    (assets / "rootfs.ext4").touch()
    assert resolve_base(None, None) is None


def test_relative_paths_start_from_cwd(tmp_path: Path) -> None:
    (tmp_path / "base.tar").touch()
    assert resolve_base("base.tar", tmp_path) == tmp_path / "base.tar"
    assert checked_out("out.tar", tmp_path) == tmp_path / "out.tar"


def test_what_is_asked_for_goes_over_what_the_base_has() -> None:
    base = ImageConfig(cmd=("a",), env={"A": "1", "B": "1"}, cwd="/a", user="u")
    assert checked_config(base, cmd=None, env={}, cwd=None) == base
    asked = checked_config(base, cmd=["b"], env={"A": "2"}, cwd="/b")
    assert asked == ImageConfig(cmd=("b",), env={"A": "2", "B": "1"}, cwd="/b", user="u")
    assert checked_config(None, cmd=None, env={}, cwd=None) is None


# -- the writer -----------------------------------------------------------------------------------


def a_tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo("./etc/motd")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"hi\n"))
    return buffer.getvalue()


def write(out: Path, config: ImageConfig | None = CONFIG) -> None:
    image = NewImage(out, config)
    data = a_tar()
    for start in range(0, len(data), 1000):
        image.write(data[start : start + 1000])
    image.commit()
    image.discard()


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.zst", "a"])
def test_an_image_has_the_config_first_and_reads_back(
    tmp_path: Path, machinen_home: Path, name: str
) -> None:
    write(tmp_path / name)
    listed = subprocess.run(
        ["tar", "-tf", tmp_path / name], check=True, capture_output=True, text=True
    ).stdout
    assert listed.split() == ["./machinen-config.json", "./etc/motd"]
    assert read_image_config(tmp_path / name) == CONFIG
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == [name]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.tar.gz", "b.tar.gz"):
        write(tmp_path / name)
    assert (tmp_path / "a.tar.gz").read_bytes() == (tmp_path / "b.tar.gz").read_bytes()


def test_without_a_config_there_is_only_the_archive(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", None)
    assert (tmp_path / "a.tar").read_bytes() == a_tar()


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.zst"])
def test_what_is_given_up_leaves_the_old_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("old")
    image = NewImage(tmp_path / name, CONFIG)
    image.write(a_tar())
    image.discard()
    assert (tmp_path / name).read_text() == "old"
    assert os.listdir(tmp_path) == [name]


def test_zst_without_zstd_names_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ProvisionError, match="package zstd") as caught:
        NewImage(tmp_path / "a.tar.zst", None)
    assert caught.value.code is ErrorCode.ROOTFS_IMG_TOOL_MISSING
    assert not os.listdir(tmp_path)
