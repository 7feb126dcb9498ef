"""Tarballs become ext4 images, once; looked into with debugfs(8)."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from machinen_runtime.errors import ErrorCode, ProvisionError
from machinen_runtime.rootfs_image import (
    ensure_rootfs_image,
    is_clean,
    mark_rootfs_image_clean,
    resolve_mke2fs,
    rootfs_img_cache_dir,
)

SIZE_BYTES = 16 << 20


@pytest.fixture(autouse=True)
def cache_dir(machinen_home: Path) -> Path:
    return rootfs_img_cache_dir()


@pytest.fixture
def tarball(tmp_path: Path) -> Path:
    return write_tarball(tmp_path / "root.tar", b"hello")


def write_tarball(path: Path, greeting: bytes) -> Path:
    """A root with a file of somebody's, a set-uid program, a link and a device."""
    with tarfile.open(path, "w") as tar:
        greeting_file = tarfile.TarInfo("./etc/greeting")
        greeting_file.size, greeting_file.uid, greeting_file.gid = len(greeting), 1000, 100
        greeting_file.mode = 0o640
        tar.addfile(greeting_file, io.BytesIO(greeting))
        program = tarfile.TarInfo("./bin/su")
        program.mode = 0o4755
        tar.addfile(program)
        link = tarfile.TarInfo("./etc/link")
        link.type, link.linkname = tarfile.SYMTYPE, "greeting"
        tar.addfile(link)
        if os.geteuid() == 0:
            null = tarfile.TarInfo("./dev/null")
            null.type, null.devmajor, null.devminor = tarfile.CHRTYPE, 1, 3
            tar.addfile(null)
    return path


def debugfs(image: Path, request: str) -> str:
    return subprocess.run(
        ["/usr/sbin/debugfs", "-R", request, str(image)], check=True, capture_output=True, text=True
    ).stdout


def test_the_image_has_the_tree_with_owners_and_modes(tarball: Path) -> None:
    image = ensure_rootfs_image(tarball, size_bytes=SIZE_BYTES)
    assert debugfs(image, "cat /etc/greeting") == "hello"
    greeting = debugfs(image, "stat /etc/greeting")
    assert "Mode:  0640" in greeting
    assert "User:  1000   Group:   100" in greeting
    assert "Mode:  04755" in debugfs(image, "stat /bin/su")
    assert "greeting" in debugfs(image, "stat /etc/link")
    assert (
        subprocess.run(["/usr/sbin/e2fsck", "-fn", str(image)], capture_output=True).returncode == 0
    )


def test_the_image_is_sparse_and_as_large_as_asked(tarball: Path) -> None:
    exact = ensure_rootfs_image(tarball, size_bytes=SIZE_BYTES)
    assert exact.stat().st_size == SIZE_BYTES
    least = ensure_rootfs_image(tarball)
    assert least.stat().st_size == 2 << 30
    assert least.stat().st_blocks * 512 < 100 << 20
    assert exact != least, "an overlay's backing file must not change its size"


def test_the_same_tarball_is_built_once(tarball: Path, tmp_path: Path) -> None:
    phases: list[str] = []

    def on_phase(name: str, ms: float) -> None:
        assert ms >= 0
        phases.append(name)

    first = ensure_rootfs_image(tarball, size_bytes=SIZE_BYTES, on_phase=on_phase)
    assert phases == ["sha256", "tar-extract", "mke2fs"]
    phases.clear()
    copy = tmp_path / "copy.tar"
    copy.write_bytes(tarball.read_bytes())
    assert ensure_rootfs_image(copy, size_bytes=SIZE_BYTES, on_phase=on_phase) == first
    assert phases == ["sha256"]


def test_another_content_gets_another_image(tarball: Path) -> None:
    first = ensure_rootfs_image(tarball, size_bytes=SIZE_BYTES)
    second = ensure_rootfs_image(write_tarball(tarball, b"bye"), size_bytes=SIZE_BYTES)
    assert second != first
    assert debugfs(second, "cat /etc/greeting") == "bye"


def remove_marker(image: Path) -> None:
    image.with_name(image.name + ".ok").unlink()


def cut_short(image: Path) -> None:
    os.truncate(image, 4096)


@pytest.mark.parametrize("spoil", [remove_marker, cut_short])
def test_an_image_without_a_fitting_marker_is_built_again(
    tarball: Path, spoil: Callable[[Path], None]
) -> None:
    image = ensure_rootfs_image(tarball, size_bytes=SIZE_BYTES)
    spoil(image)
    assert not is_clean(image)
    assert ensure_rootfs_image(tarball, size_bytes=SIZE_BYTES) == image
    assert is_clean(image)
    assert debugfs(image, "cat /etc/greeting") == "hello"


def test_force_builds_again(tarball: Path) -> None:
    image = ensure_rootfs_image(tarball, size_bytes=SIZE_BYTES)
    inode = image.stat().st_ino
    assert ensure_rootfs_image(tarball, size_bytes=SIZE_BYTES, force=True) == image
    assert image.stat().st_ino != inode


