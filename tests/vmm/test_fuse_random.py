"""Random reads, writes, truncations, mappings and holes on one file, held against bytes in memory.

In the manner of fsx: what a step reads must be what the model has, through the descriptor, through
a mapping, and on the host at the end.
"""

from __future__ import annotations

import mmap
import os
import random
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.vmm.fuse_mounts import LiveMount, live_mount
from vmm.fuse_syscalls import allocate

STEPS = 700
LARGEST = 400_000
PUNCH_KEEP, ZERO_RANGE = 3, 0x10


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Generator[LiveMount]:
    with live_mount(tmp_path_factory.mktemp("random")) as mount:
        yield mount


class Exerciser:
    """A file, its model, and the steps."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.chance = random.Random(seed)
        self.model = bytearray()
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def span(self, limit: int) -> tuple[int, int]:
        start = self.chance.randrange(limit)
        return start, self.chance.randint(1, min(limit - start, self.chance.choice([50, 70_000])))

    def grow(self, size: int) -> None:
        if size > len(self.model):
            self.model.extend(bytes(size - len(self.model)))

    def write(self) -> None:
        start, size = self.span(LARGEST)
        data = self.chance.randbytes(size)
        assert os.pwrite(self.fd, data, start) == size
        self.grow(start + size)
        self.model[start : start + size] = data

    def append(self) -> None:
        if len(self.model) < LARGEST:
            data = self.chance.randbytes(self.chance.randint(1, 5000))
            with open(self.path, "ab") as file:
                file.write(data)
            self.model += data

    def read(self) -> None:
        start, size = self.span(LARGEST + 10_000)
        assert os.pread(self.fd, size, start) == self.model[start : start + size]

    def read_anew(self) -> None:
        assert self.path.read_bytes() == self.model

    def truncate(self) -> None:
        size = self.chance.randrange(LARGEST)
        if self.chance.random() < 0.5:
            os.ftruncate(self.fd, size)
        else:
            os.truncate(self.path, size)
        self.grow(size)
        del self.model[size:]

    def punch(self) -> None:
        start, size = self.span(LARGEST)
        allocate(self.fd, PUNCH_KEEP, start, size)
        end = min(start + size, len(self.model))
        self.model[start:end] = bytes(max(0, end - start))

    def zero(self) -> None:
        start, size = self.span(LARGEST)
        allocate(self.fd, ZERO_RANGE, start, size)
        self.grow(start + size)
        self.model[start : start + size] = bytes(size)

    def reserve(self) -> None:
        start, size = self.span(LARGEST)
        os.posix_fallocate(self.fd, start, size)
        self.grow(start + size)

    def map_read(self) -> None:
        if self.model:
            with mmap.mmap(self.fd, len(self.model), access=mmap.ACCESS_READ) as mapped:
                start, size = self.span(len(self.model))
                assert mapped[start : start + size] == self.model[start : start + size]

    def map_write(self) -> None:
        if self.model:
            with mmap.mmap(self.fd, len(self.model)) as mapped:
                start, size = self.span(len(self.model))
                data = self.chance.randbytes(size)
                mapped[start : start + size] = data
                self.model[start : start + size] = data

    def copy(self) -> None:
        start, size = self.span(LARGEST)
        to = self.chance.randrange(LARGEST)
        if abs(to - start) < size or start + size > len(self.model):
            return  # copy_file_range(2) refuses what overlaps
        assert os.copy_file_range(self.fd, self.fd, size, start, to) == size
        self.grow(to + size)
        self.model[to : to + size] = self.model[start : start + size]

    def sync(self) -> None:
        os.fsync(self.fd)

    def reopen(self) -> None:
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)
        assert os.fstat(self.fd).st_size == len(self.model)

    def step(self) -> None:
        """Any of them, reads and writes most often."""
        plenty = [self.write, self.read, self.map_read, self.map_write, self.truncate]
        rare = [
            self.append, self.read_anew, self.punch, self.zero, self.reserve, self.copy,
            self.sync, self.reopen,
        ]  # fmt: skip
        self.chance.choice(plenty + plenty + rare)()


@pytest.mark.parametrize("seed", range(4))
def test_a_file_holds_what_was_done_to_it(share: LiveMount, seed: int) -> None:
    exerciser = Exerciser(share.guest / f"file{seed}", seed)
    for number in range(STEPS):
        if seed == 3 and number % 100 == 99:
            share.ask("restart")  # another session goes on in the middle
        exerciser.step()
    os.close(exerciser.fd)
    assert (share.host / f"file{seed}").read_bytes() == exerciser.model
