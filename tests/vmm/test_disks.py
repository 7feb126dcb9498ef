"""Layers: overlays copied, frozen files linked, sparse files kept sparse."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm import disks
from vmm.disks import copy_sparse, create_overlay, data_extents, link_layer, remove_files

BLOCK = 65536


def sparse(path: Path, blocks: list[int], size_blocks: int) -> bytes:
    """Make a file with data in the given blocks only; returns its contents."""
    contents = bytearray(size_blocks * BLOCK)
    with path.open("wb") as file:
        for block in blocks:
            data = bytes([block % 250 + 1]) * BLOCK
            contents[block * BLOCK : (block + 1) * BLOCK] = data
            os.pwrite(file.fileno(), data, block * BLOCK)
        os.ftruncate(file.fileno(), len(contents))
    return bytes(contents)


def test_an_overlay_is_a_copy_for_its_owner_alone(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"qcow2" * 1000)
    create_overlay(str(tmp_path / "empty"), str(tmp_path / "new"))
    assert (tmp_path / "new").read_bytes() == b"qcow2" * 1000
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600


def test_an_overlay_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "old").write_bytes(b"precious")
    with pytest.raises(FileExistsError):
        create_overlay(str(tmp_path / "empty"), str(tmp_path / "old"))
    assert (tmp_path / "old").read_bytes() == b"precious"


def test_a_layer_is_the_same_file_and_outlives_its_first_name(tmp_path: Path) -> None:
    (tmp_path / "layer").write_bytes(b"frozen")
    link_layer(str(tmp_path / "layer"), str(tmp_path / "other"))
    assert (tmp_path / "layer").samefile(tmp_path / "other")
    (tmp_path / "layer").unlink()
    assert (tmp_path / "other").read_bytes() == b"frozen"


@pytest.mark.parametrize("problem", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_a_layer_that_cannot_be_linked_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: int
) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError(problem, os.strerror(problem))

    monkeypatch.setattr(os, "link", refuse)
    contents = sparse(tmp_path / "layer", [0, 5], 8)
    link_layer(str(tmp_path / "layer"), str(tmp_path / "other"))
    assert (tmp_path / "other").read_bytes() == contents
    assert not (tmp_path / "layer").samefile(tmp_path / "other")


def test_a_layer_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        link_layer(str(tmp_path / "absent"), str(tmp_path / "other"))


@pytest.mark.parametrize("blocks", [[], [0], [7], [0, 3, 4, 7]])
def test_a_sparse_copy_has_the_bytes_and_the_holes(tmp_path: Path, blocks: list[int]) -> None:
    contents = sparse(tmp_path / "from", blocks, 8)
    copy_sparse(str(tmp_path / "from"), str(tmp_path / "to"))
    assert (tmp_path / "to").read_bytes() == contents
    assert (tmp_path / "to").stat().st_blocks == (tmp_path / "from").stat().st_blocks


def test_a_copy_works_where_the_kernel_cannot_copy_ranges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "other file system")

    monkeypatch.setattr(os, "copy_file_range", refuse)
    contents = sparse(tmp_path / "from", [1, 40], 48)
    copy_sparse(str(tmp_path / "from"), str(tmp_path / "to"))
    assert (tmp_path / "to").read_bytes() == contents


def test_a_clone_the_kernel_refuses_for_good_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(fcntl, "ioctl", full)
    sparse(tmp_path / "from", [0], 1)
    with pytest.raises(OSError, match="No space"):
        copy_sparse(str(tmp_path / "from"), str(tmp_path / "to"))


@given(blocks=st.sets(st.integers(0, 15)))
def test_extents_are_exactly_the_written_blocks(
    tmp_path_factory: pytest.TempPathFactory, blocks: set[int]
) -> None:
    path = tmp_path_factory.mktemp("sparse") / "file"
    sparse(path, sorted(blocks), 16)
    with path.open("rb") as file:
        extents = data_extents(file.fileno(), 16 * BLOCK)
    covered = {block for start, end in extents for block in range(start // BLOCK, end // BLOCK)}
    assert covered == blocks
    assert all(start < end for start, end in extents)


def test_removing_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    remove_files(str(tmp_path / "there"), str(tmp_path / "absent"))
    assert not (tmp_path / "there").exists()


def test_the_clone_call_is_the_kernels() -> None:
    # _IOW(0x94, 9, int), linux/fs.h
    assert disks.FICLONE == (1 << 30) | (4 << 16) | (0x94 << 8) | 9
