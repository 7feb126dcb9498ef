"""The tree of splits: it covers its area, edits keep every pane, borders go where they are
dragged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from machinen_tui.layout import Rect
from machinen_tui.layout_tree import (
    LEAST_HEIGHT,
    LEAST_WIDTH,
    Leaf,
    Node,
    Split,
    added,
    beside,
    borders,
    evened,
    fits,
    from_rects,
    in_line,
    keys_of,
    moved,
    one_large,
    place,
    renamed,
    swapped,
    without,
)

AREA = Rect(3, 2, 120, 40)


@st.composite
def trees(draw: st.DrawFn) -> Node:
    root: Node = Leaf("p0")
    for number in range(1, draw(st.integers(1, 9))):
        near = draw(st.sampled_from(keys_of(root)))
        across, first = draw(st.booleans()), draw(st.booleans())
        root = beside(root, near, f"p{number}", across=across, first=first)
    return root


def cells(rect: Rect) -> set[tuple[int, int]]:
    return {
        (x, y)
        for x in range(rect.x, rect.x + rect.width)
        for y in range(rect.y, rect.y + rect.height)
    }


@given(trees(), st.integers(1, 200), st.integers(1, 80))
def test_panes_cover_the_area_without_overlap(root: Node, width: int, height: int) -> None:
    rects = place(root, Rect(5, 1, width, height))
    covered = [cell for rect in rects.values() for cell in cells(rect)]
    assert len(covered) == len(set(covered)) == width * height
    assert list(rects) == keys_of(root)


@given(trees(), st.data())
def test_a_pane_that_goes_leaves_its_place_to_the_others(root: Node, data: st.DataObject) -> None:
    gone = data.draw(st.sets(st.sampled_from(keys_of(root))))
    left = without(root, gone)
    assert keys_of(left) == [key for key in keys_of(root) if key not in gone]
    if left is not None:
        assert sum(r.width * r.height for r in place(left, AREA).values()) == 120 * 40


@given(trees(), st.data())
def test_swapping_twice_changes_nothing(root: Node, data: st.DataObject) -> None:
    one, other = (data.draw(st.sampled_from(keys_of(root))) for _ in range(2))
    before, after = place(root, AREA), place(swapped(root, one, other), AREA)
    assert (after[one], after[other]) == (before[other], before[one])
    assert swapped(swapped(root, one, other), one, other) == root


@given(trees(), st.data())
def test_a_dragged_border_goes_where_it_is_dragged_as_far_as_there_is_room(
    root: Node, data: st.DataObject
) -> None:
    lines = list(borders(root, AREA))
    if not lines or not fits(root, AREA):
        return
    border = data.draw(st.sampled_from(lines))
    to = data.draw(st.integers(-10, 200))
    after = moved(root, border, to)
    line = next(b for b in borders(after, AREA) if (b.path, b.index) == (border.path, border.index))
    assert min(abs(line.at - to), 1) <= min(abs(border.at - to), 1)
    assert (line.at - border.at) * (to - border.at) >= 0
    assert keys_of(after) == keys_of(root)
    for rect in place(after, AREA).values():
        assert rect.width >= LEAST_WIDTH - 1
        assert rect.height >= LEAST_HEIGHT - 1


def test_a_dragged_border_leaves_room_for_the_lightest_of_unequal_parts() -> None:
    row = Split(True, (Leaf("light"), Leaf("b"), Leaf("heavy")), (1, 1, 2))
    root = Split(True, (Split(False, (row, Leaf("below")), (1, 1)), Leaf("right")), (1, 1))
    assert fits(root, AREA)
    border = next(borders(root, AREA))
    after = moved(root, border, 0)
    assert fits(after, AREA)
    assert place(after, AREA)["light"].width == LEAST_WIDTH
    assert next(borders(after, AREA)).at < border.at


def test_a_border_is_found_on_the_frames_at_its_sides() -> None:
    root = beside(beside(Leaf("a"), "a", "b", across=True), "b", "c", across=False)
    upright, level = borders(root, Rect(0, 0, 80, 24))
    assert (upright.across, upright.at, upright.start, upright.end) == (True, 40, 0, 24)
    assert (level.across, level.at, level.start, level.end) == (False, 12, 40, 80)
    assert [x for x in range(80) if upright.touches(x, 5)] == [39, 40]
    assert not level.touches(10, 12)
    dragged = place(moved(root, upright, 60), Rect(0, 0, 80, 24))
    assert (dragged["a"].width, dragged["c"].width) == (60, 20)


def test_splits_of_one_direction_lie_beside_each_other_not_in_each_other() -> None:
    root = beside(beside(Leaf("a"), "a", "b", across=True), "b", "c", across=True)
    assert [rect.width for rect in place(root, Rect(0, 0, 80, 24)).values()] == [40, 20, 20]
    assert [r.width for r in place(evened(root), Rect(0, 0, 90, 24)).values()] == [30, 30, 30]
    assert len(list(borders(root, AREA))) == 2


def test_a_new_pane_shares_with_its_neighbour_or_the_largest() -> None:
    root = added(None, "a", AREA)
    root = added(root, "b", AREA)
    assert [(r.width, r.height) for r in place(root, AREA).values()] == [(60, 40)] * 2
    root = added(root, "c", AREA, near="b")
    assert [(r.width, r.height) for r in place(root, AREA).values()] == [
        (60, 40), (60, 20), (60, 20),
    ]  # fmt: skip


def test_ready_made_arrangements() -> None:
    area = Rect(0, 0, 100, 30)
    assert in_line([], across=True) is None
    columns = in_line(["a", "b"], across=True)
    assert columns is not None
    assert [r.width for r in place(columns, area).values()] == [50, 50]
    large = one_large(["a", "b", "c"], "b")
    assert large is not None
    assert place(large, area)["b"] == Rect(0, 0, 60, 30)
    rects = {"a": Rect(0, 0, 50, 10), "b": Rect(50, 0, 50, 10), "c": Rect(0, 10, 100, 20)}
    same = from_rects(rects)
    assert same is not None
    assert place(same, area) == rects
    assert keys_of(renamed(same, {"a": "x"})) == ["x", "b", "c"]