@pytest.mark.parametrize(("suffix", "command"), [("gz", "gzip"), ("xz", "xz"), ("zst", "zstd")])
def test_compressed_tarballs_are_understood(tarball: Path, suffix: str, command: str) -> None:
    packed = tarball.with_name(f"root.tar.{suffix}")
    with packed.open("wb") as target:
        subprocess.run([command, "-c", str(tarball)], check=True, stdout=target)
    image = ensure_rootfs_image(packed, size_bytes=SIZE_BYTES)
    assert debugfs(image, "cat /etc/greeting") == "hello"


def test_callers_at_once_share_one_build(tarball: Path) -> None:
    built: list[Path] = []
    phases: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: built.append(
                ensure_rootfs_image(
                    tarball, size_bytes=SIZE_BYTES, on_phase=lambda name, ms: phases.append(name)
                )
            )
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(built)) == 1
    assert phases.count("mke2fs") == 1


def test_nothing_temporary_stays_behind(tarball: Path, cache_dir: Path) -> None:
    ensure_rootfs_image(tarball, size_bytes=SIZE_BYTES)
    assert not list(cache_dir.glob(".*"))


def test_a_missing_tarball_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProvisionError, match="nowhere") as caught:
        ensure_rootfs_image(tmp_path / "nowhere.tar")
    assert caught.value.code is ErrorCode.PROVISION_BASE_NOT_FOUND


def test_a_file_that_is_no_tarball_fails_and_leaves_nothing(
    tmp_path: Path, cache_dir: Path
) -> None:
    bad = tmp_path / "bad.tar"
    bad.write_bytes(b"no archive at all" * 1000)
    with pytest.raises(ProvisionError, match="tar") as caught:
        ensure_rootfs_image(bad)
    assert caught.value.code is ErrorCode.PROVISION_INSTALL_HOOK_FAILED
    assert not list(cache_dir.glob("*.img"))
    assert not list(cache_dir.glob(".*"))


def test_a_tree_that_does_not_fit_fails(tarball: Path) -> None:
    write_tarball(tarball, b"x" * (8 << 20))
    with pytest.raises(ProvisionError) as caught:
        ensure_rootfs_image(tarball, size_bytes=4 << 20)
    assert caught.value.code is ErrorCode.PROVISION_INSTALL_HOOK_FAILED


@pytest.mark.provokes(ErrorCode.ROOTFS_IMG_TOOL_MISSING)
def test_without_mke2fs_the_package_is_named(
    tarball: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MACHINEN_MKE2FS", "/nonexistent/mke2fs")
    assert resolve_mke2fs() is None
    with pytest.raises(ProvisionError, match="e2fsprogs") as caught:
        ensure_rootfs_image(tarball)
    assert caught.value.code is ErrorCode.ROOTFS_IMG_TOOL_MISSING


def test_marking_what_is_not_there_does_nothing(tmp_path: Path) -> None:
    mark_rootfs_image_clean(tmp_path / "no.img")
    assert not list(tmp_path.glob("*.ok"))


def test_a_hostile_tarball_writes_nothing_outside(tmp_path: Path, cache_dir: Path) -> None:
    """Names with `..`, absolute ones, and files through links that the archive itself made."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "victim").write_text("mine")
    for index, (name, link) in enumerate(
        [
            ("../../../../escape", None),
            (f"{outside}/absolute", None),
            ("door/through", str(outside)),
            ("up/through", "../../../../../../.." + str(outside)),
        ]
    ):
        tarball = tmp_path / f"hostile-{index}.tar"
        with tarfile.open(tarball, "w") as tar:
            if link is not None:
                door = tarfile.TarInfo(name.partition("/")[0])
                door.type, door.linkname = tarfile.SYMTYPE, link
                tar.addfile(door)
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
            hard = tarfile.TarInfo("hard")
            hard.type, hard.linkname = tarfile.LNKTYPE, f"{outside}/victim"
            tar.addfile(hard)
        with pytest.raises(ProvisionError) as caught:
            ensure_rootfs_image(tarball, size_bytes=SIZE_BYTES)
        assert caught.value.code is ErrorCode.PROVISION_INSTALL_HOOK_FAILED
    assert os.listdir(outside) == ["victim"]
    assert (outside / "victim").read_text() == "mine"
    assert not list(tmp_path.rglob("escape"))
    assert not list(cache_dir.glob("*.img"))
    assert not list(cache_dir.glob(".*"))


def test_a_tree_of_tiny_files_gets_inodes_enough(tmp_path: Path) -> None:
    tarball = tmp_path / "many.tar"
    with tarfile.open(tarball, "w") as tar:
        for number in range(3000):
            tar.addfile(tarfile.TarInfo(f"./many/{number}"))
    image = ensure_rootfs_image(tarball, size_bytes=24 << 20)
    inodes = next(line for line in debugfs(image, "stats").splitlines() if "Inode count" in line)
    assert int(inodes.split()[-1]) >= 6000


def test_capabilities_are_kept(tmp_path: Path) -> None:
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    tarball = tmp_path / "caps.tar"
    with tarfile.open(tarball, "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("./ping")
        text = capability.decode("latin-1")
        member.pax_headers = {"SCHILY.xattr.security.capability": text}
        tar.addfile(member)
    image = ensure_rootfs_image(tarball, size_bytes=SIZE_BYTES)
    assert "security.capability" in debugfs(image, "ea_list /ping")
