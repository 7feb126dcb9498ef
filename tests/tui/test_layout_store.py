"""Layouts as values: what is written is read again, what somebody broke does no harm."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from machinen_tui import layout_store
from machinen_tui.layout import Rect
from machinen_tui.layout_tree import keys_of
from machinen_tui.workspace import MAIN, MANUAL, Workspace

AREA = Rect(0, 0, 120, 40)
NAMES = {"ka": "a", "kb": "b", "kc": "c", "kd": "d"}
LIVE = {name: key for key, name in NAMES.items()}


def arranged() -> Workspace:
    space = Workspace()
    space.update(list(NAMES), {}, AREA)
    space.split("ka", "kc", across=True, area=AREA)
    space.float("kb", AREA)
    space.break_out("kd", "builds")
    space.arrange(MAIN)
    return space


def test_what_is_kept_comes_back_for_sandboxes_of_the_same_names() -> None:
    values = json.loads(json.dumps(layout_store.spell(arranged(), NAMES)))
    again = layout_store.read(values, LIVE, list(NAMES), AREA)
    for before, after in zip(arranged().tabs, again.tabs, strict=True):
        assert (before.keys, before.root, before.floating) == (
            after.keys, after.root, after.floating,
        )  # fmt: skip
        assert (before.name, before.arrangement) == (after.name, after.arrangement)
    assert again.active == 1


def test_sandboxes_that_are_gone_leave_their_place_and_others_find_one() -> None:
    values = layout_store.spell(arranged(), NAMES)
    live = {"a": "xa", "c": "xc", "new": "xn"}
    again = layout_store.read(values, live, ["xa", "xc", "xn"], AREA)
    assert [tab.keys for tab in again.tabs] == [["xa", "xc", "xn"]]
    assert again.tab.arrangement == MANUAL
    assert sorted(keys_of(again.tab.root)) == ["xa", "xc", "xn"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 200_000) | st.sampled_from(["a", "b", "manual"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["tabs", "tree", "parts", "weights", "across", "sandboxes", "arrangement",
                         "floating", "a", "active"]),
        inner,
        max_size=6,
    ),
    max_leaves=30,
)  # fmt: skip


@given(JSON)
def test_damaged_layouts_still_show_every_sandbox_once(value: object) -> None:
    for given_value in (value, {"tabs": [value]}, {"tabs": [{"sandboxes": ["a", "b"],
                        "arrangement": "manual", "tree": value}]}):  # fmt: skip
        space = layout_store.read(given_value, LIVE, list(NAMES), AREA)
        assert sorted(key for tab in space.tabs for key in tab.keys) == sorted(NAMES)
        for index in range(len(space.tabs)):
            space.go_to(index)
            assert set(space.shown(AREA, None).rects) == set(space.tab.keys)
    layout_store.layouts(value)
