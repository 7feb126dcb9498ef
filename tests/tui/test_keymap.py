"""Keys: what people write, what an action has, and who loses when two want the same."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinen_tui import keymap
from machinen_tui.keymap import ACTIONS, Keymap, keymap_from, shown_key, textual_key


def test_no_two_actions_share_a_default_key() -> None:
    keys = [key for action in ACTIONS for key in map(textual_key, action.keys)]
    assert None not in keys
    assert len(keys) == len(set(keys))
    assert len(ACTIONS) == len({action.name for action in ACTIONS})


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("f", "f"), ("F", "F"), ("?", "question_mark"), ("/", "slash"), ("+", "plus"),
        ("ctrl+x", "ctrl+x"), ("ctrl++", "ctrl+plus"), ("ctrl+]", "ctrl+right_square_bracket"),
        ("pageup", "pageup"), ("alt+?", "alt+question_mark"), ("shift+tab", "shift+tab"),
        ("f5", "f5"), ("comma", "comma"), (" ", "space"), ("ä", "ä"),
        ("foo", None), ("ctrl+foo", None), ("ctrl+ctrl+x", None), ("strg+x", None), ("\x1b", None),
    ],
)  # fmt: skip
def test_keys_are_written_as_people_do(written: str, named: str | None) -> None:
    assert textual_key(written) == named
    if named is not None and written != " " and len(written) < 5:
        assert shown_key(named) == written


@given(st.text(max_size=20))
def test_no_text_raises(text: str) -> None:
    key = textual_key(text) if text else None
    assert key is None or textual_key(shown_key(key)) == key


def test_a_file_changes_keys_and_the_report_says_who_lost_one() -> None:
    changed, problems = keymap_from({"keys": {"fork": "x", "help": ["?", "f1"], "zoom": []}}, "k")
    assert problems == []
    assert [changed.action_for(key).name for key in ("x", "f1")] == ["fork", "help"]  # pyright: ignore[reportOptionalMemberAccess]
    assert changed.action_for("f") is None
    assert changed.action_for("z") is None
    assert changed.moved() == ["x does fork, no longer stop: it has no key now"]
    assert ("-", "zoom one pane, and back") in changed.rows()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[keys]\nfrok = "f"', "keys.frok: there is no such action; did you mean fork?"),
        ("[keys]\nfork = 3", "keys.fork: not a key"),
        ('[keys]\nfork = "strg+f"', "keys.fork: 'strg+f' is no key"),
        ("[keys]\nfork = [1]", "keys.fork: 1 is no key"),
        ('[keys]\nfork = "ctrl+p"', "keys.fork: ctrl+p is taken by the palette"),
        ('[keys]\nfork = "y"\npause = "y"', "keys.pause: y is taken by fork; choose another key"),
        ('[kyes]\nfork = "y"', "kyes: only a table [keys] is read"),
        ("keys = 3", "keys: is not a table"),
    ],
)
def test_what_is_wrong_is_named(text: str, said: str) -> None:
    _, (problem,) = keymap_from(tomllib.loads(text), "keys.toml")
    assert str(problem).startswith(f"keys.toml: {said}")


def test_an_action_whose_keys_are_all_wrong_keeps_its_own() -> None:
    assert keymap_from({"keys": {"fork": "strg+f"}}, "k")[0].shown("fork") == "f"


def test_the_printed_file_is_the_defaults(tmp_path: Path) -> None:
    text = keymap.default_text()
    path = tmp_path / "keys.toml"
    path.write_text("\n".join(line[2:] if "= " in line else line for line in text.splitlines()))
    read, problems = keymap.read(path)
    assert problems == []
    assert read.rows() == Keymap().rows()
    assert len(read.changed) == len(ACTIONS)


SOME_KEYS = st.text(max_size=9) | st.lists(st.text(max_size=9), max_size=3)
SOME_NAMES = st.sampled_from([action.name for action in ACTIONS]) | st.text(max_size=9)


@given(st.dictionaries(SOME_NAMES, SOME_KEYS))
def test_no_key_ever_does_two_things(table: dict[str, object]) -> None:
    read, _ = keymap_from({"keys": table}, "k")
    keys = [key for action in ACTIONS for key in read.keys_of(action.name)]
    assert len(keys) == len(set(keys))
