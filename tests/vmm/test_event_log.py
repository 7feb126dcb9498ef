"""The monitor's own log: whole lines within a cap, whatever a guest has said."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from machinen_runtime.cli_reference import SHAPES, shape_mismatches
from vmm.crash_report import MAX_TEXT_CHARS, RECENT_EVENTS
from vmm.event_log import EventLog


@given(st.lists(st.text(), max_size=20))
def test_every_line_is_an_object_of_printable_ascii(
    tmp_path_factory: object, texts: list[str]
) -> None:
    path = Path(tmp_path_factory.mktemp("log"), "events.jsonl")  # pyright: ignore
    with closing(EventLog(path, "abcd", lambda: "web")) as log:
        for text in texts:
            log.write("note", text, level="warning", guest=text[:10])
    lines = path.read_bytes().splitlines()
    assert [json.loads(line)["message"] for line in lines] == texts
    assert all(line.isascii() and line.decode().isprintable() for line in lines)
    for line in lines:
        shape = {"schema_version": "integer", **SHAPES["logs"]}
        assert not shape_mismatches(json.loads(line), shape)


def test_the_log_rotates_between_lines_and_stays_below_two_caps(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with closing(EventLog(path, "abcd", lambda: None, cap_bytes=2000)) as log:
        for number in range(100):
            log.write("note", f"line {number} \x1b[31m" + "x" * (number * 50))
        assert len(log.recent) == RECENT_EVENTS
        assert len(log.recent[-1]["message"]) == MAX_TEXT_CHARS
    newest, before = path.read_bytes(), (tmp_path / "events.jsonl.1").read_bytes()
    for part in (newest, before):
        assert all(json.loads(line)["event"] == "note" for line in part.splitlines())
    assert len(newest) < 4000
    assert {each.name for each in tmp_path.iterdir()} == {"events.jsonl", "events.jsonl.1"}


def test_a_full_disk_loses_lines_and_harms_nobody(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.symlink_to("/dev/full")
    with closing(EventLog(path, "abcd", lambda: "web")) as log:
        log.write("note", "lost")
        assert log.recent[-1]["message"] == "lost"
