"""The command line's words."""

from __future__ import annotations

from typing import Any, cast

import pytest

from machinen_runtime.registry_entry import RegistryEntry
from machinen_tui.commands import CommandError, completions, run_line
from machinen_tui.roster import Roster


class Recorder:
    """A target that writes down what it was asked to do."""

    def __init__(self) -> None:
        self.roster = Roster()
        entries = [
            RegistryEntry(pid=n, socket_path="", started_at=n, name=name)
            for n, name in ((1, "alpha"), (2, "beta"))
        ]
        self.roster.update(entries)
        self.done: list[tuple[Any, ...]] = []

    def find(self, name: str | None) -> Any:
        return self.roster.by_name(name) if name else self.roster.by_name("alpha")

    def find_snapshot(self, name: str) -> Any:
        return "snapshot" if name == "alpha-1" else None

    def __getattr__(self, verb: str) -> Any:
        def record(*arguments: Any) -> None:
            self.done.append((verb, *(getattr(each, "name", each) for each in arguments)))

        return record


@pytest.mark.parametrize(
    ("line", "done"),
    [
        ("/attach beta", ("attach_to", "beta")),
        ("attach", ("attach_to", "alpha")),
        ("/fork beta 3 twin", ("fork", "beta", 3, "twin")),
        ("/fork 2", ("fork", "alpha", 2, "")),
        ("/fork", ("fork", "alpha", 1, "")),
        ("/snap", ("snapshot", "alpha")),
        ("/restore", ("choose_snapshot",)),
        ("/restore alpha-1 again", ("restore", "snapshot", "again")),
        ("/new box sleep 5", ("new", "box", "sleep 5")),
        ("/stop beta", ("ask_to_stop", "beta")),
        ("/q", ("leave",)),
        ("/rename", ("rename",)),
        ("/rename new", ("rename_to", "alpha", "new")),
        ("/rename beta new", ("rename_to", "beta", "new")),
        ("/port beta 8080:80", ("open_port", "beta", "8080:80")),
        ("/port :80", ("open_port", "alpha", ":80")),
        ("/port beta", ("ports",)),
        ("/logs beta", ("logs",)),
        ("//logs beta", ("logs",)),
        ("/boot", ("new_dialog",)),
    ],
)
def test_a_line_does_one_thing(line: str, done: tuple[Any, ...]) -> None:
    recorder = Recorder()
    run_line(cast("Any", recorder), line)
    assert [each for each in recorder.done if each[0] != "select"] == [done]


@pytest.mark.parametrize(
    "line",
    [
        "/nothing",
        "/s",
        "/attach nobody",
        "/restore nothing",
        "/fork 0",
        "/port nobody",
        "/rename a b c",
        "/logs beta x",
    ],
)
def test_a_line_that_cannot_be_carried_out_says_why(line: str) -> None:
    recorder = Recorder()
    with pytest.raises(CommandError):
        run_line(cast("Any", recorder), line)
    assert recorder.done == []


def test_completion_of_words_and_names() -> None:
    roster = Recorder().roster
    assert completions("/at", roster) == ["/attach"]
    assert completions("/fork ", roster) == ["/fork alpha", "/fork beta"]
    assert completions("/fork b", roster) == ["/fork beta"]
    assert completions("//fork b", roster) == ["//fork beta"]
    assert completions("/zoom x", roster) == []
    assert completions("/nothing x", roster) == []
