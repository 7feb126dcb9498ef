"""The initramfs: what is in it, and when it is made again."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from machinen_runtime import initramfs
from machinen_runtime.errors import ErrorCode, MkinitramfsError
from tests.runtime.test_cpio import parse_newc


@pytest.fixture
def base_dir(machinen_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base with two modules, and guest binaries beside it."""
    modules = tmp_path / "base" / "modules"
    modules.mkdir(parents=True)
    (modules / "virtio_blk.ko").write_bytes(b"blk")
    (modules / "virtio_net.ko").write_bytes(b"net")
    (modules / "load").write_text("virtio_blk.ko\nvirtio_net.ko\n")
    for name in ("init", "agent"):
        (tmp_path / name).write_bytes(name.encode())
    monkeypatch.setattr(initramfs, "resolve_guest_binary", lambda name: tmp_path / name)  # pyright: ignore
    return tmp_path / "base"


def test_it_holds_init_agent_console_and_modules_in_loading_order(base_dir: Path) -> None:
    entries = parse_newc(initramfs.ensure_initramfs(base_dir).read_bytes())
    assert entries["init"][:2] == (0o100755, b"init")
    assert entries["agent"][:2] == (0o100755, b"agent")
    assert entries["dev/console"][2] == (5, 1)
    assert entries["modules/load"][1] == b"/modules/virtio_blk.ko\n/modules/virtio_net.ko\n"
    assert entries["modules/virtio_net.ko"][1] == b"net"


def test_the_same_content_is_packed_once(base_dir: Path) -> None:
    first = initramfs.ensure_initramfs(base_dir)
    inode = first.stat().st_ino
    assert initramfs.ensure_initramfs(base_dir) == first
    assert first.stat().st_ino == inode


@pytest.mark.parametrize("changed", ["../agent", "../init", "modules/virtio_blk.ko"])
def test_changed_content_gets_another_file(base_dir: Path, changed: str) -> None:
    first = initramfs.ensure_initramfs(base_dir)
    (base_dir / changed).write_bytes(b"new")
    second = initramfs.ensure_initramfs(base_dir)
    assert second != first
    assert first.exists(), "another boot may be about to read it"


def test_what_no_boot_used_for_long_goes_when_a_new_one_is_made(base_dir: Path) -> None:
    old = initramfs.ensure_initramfs(base_dir)
    long_ago = time.time() - 30 * 86400
    os.utime(old, (long_ago, long_ago))
    (base_dir / "../agent").write_bytes(b"new")
    new = initramfs.ensure_initramfs(base_dir)
    assert list(old.parent.iterdir()) == [new]


@pytest.mark.parametrize("missing", ["load", "virtio_net.ko"])
def test_a_base_that_lacks_modules_names_the_fix(base_dir: Path, missing: str) -> None:
    (base_dir / "modules" / missing).unlink()
    with pytest.raises(MkinitramfsError, match="machinen install") as caught:
        initramfs.ensure_initramfs(base_dir)
    assert caught.value.code is ErrorCode.MKINITRAMFS_BASE_EXTRACT_FAILED
