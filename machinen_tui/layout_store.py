"""A workspace as plain values and back, for layouts that are kept by name. Pure.

Sandboxes are named, not numbered: a layout of yesterday fits today's sandboxes of the same names.
What was kept may have been edited by hand: whatever is not understood is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from machinen_tui.layout import Rect
from machinen_tui.layout_tree import Leaf, Node, Split, keys_of, renamed, without
from machinen_tui.workspace import ARRANGEMENTS, GRID, MANUAL, MAX_TABS, Floating, Tab, Workspace

MAX_DEPTH, MAX_PARTS, MAX_NAME = 32, 256, 64
MAX_LAYOUTS = 32


def spell(space: Workspace, names: Mapping[str, str]) -> dict[str, Any]:
    """The values of a workspace; `names` tells what the sandbox of each key is called."""
    return {
        "active": space.active,
        "tabs": [_spell_tab(tab, names) for tab in space.tabs],
    }


def read(value: object, live: Mapping[str, str], order: Sequence[str], area: Rect) -> Workspace:
    """The workspace those values describe. `live` gives the key of each running sandbox by name,
    `order` all keys: those the layout does not know come to its first tab."""
    given = _dict(value)
    space, placed = Workspace(), set[str]()
    tabs: list[Tab] = []
    for each in _list(given.get("tabs"))[:MAX_TABS]:
        tab = _read_tab(_dict(each), live, placed)
        placed |= set(tab.keys)
        if tab.keys:
            tabs.append(tab)
    space.tabs = tabs or [Tab()]
    space.update(order, {}, area)
    space.go_to(_number(given.get("active"), 0, 0, MAX_TABS))
    return space


def layouts(value: object) -> dict[str, Any]:
    """The kept layouts by name; what is no layout is dropped."""
    return {
        name: _dict(spec)
        for name, spec in _dict(value).items()
        if 0 < len(name) <= MAX_NAME and _dict(spec)
    }


# -- to values ------------------------------------------------------------------------------------


def _spell_tab(tab: Tab, names: Mapping[str, str]) -> dict[str, Any]:
    kept = [key for key in tab.keys if key in names]
    spelled: dict[str, Any] = {
        "name": tab.name,
        "arrangement": tab.arrangement,
        "sandboxes": [names[key] for key in kept],
        "by_hand": tab.by_hand,
    }
    if tab.root is not None:
        spelled["tree"] = _spell_node(renamed(tab.root, names))
    if tab.floating:
        spelled["floating"] = {
            names[key]: [place.x, place.y, place.width, place.height]
            for key, place in tab.floating.items()
            if key in names
        }
    return spelled


def _spell_node(node: Node) -> Any:
    if isinstance(node, Leaf):
        return node.key
    return {
        "across": node.across,
        "weights": list(node.weights),
        "parts": [_spell_node(part) for part in node.parts],
    }


# -- from values ----------------------------------------------------------------------------------


def _read_tab(given: dict[str, Any], live: Mapping[str, str], placed: set[str]) -> Tab:
    names = [name for name in _list(given.get("sandboxes"))[:MAX_PARTS] if isinstance(name, str)]
    keys = [live[name] for name in dict.fromkeys(names) if name in live]
    name = given.get("name")
    tab = Tab(name=name[:MAX_NAME] if isinstance(name, str) else "")
    tab.keys = [key for key in keys if key not in placed]
    tab.by_hand = given.get("by_hand") is True
    arrangement = given.get("arrangement")
    tab.arrangement = arrangement if arrangement in ARRANGEMENTS else GRID
    for name, numbers in _dict(given.get("floating")).items():
        if live.get(name) in tab.keys and len(_list(numbers)) == 4:
            tab.floating[live[name]] = _floating(_list(numbers))
    if arrangement == MANUAL:
        _read_tree(tab, given.get("tree"), live)
    return tab


def _read_tree(tab: Tab, value: object, live: Mapping[str, str]) -> None:
    """Take over the tree if it holds just the panes of the tab; else they are in a grid."""
    node = _read_node(value, 0)
    if node is None:
        return
    keys = keys_of(node)
    known = renamed(node, {name: live.get(name, f"?{name}") for name in keys})
    root = without(known, {key for key in keys_of(known) if key not in tab.tiled})
    if sorted(keys_of(root)) == sorted(tab.tiled) and len(set(keys)) == len(keys):
        tab.arrangement, tab.root = MANUAL, root


def _read_node(value: object, depth: int) -> Node | None:
    if isinstance(value, str):
        return Leaf(value)
    given = _dict(value)
    raw_parts, raw_weights = _list(given.get("parts")), _list(given.get("weights"))
    if depth >= MAX_DEPTH or not 2 <= len(raw_parts) <= MAX_PARTS:
        return None
    parts = [_read_node(part, depth + 1) for part in raw_parts]
    read_parts = [part for part in parts if part is not None]
    if len(raw_weights) != len(raw_parts) or len(read_parts) != len(raw_parts):
        return None
    weights = tuple(_number(weight, 1, 1, 100_000) for weight in raw_weights)
    return Split(given.get("across") is True, tuple(read_parts), weights)


def _floating(numbers: list[Any]) -> Floating:
    x, y = (_number(each, 10, 0, 90) for each in numbers[:2])
    width, height = (_number(each, 70, 10, 100) for each in numbers[2:])
    return Floating(x, y, min(width, 100 - x), min(height, 100 - y))


def _number(value: object, default: int, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        return default
    return min(max(value, least), most)


def _dict(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return cast("list[Any]", value) if isinstance(value, list) else []
