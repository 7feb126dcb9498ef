"""Damage to a file, and which of it to try: flipped bits, cuts, growth, holes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SMALL_BYTES = 4096
"""Up to here every byte is tried; of larger files the head, the tail, and some in between."""
EDGE_BYTES = 64
SAMPLES = 24
EVERY_BYTE = "MACHINEN_TEST_EVERY_BYTE"
"""If this variable is set every byte of every file is tried: `python -m bench.damage`."""


@dataclass(frozen=True, slots=True)
class Damage:
    """One change of one file."""

    kind: str
    at: int = 0

    def apply(self, path: Path) -> None:
        """Do it. The file keeps its modification time's order: what is written to is newer."""
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            match self.kind:
                case "flip":
                    file.seek(self.at)
                    byte = file.read(1)[0]
                    file.seek(self.at)
                    file.write(bytes([byte ^ 0x01 << self.at % 8]))
                case "cut":
                    file.truncate(self.at)
                case "grow":
                    file.seek(size)
                    file.write(bytes(self.at))
                case "hole":
                    file.seek(self.at)
                    file.write(bytes(min(4096, size - self.at)))
                case _:
                    raise ValueError(self.kind)

    def __str__(self) -> str:
        return f"{self.kind}-{self.at}"


def damages(size: int) -> Iterator[Damage]:
    """What to try on a file of `size` bytes."""
    if size <= SMALL_BYTES or EVERY_BYTE in os.environ:
        yield from (Damage("flip", at) for at in range(size))
    else:
        step = max(1, size // SAMPLES)
        places = {*range(EDGE_BYTES), *range(0, size, step), *range(size - EDGE_BYTES, size)}
        yield from (Damage("flip", at) for at in sorted(places))
    yield from (Damage("cut", at) for at in sorted({0, size // 2, max(0, size - 1)}))
    yield from (Damage("grow", at) for at in (1, 4096))
