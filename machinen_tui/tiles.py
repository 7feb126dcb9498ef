"""Where the tiles of the wall go: as large as they may be with all of them in sight. Pure."""

from __future__ import annotations

from dataclasses import dataclass

MIN_WIDTH, MAX_WIDTH, MAX_HEIGHT = 12, 30, 4


@dataclass(frozen=True, slots=True)
class Tiling:
    """So many columns of tiles of this size, in cells; `rows` of them fit."""

    columns: int
    width: int
    height: int
    rows: int

    def at(self, x: int, y: int) -> int:
        """The number of the tile at a cell, left to right; it may be beyond the last."""
        return y // self.height * self.columns + min(x // self.width, self.columns - 1)


def tiling(count: int, width: int, height: int) -> Tiling:
    """The largest tiles with which `count` fit; the smallest if they never do."""
    widest = max(width // MAX_WIDTH, 1)
    narrowest = max(width // MIN_WIDTH, 1)
    for tile_height in range(MAX_HEIGHT, 0, -1):
        rows = max(height // tile_height, 1)
        for columns in range(widest, narrowest + 1):
            if columns * rows >= count:
                return Tiling(columns, width // columns, tile_height, rows)
    return Tiling(narrowest, width // narrowest, 1, max(height, 1))
