"""Tabs and arrangements, without a widget."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from machinen_tui import workspace as ws
from machinen_tui.layout import Rect
from machinen_tui.layout_tree import keys_of
from machinen_tui.workspace import Floating, Workspace

AREA = Rect(0, 1, 120, 40)


def with_panes(*keys: str) -> Workspace:
    space = Workspace()
    space.update(keys, {}, AREA)
    return space


def sizes(space: Workspace, current: str | None = None) -> dict[str, tuple[int, int]]:
    shown = space.shown(AREA, current)
    return {key: (rect.width, rect.height) for key, rect in shown.rects.items()}


def test_a_grid_until_somebody_splits() -> None:
    space = with_panes("a", "b", "c", "d")
    assert set(sizes(space).values()) == {(60, 20)}
    assert space.split("a", "d", across=True, area=AREA)
    assert space.tab.arrangement == ws.MANUAL
    assert sizes(space) == {"a": (30, 20), "d": (30, 20), "b": (60, 20), "c": (120, 20)}
    space.arrange(ws.GRID)
    assert set(sizes(space).values()) == {(60, 20)}


def test_one_key_goes_through_the_arrangements() -> None:
    space = with_panes("a", "b", "c")
    seen = {space.next_arrangement(): sizes(space, "b") for _ in ws.ARRANGEMENTS}
    assert seen[ws.COLUMNS] == {"a": (40, 40), "b": (40, 40), "c": (40, 40)}
    assert [height for _, height in seen[ws.ROWS].values()] == [13, 13, 14]
    assert seen[ws.MAIN]["a"] == (72, 40)
    assert seen[ws.STACKED] == {"a": (120, 1), "b": (120, 38), "c": (120, 1)}
    assert space.tab.arrangement == ws.GRID


def test_forks_come_to_the_tab_of_their_source_and_beside_it_if_that_was_asked() -> None:
    space = with_panes("a", "b")
    assert space.break_out("a")
    space.go_to(0)
    space.update(["a", "f", "b"], {"f": "a"}, AREA)
    assert [tab.keys for tab in space.tabs] == [["b"], ["a", "f"]]
    space.expected["a"] = True
    space.update(["a", "g", "f", "b"], {"g": "a", "f": "a"}, AREA)
    assert space.tab.root is not None
    assert keys_of(space.tab.root) == ["a", "g", "f"]
    assert space.expected == {}


def test_tabs_open_close_and_go_with_their_last_sandbox() -> None:
    space = with_panes("a", "b", "c")
    space.break_out("b", "builds")
    space.break_out("c")
    titles = [space.title_of(index, {"a": "web", "c": "db"}) for index in range(3)]
    assert titles == ["web", "builds", "db"]
    assert space.join("c", 1, AREA)
    assert [tab.keys for tab in space.tabs] == [["a"], ["b", "c"]]
    assert space.active == 1
    space.update(["a"], {}, AREA)
    assert [tab.keys for tab in space.tabs] == [["a"]]
    assert space.active == 0
    assert not space.close_tab(AREA)
    space.update(["a", "b"], {}, AREA)
    space.break_out("b")
    assert space.close_tab(AREA)
    assert space.tab.keys == ["a", "b"]
    assert not space.go_to(7)


def test_panes_swap_in_every_arrangement_and_stay_so() -> None:
    space = with_panes("a", "b", "c")
    assert space.swap("a", "c")
    assert list(sizes(space)) == ["c", "b", "a"]
    space.update(["a", "b", "c", "d"], {}, AREA)
    assert space.tab.keys == ["c", "b", "a", "d"]
    space.by_hand(AREA, "a")
    space.swap("c", "d")
    assert keys_of(space.tab.root)[0] == "d"
    assert not space.swap("a", "a")


def test_floating_panes_lie_above_move_and_grow_inside_the_area() -> None:
    space = with_panes("a", "b")
    assert space.float("b", AREA)
    shown = space.shown(AREA, "a")
    assert shown.floating == ("b",)
    assert shown.rects["a"] == AREA
    place = Floating()
    for _ in range(40):
        place = place.moved(9, -7).grown(5, 5)
        rect = place.rect(AREA)
        assert AREA.x <= rect.x <= rect.x + rect.width <= AREA.x + AREA.width
        assert AREA.y <= rect.y <= rect.y + rect.height <= AREA.y + AREA.height
    assert space.resize("b", "left", 2, AREA)
    assert space.tab.floating["b"].width < 70
    assert space.float("b", AREA) is False
    assert set(sizes(space)) == {"a", "b"}
    space.float("a", AREA)
    space.float("b", AREA)
    assert set(sizes(space, "b")) == {"a", "b"}
    assert space.shown(AREA, "a").floating[-1] == "a"


def test_a_border_moves_by_key_in_the_direction_of_the_arrow() -> None:
    space = with_panes("a", "b")
    space.arrange(ws.COLUMNS)
    before = sizes(space)["a"][0]
    assert space.resize("a", "right", 3, AREA)
    assert sizes(space)["a"][0] == before + 3
    assert space.resize("b", "right", 2, AREA)
    assert sizes(space)["a"][0] == before + 5
    assert not space.resize("a", "up", 1, AREA)


def test_what_does_not_fit_becomes_pages_of_a_grid() -> None:
    space = with_panes(*(f"p{n}" for n in range(12)))
    space.arrange(ws.COLUMNS)
    small = Rect(0, 0, 40, 10)
    shown = space.shown(small, "p5")
    assert shown.paged
    assert "p5" in shown.rects
    assert space.shown(small, "p5", alone=True).rects == {"p5": small}
    space.arrange(ws.STACKED)
    assert len(space.shown(small, "p5").rects) == 4


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["come", "go", "split", "swap", "float", "break", "join", "close", "next",
                         "resize", "step"]),
        st.integers(0, 9),
        st.integers(0, 9),
    ),
    max_size=40,
)  # fmt: skip


@settings(max_examples=150)
@given(OPERATIONS)
def test_every_sandbox_stays_on_exactly_one_tab_whatever_is_done(
    operations: list[tuple[str, int, int]],
) -> None:
    space, live, made = Workspace(), list[str](), 0
    for what, one, other in operations:
        if what == "come":
            made += 1
            live.append(f"p{made}")
        elif what == "go" and live:
            live.pop(one % len(live))
        elif live:
            a, b = live[one % len(live)], live[other % len(live)]
            {
                "split": lambda a=a, b=b, n=one: space.split(a, b, across=n % 2 == 0, area=AREA),
                "swap": lambda a=a, b=b: space.swap(a, b),
                "float": lambda a=a: space.float(a, AREA),
                "break": lambda a=a: space.break_out(a),
                "join": lambda a=a, n=other: space.join(a, n, AREA),
                "close": lambda: space.close_tab(AREA),
                "next": lambda: space.next_arrangement(),
                "resize": lambda a=a: space.resize(a, "right", 2, AREA),
                "step": lambda: space.step(1),
                "go": lambda: None,
            }[what]()
        space.update(live, {}, AREA)
        assert sorted(key for tab in space.tabs for key in tab.keys) == sorted(live)
        shown = space.shown(AREA, None)
        assert set(shown.rects) <= set(space.tab.keys)
        assert shown.paged or set(shown.rects) == set(space.tab.keys)
        for tab in space.tabs:
            if tab.arrangement == ws.MANUAL:
                assert sorted(keys_of(tab.root)) == sorted(tab.tiled)
