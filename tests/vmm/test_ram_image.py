"""Changed pages of a real process: found, copied and written as the next image."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vmm.ram_child import PAGE, ram_child
from vmm import ram_pages
from vmm.ram_image import ImageWriter, image_data_bytes
from vmm.ram_pages import GAP_PAGES, RamMap, Run, changed_runs, find_ram, merge_runs

SIZE = 4 << 20
PAGES = SIZE // PAGE
WRITTEN = {0: b"first", 1: b"second", 40: b"alone", PAGES - 1: b"last"}


@contextmanager
def guest(
    writes: dict[int, bytes], image: Path | None = None, reads: str = ""
) -> Generator[RamMap]:
    """The RAM of a process that wrote `writes`."""
    path = str(image) if image else None
    with ram_child(SIZE, writes, path, reads) as child:
        yield find_ram(child.pid, SIZE, path)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with data in its first half and a hole in its second."""
    path = tmp_path / "ram.img"
    path.write_bytes(b"".join(bytes([page % 255 + 1]) * PAGE for page in range(PAGES // 2)))
    os.truncate(path, SIZE)
    return path


def expected(base: bytes, writes: dict[int, bytes]) -> bytes:
    memory = bytearray(base)
    for page, data in writes.items():
        memory[page * PAGE : page * PAGE + len(data)] = data
    return bytes(memory)


def write_next_image(ram: RamMap, path: Path, base: Path | None) -> int:
    """Write the image of the guest as it is; returns the bytes copied."""
    base_fd = os.open(base, os.O_RDONLY) if base else None
    try:
        with closing(ImageWriter(str(path), SIZE, base_fd)) as image:
            image.prepare(ram)
            return image.take(ram)
    finally:
        if base_fd is not None:
            os.close(base_fd)


def pages_of(runs: list[Run]) -> set[int]:
    return {page for at, size in runs for page in range(at // PAGE, (at + size) // PAGE)}


# -- finding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("from_image", [False, True], ids=["cold", "restored"])
def test_both_ways_of_asking_the_kernel_name_exactly_the_written_pages(
    image: Path, from_image: bool
) -> None:
    with guest(WRITTEN, image if from_image else None) as ram:
        descriptor = os.open(f"/proc/{ram.pid}/pagemap", os.O_RDONLY)
        try:
            scanned = ram_pages._scan(descriptor, ram)  # pyright: ignore[reportPrivateUsage]
            read = list(ram_pages._read_pagemap(descriptor, ram))  # pyright: ignore[reportPrivateUsage]
        finally:
            os.close(descriptor)
    assert pages_of(scanned) == pages_of(read) == set(WRITTEN)


def test_pages_that_were_only_read_do_not_count_as_changed(image: Path) -> None:
    with guest({}, image, reads=f"0,7,{PAGES - 1}") as ram:
        assert changed_runs(ram) == []


def test_a_written_zero_counts_as_changed_where_the_image_has_data(
    image: Path, tmp_path: Path
) -> None:
    with guest({3: bytes(PAGE)}, image) as ram:
        assert pages_of(changed_runs(ram)) == {3}
        write_next_image(ram, tmp_path / "next", image)
    assert (tmp_path / "next").read_bytes() == expected(image.read_bytes(), {3: bytes(PAGE)})


@pytest.mark.parametrize("room", [100, 1000])
def test_more_regions_than_one_call_returns_are_each_told_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, room: int
) -> None:
    monkeypatch.setattr(ram_pages, "_REGIONS_AT_ONCE", room)
    image, size = tmp_path / "ram.img", 16 << 20
    image.touch()
    os.truncate(image, size)
    chance = random.Random(room)
    writes = {page: b"x" for page in range(size // PAGE) if chance.random() < 0.4}
    with ram_child(size, writes, str(image)) as child:
        ram = find_ram(child.pid, size, str(image))
        descriptor = os.open(f"/proc/{ram.pid}/pagemap", os.O_RDONLY)
        try:
            scanned = ram_pages._scan(descriptor, ram)  # pyright: ignore[reportPrivateUsage]
        finally:
            os.close(descriptor)
    assert pages_of(scanned) == set(writes)
    assert sum(size for _, size in scanned) == len(writes) * PAGE


def test_without_the_new_call_the_pagemap_file_is_read(
    monkeypatch: pytest.MonkeyPatch, image: Path
) -> None:
    monkeypatch.setattr(ram_pages, "_PAGEMAP_SCAN", 0xC0606611)  # no such call: ENOTTY
    with guest(WRITTEN, image) as ram:
        assert set(WRITTEN) <= pages_of(changed_runs(ram))


def test_ram_of_another_size_is_not_found() -> None:
    with guest({}) as ram, pytest.raises(ValueError, match=r"^0 maps"):
        find_ram(ram.pid, SIZE + PAGE, None)


def test_an_anonymous_map_is_not_taken_for_a_restored_guests_ram() -> None:
    with guest({}) as ram, pytest.raises(ValueError, match=r"^0 maps"):
        find_ram(ram.pid, SIZE, "/some/ram.img")


# -- writing --------------------------------------------------------------------------------------


def test_a_cold_guests_image_holds_its_memory(tmp_path: Path) -> None:
    with guest(WRITTEN) as ram:
        write_next_image(ram, tmp_path / "next", None)
    assert (tmp_path / "next").read_bytes() == expected(bytes(SIZE), WRITTEN)


def test_a_restored_guests_image_is_the_old_one_with_its_changes(
    image: Path, tmp_path: Path
) -> None:
    before = image.read_bytes()
    with guest(WRITTEN, image) as ram:
        copied = write_next_image(ram, tmp_path / "next", image)
    assert (tmp_path / "next").read_bytes() == expected(before, WRITTEN)
    assert image.read_bytes() == before
    assert copied < 20 * PAGE


def test_a_forks_fork_builds_on_the_image_before(image: Path, tmp_path: Path) -> None:
    with guest({5: b"parent"}, image) as ram:
        write_next_image(ram, tmp_path / "one", image)
    with guest({6: b"child"}, tmp_path / "one") as ram:
        write_next_image(ram, tmp_path / "two", tmp_path / "one")
    writes = {5: b"parent", 6: b"child"}
    assert (tmp_path / "two").read_bytes() == expected(image.read_bytes(), writes)


def test_pages_never_touched_stay_holes(tmp_path: Path) -> None:
    with guest({10: b"x", 100: b"y"}) as ram:
        write_next_image(ram, tmp_path / "next", None)
    with open(tmp_path / "next", "rb") as file:
        assert image_data_bytes(file.fileno()) < SIZE // 4


def test_pages_changed_after_the_preparation_are_taken_too(tmp_path: Path) -> None:
    path = tmp_path / "next"
    with closing(ImageWriter(str(path), SIZE, None)) as image:
        with guest({1: b"early"}) as ram:
            image.prepare(ram)
        with guest(WRITTEN) as ram:
            image.take(ram)
    assert path.read_bytes() == expected(bytes(SIZE), WRITTEN)


def test_an_image_is_its_owners_and_never_overwrites(tmp_path: Path) -> None:
    with guest(WRITTEN) as ram:
        write_next_image(ram, tmp_path / "next", None)
        assert (tmp_path / "next").stat().st_mode & 0o777 == 0o600
        with pytest.raises(FileExistsError):
            write_next_image(ram, tmp_path / "next", None)


def test_an_image_must_be_prepared_before_pages_are_taken(tmp_path: Path) -> None:
    with (
        guest(WRITTEN) as ram,
        closing(ImageWriter(str(tmp_path / "next"), SIZE, None)) as image,
        pytest.raises(ValueError, match="prepare"),
    ):
        image.take(ram)


def test_a_dead_process_is_an_error_not_an_empty_image(tmp_path: Path) -> None:
    with closing(ImageWriter(str(tmp_path / "next"), SIZE, None)) as image:
        with guest(WRITTEN) as ram:
            image.prepare(ram)
        with pytest.raises(OSError, match=r"cannot be read|No such"):
            image.take(ram)


def place(gaps: list[tuple[int, int]]) -> list[Run]:
    """Runs in pages' worth of bytes: each a gap after the one before."""
    runs: list[Run] = []
    position = 0
    for gap, size in gaps:
        runs.append(((position + gap) * PAGE, size * PAGE))
        position += gap + size
    return runs


ascending = st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), max_size=30).map(
    lambda gaps: place(gaps)
)


@given(ascending)
def test_merged_runs_cover_what_went_in_and_little_more(runs: list[Run]) -> None:
    merged = merge_runs(runs)
    assert pages_of(runs) <= pages_of(merged)
    added = len(pages_of(merged)) - len(pages_of(runs))
    assert added <= GAP_PAGES * max(0, len(runs) - len(merged))


overlapping = st.lists(st.tuples(st.integers(0, 99), st.integers(1, 30)), max_size=30).map(
    lambda runs: [(start * PAGE, size * PAGE) for start, size in sorted(runs)]
)


@given(overlapping)
def test_no_page_of_runs_that_overlap_is_lost(runs: list[Run]) -> None:
    assert pages_of(runs) <= pages_of(merge_runs(runs))


@given(ascending)
def test_merged_runs_lie_further_apart_than_the_gap(runs: list[Run]) -> None:
    merged = merge_runs(runs)
    for (start, size), (following, _) in itertools.pairwise(merged):
        assert following - (start + size) > GAP_PAGES * PAGE
    assert merge_runs(merged) == merged
