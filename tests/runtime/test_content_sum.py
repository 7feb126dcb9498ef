"""Checksums by content: holes do not matter, every byte does, and nothing is read twice."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinen_runtime.content_sum import PIECE_BYTES, boot_origin, content_sum, known_sum


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MACHINEN_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "file"
    path.write_bytes(b"contents")
    os.utime(path, (1000, 1000))
    return path


@given(
    pieces=st.lists(st.tuples(st.integers(0, 5 * PIECE_BYTES), st.binary(min_size=1)), max_size=4),
    size=st.integers(0, 6 * PIECE_BYTES),
)
def test_holes_and_written_zeros_have_the_same_sum(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, bytes]], size: int
) -> None:
    directory = tmp_path_factory.mktemp("sparse")
    with open(directory / "sparse", "wb") as sparse:
        for offset, data in pieces:
            sparse.seek(offset)
            sparse.write(data)
        sparse.truncate(size)
    (directory / "full").write_bytes((directory / "sparse").read_bytes())
    assert content_sum(directory / "sparse") == content_sum(directory / "full")


def test_size_place_and_contents_all_count(tmp_path: Path) -> None:
    variants = [b"", b"\0", bytes(PIECE_BYTES), b"a", b"a\0", b"\0a", bytes(PIECE_BYTES) + b"a"]
    sums: set[str] = set()
    for number, contents in enumerate(variants):
        (tmp_path / str(number)).write_bytes(contents)
        sums.add(content_sum(tmp_path / str(number)))
    assert len(sums) == len(variants)


def test_what_is_no_regular_file_is_refused(tmp_path: Path, file: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(file)
    for name in ("fifo", "link", ".", "absent"):
        with pytest.raises(OSError):  # noqa: PT011
            content_sum(tmp_path / name)


def test_a_sum_is_remembered_until_the_file_changes(file: Path) -> None:
    first = known_sum(file)
    file.write_bytes(b"CONTENTS")
    os.utime(file, (1000, 1000))
    assert known_sum(file) == first  # same inode, size and time: it was not read
    os.utime(file, (1001, 1001))
    assert known_sum(file) == content_sum(file) != first


def test_a_file_that_changed_just_now_is_not_trusted_yet(file: Path) -> None:
    os.utime(file, ns=(time.time_ns(), time.time_ns() + 10**9))
    stamp = file.stat().st_mtime_ns
    known_sum(file)
    file.write_bytes(b"CONTENTS")
    os.utime(file, ns=(stamp, stamp))
    assert known_sum(file) == content_sum(file)


@pytest.mark.parametrize("note", [b"", b"[]", b"{}", b'{"stamp": 5, "sum": "x"}', b"\xff"])
def test_a_damaged_note_is_passed_over(file: Path, tmp_path: Path, note: bytes) -> None:
    expected = known_sum(file)
    (remembered,) = (tmp_path / "cache" / "sums").iterdir()
    remembered.write_bytes(note)
    assert known_sum(file) == expected


def test_a_cold_boot_remembers_what_it_started_from(file: Path, tmp_path: Path) -> None:
    origin = boot_origin(file, tmp_path / "abcd.img")
    assert origin == {"kernel": content_sum(file), "initramfs": "sha256:abcd"}
    assert boot_origin(tmp_path / "absent", file) == {}
