"""Which pages were written between two images: told by the kernel, for a real process."""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from bench.leftovers import open_descriptors
from tests.vmm.ram_child import PAGE, ram_child, write
from vmm import ram_pages
from vmm.ram_image import ImageWriter, read_memory
from vmm.ram_pages import RamMap, Run, find_ram
from vmm.ram_shim import shim_environment, shim_path
from vmm.write_tracker import WriteTracker

SIZE = 4 << 20
PAGES = SIZE // PAGE
FIRST = {0: b"first", 64: b"second", 512: b"third"}

Child = tuple[subprocess.Popen[bytes], RamMap]


@contextmanager
def guest(image: Path | None = None, *, shim: bool = True) -> Generator[Child]:
    """A process that wrote FIRST, with the means to have its writes tracked."""
    path = str(image) if image else None
    env = shim_environment(str(shim_path()), path, None) if shim else None
    with ram_child(SIZE, FIRST, path, reads="100,101", env=env) as child:
        yield child, find_ram(child.pid, SIZE, path)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An image with data in every other page."""
    path = tmp_path / "ram.img"
    with path.open("wb") as file:
        for page in range(0, PAGES, 2):
            file.seek(page * PAGE)
            file.write(bytes([page % 255 + 1]) * PAGE)
        file.truncate(SIZE)
    return path


def pages_of(runs: list[Run] | None) -> set[int]:
    assert runs is not None
    return {page for at, size in runs for page in range(at // PAGE, (at + size) // PAGE)}


def memory_of(ram: RamMap) -> bytes:
    target = bytearray(SIZE)
    read_memory(ram.pid, ram.start, memoryview(target))
    return bytes(target)


@pytest.mark.parametrize("from_image", [False, True], ids=["cold", "restored"])
def test_exactly_what_was_written_since_is_told(image: Path, from_image: bool) -> None:
    with guest(image if from_image else None) as (child, ram), closing(WriteTracker(ram.pid)) as it:
        assert pages_of(it.protect(ram)) == set(FIRST)  # and not what was only read
        assert it.written(ram) == []
        write(child, {64: b"again", 900: b"new"})
        assert pages_of(it.written(ram)) == {64, 900}
        assert pages_of(it.written(ram)) == {64, 900}  # asking changes nothing
        assert pages_of(it.protect(ram)) == {64, 900}
        assert it.protect(ram) == []
        write(child, {1000: b"x"}, drops=[64, 512])
        assert pages_of(it.protect(ram)) == {1000}  # what was given back is nobody's any more
        write(child, {512: b"back"})
        assert pages_of(it.protect(ram)) == {512}


def test_what_nobody_wrote_since_is_not_looked_up_again(image: Path) -> None:
    """Neither the image's pages nor pages of its own: the kernel passes over what is protected."""
    half = PAGES // 2
    env = shim_environment(str(shim_path()), str(image), None)
    looked_at = ",".join(str(page) for page in range(half))
    writes = dict.fromkeys(range(half, PAGES), b"x")
    with (
        ram_child(SIZE, writes, str(image), looked_at, env) as child,
        closing(WriteTracker(child.pid)) as it,
        open(f"/proc/{child.pid}/pagemap", "rb", buffering=0) as pagemap,
    ):
        ram = find_ram(child.pid, SIZE, str(image))
        assert pages_of(it.protect(ram)) == set(writes)
        assert ram_pages._unprotected(pagemap.fileno(), ram) == []  # pyright: ignore[reportPrivateUsage]
        write(child, {3: b"over the image's", PAGES - 1: b"again"})
        assert len(ram_pages._unprotected(pagemap.fileno(), ram)) == 2  # pyright: ignore[reportPrivateUsage]
        assert pages_of(it.protect(ram)) == {3, PAGES - 1}


@pytest.mark.parametrize("from_image", [False, True], ids=["cold", "restored"])
def test_each_image_of_a_long_life_is_memory_as_it_is(
    image: Path, tmp_path: Path, from_image: bool
) -> None:
    dice = random.Random(42)
    base = os.open(image, os.O_RDONLY) if from_image else None
    with guest(image if from_image else None) as (child, ram), closing(WriteTracker(ram.pid)) as it:
        for number in range(8):
            path = tmp_path / f"{number}.img"
            with closing(ImageWriter(str(path), SIZE, base, it)) as writer:
                write(child, some_writes(dice, 40))
                writer.prepare(ram)
                write(child, some_writes(dice, 5))  # the guest runs on while most is copied
                copied = writer.take(ram)
                writer.keep()
            assert path.read_bytes() == memory_of(ram)
            if number:  # no more than the writes, and what lies between those that are close
                assert copied <= 45 * 5 * PAGE
            path.unlink()  # a fork's is gone as soon as its siblings run
    if base is not None:
        os.close(base)


def some_writes(dice: random.Random, count: int) -> dict[int, bytes]:
    return {dice.randrange(PAGES): dice.randbytes(dice.randrange(1, PAGE)) for _ in range(count)}


def test_after_a_snapshot_that_failed_the_next_takes_all_there_is(tmp_path: Path) -> None:
    with guest() as (child, ram), closing(WriteTracker(ram.pid)) as it:
        for number, fails in enumerate((False, True, False)):
            write(child, {number: b"%d" % number, 700 + number: b"more"})
            path = tmp_path / f"{number}.img"
            with closing(ImageWriter(str(path), SIZE, None, it)) as writer:
                writer.prepare(ram)
                writer.take(ram)
                if not fails:
                    writer.keep()
        assert (tmp_path / "2.img").read_bytes() == memory_of(ram)


def test_an_image_that_somebody_changed_is_not_built_on(tmp_path: Path) -> None:
    with guest() as (child, ram), closing(WriteTracker(ram.pid)) as it:
        first, second = tmp_path / "first.img", tmp_path / "second.img"
        for path in (first, second):
            write(child, {5: path.name.encode()})
            with closing(ImageWriter(str(path), SIZE, None, it)) as writer:
                writer.prepare(ram)
                writer.take(ram)
                writer.keep()
            os.truncate(first, 0)
        assert second.read_bytes() == memory_of(ram)


def test_without_the_means_all_pages_are_taken_each_time(tmp_path: Path) -> None:
    with guest(shim=False) as (child, ram), closing(WriteTracker(ram.pid)) as it:
        assert it.protect(ram) is None
        for number in range(2):
            write(child, {number: b"x"})
            path = tmp_path / f"{number}.img"
            with closing(ImageWriter(str(path), SIZE, None, it)) as writer:
                writer.prepare(ram)
                writer.take(ram)
                writer.keep()
            assert path.read_bytes() == memory_of(ram)


def test_nothing_stays_open(tmp_path: Path) -> None:
    before = open_descriptors()
    with guest() as (_, ram):
        with closing(WriteTracker(ram.pid)) as it:
            path = tmp_path / "ram.img"
            with closing(ImageWriter(str(path), SIZE, None, it)) as writer:
                writer.prepare(ram)
                writer.take(ram)
                writer.keep()
            assert len(set(open_descriptors()) - set(before)) == 4  # two pipes, the image, the list
        assert len(set(open_descriptors()) - set(before)) == 2
