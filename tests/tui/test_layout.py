"""The automatic grid."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from machinen_tui.layout import Rect, grid, grid_capacity, neighbour, page_of


@given(st.integers(1, 20), st.integers(20, 300), st.integers(5, 100))
def test_a_grid_covers_the_area_without_overlap(count: int, width: int, height: int) -> None:
    rects = grid(count, width, min(max(height, 2 * count), 200))
    assert len(rects) == count
    cells = {
        (x, y) for r in rects for x in range(r.x, r.x + r.width) for y in range(r.y, r.y + r.height)
    }
    assert len(cells) == sum(r.width * r.height for r in rects) == width * max(height, 2 * count)


def test_three_panes_beside_a_sidebar_read_well() -> None:
    assert grid(1, 84, 38) == [Rect(0, 0, 84, 38)]
    assert grid(2, 84, 38) == [Rect(0, 0, 84, 19), Rect(0, 19, 84, 19)]
    assert [(r.width, r.height) for r in grid(4, 84, 38)] == [(42, 19)] * 4
    assert grid(2, 160, 38) == [Rect(0, 0, 80, 38), Rect(80, 0, 80, 38)]


def test_panes_are_never_narrower_than_a_terminal_needs_if_there_is_room() -> None:
    assert all(rect.width >= 20 and rect.height >= 5 for rect in grid(6, 52, 21))


def test_pages_hold_what_fits() -> None:
    assert grid_capacity(52, 21) == 8
    assert list(page_of(0, 10, 8)) == list(range(8))
    assert list(page_of(9, 10, 8)) == [8, 9]


def test_neighbours_lie_in_the_direction_asked_for() -> None:
    rects = grid(4, 80, 24)
    assert (rects[0].width, rects[0].height) == (40, 12)
    assert neighbour(rects, 0, "right") == 1
    assert neighbour(rects, 0, "down") == 2
    assert neighbour(rects, 3, "up") == 1
    assert neighbour(rects, 0, "left") == 0
