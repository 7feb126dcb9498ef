"""What `machinen` says about itself: help, manual, `agent-context`, the shapes of its JSON."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import click
import pytest

from machinen_runtime.cli_context import commands, describe_all, options_of
from machinen_runtime.cli_group import ALIASES, SECTIONS, VERBS
from machinen_runtime.cli_manual import manual
from machinen_runtime.cli_reference import SHAPES, VARIABLES, shape_mismatches
from machinen_runtime.cli_support import Verb

ROOT = Path(__file__).parents[2]


def test_every_verb_is_in_one_section_of_the_help() -> None:
    assert sorted(verb for verbs in SECTIONS.values() for verb in verbs) == sorted(VERBS)


def test_every_verb_refuses_an_option_given_twice() -> None:
    for name, command in commands():
        assert isinstance(command, Verb), name


def test_the_description_names_every_verb_option_and_json_output() -> None:
    described = describe_all()
    assert json.loads(json.dumps(described)) == described
    by_name = {each["name"]: each for each in described["commands"]}
    assert {name.partition(" ")[0] for name in by_name} == set(VERBS)
    assert described["aliases"] == ALIASES
    for name, command in commands():
        known = {flag for option in by_name[name]["options"] for flag in option["names"]}
        assert known == {flag for option in options_of(command) for flag in option.opts}
        prints_json = "--json" in known or name == "inspect"
        assert ("json_output" in by_name[name]) == prints_json, f"{name}: SHAPES and --json differ"
    boot = {option["names"][-1]: option for option in by_name["boot"]["options"]}
    assert boot["--memory"]["type"] == "integer"
    assert by_name["stats"]["options"][1]["type"] == {
        "type": "number",
        "minimum": 0.25,
        "maximum": 86400,
    }
    assert set(SHAPES) <= set(by_name)


def test_the_manual_page_is_what_the_verbs_say() -> None:
    page = (ROOT / "docs" / "machinen.1").read_text(encoding="utf-8")
    assert page == manual(), "run: python -m machinen_runtime.cli_manual > docs/machinen.1"
    for name, _ in commands():
        assert f"\n.SS {name.replace('-', chr(92) + '-')}\n" in page


def test_groff_has_no_complaint_about_the_manual_page() -> None:
    argv = ["man", "--warnings=all", "-E", "UTF-8", "-l", "-Tutf8", str(ROOT / "docs/machinen.1")]
    done = subprocess.run(argv, capture_output=True, env={**os.environ, "MANWIDTH": "100"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"machinen boot" in done.stdout


def test_every_variable_we_read_is_described() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in VARIABLES if f"`{name}`" not in readme] == []


@pytest.mark.parametrize(
    ("value", "shape", "wrong"),
    [
        ({"a": 1}, {"a": "integer"}, []),
        ({"a": True}, {"a": "integer"}, ["$.a: no integer: True"]),
        ({}, {"a": "null"}, ["$.a: missing"]),
        ({"b": 1}, {}, ["$.b: unknown"]),
        ([{"x": None}], [{"x": "string|null"}], []),
        ([{"x": 1}], [{"x": "string|null"}], ["$[0].x: no string|null: 1"]),
        (3, ["string"], ["$: no array"]),
        (3, {"a": "string"}, ["$: no object"]),
    ],
)
def test_shapes_tell_what_differs(value: object, shape: object, wrong: list[str]) -> None:
    assert shape_mismatches(value, shape) == wrong


def test_click_still_tells_what_was_given_twice() -> None:
    """`Verb` relies on the parser's list of what was given, in order."""
    command = click.Command("x", params=[click.Option(["--a"]), click.Option(["--b"])])
    parser = command.make_parser(click.Context(command))
    _, _, order = parser.parse_args(["--a", "1", "--b", "2", "--a", "3"])
    assert [param.name for param in order] == ["a", "b", "a"]
