"""Traces: what Perfetto and chrome://tracing need of an event, and that spans never cross."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from machinen_runtime.trace import COMMANDS, OPERATIONS, STATES, format_trace
from vmm.records import CommandRecord, OperationRecord, VmTrace

US = st.integers(1_700_000_000_000_000, 1_700_000_100_000_000)
MS = st.floats(0, 10_000)
COMMANDS_MADE = st.builds(
    CommandRecord,
    program=st.text(min_size=1),
    begun_us=US,
    total_ms=MS,
    first_reply_ms=st.none() | MS,
    sent_bytes=st.integers(0),
    received_bytes=st.integers(0),
    ending=st.sampled_from(["ok", "failed", "lost"]),
    exit_code=st.none() | st.integers(0, 255),
)
OPERATIONS_MADE = st.builds(
    OperationRecord,
    kind=st.sampled_from(["boot", "fork", "restore", "snapshot"]),
    begun_us=US,
    total_ms=MS,
    phases=st.dictionaries(st.text(), MS, max_size=5),
    error=st.sampled_from(["", "SNAPSHOT_FAILED"]),
)


def trace_of(**fields: Any) -> VmTrace:
    empty: dict[str, Any] = {"operations": [], "commands": [], "states": []}
    who: dict[str, Any] = {"id": "abcd", "name": "web", "pid": 7, "qemu_pid": 8, "started_at_ms": 1}
    return VmTrace(**{**who, **empty, **fields})


def events(trace: VmTrace) -> list[dict[str, Any]]:
    """The events as a browser reads them, each of a form the format knows."""
    document = json.loads(json.dumps(format_trace([trace]), allow_nan=False))
    assert document["displayTimeUnit"] == "ms"
    for event in document["traceEvents"]:
        assert event["ph"] in ("X", "M", "i")
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert isinstance(event["args"]["name"], str)
        else:
            assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
    return document["traceEvents"]


def test_a_vm_without_a_past_is_a_process_with_a_name() -> None:
    assert [each["args"]["name"] for each in events(trace_of())] == ["web"]
    assert [each["args"]["name"] for each in events(trace_of(name=None))] == ["VM 7"]


def test_phases_lie_in_their_operation_one_after_the_other() -> None:
    record = OperationRecord(
        kind="snapshot",
        begun_us=1_000_000,
        total_ms=30.0,
        phases={"stop": 10.0, "pages": 15.5},
        paused_ms=20.0,
        size_bytes=4096,
    )
    found = [each for each in events(trace_of(operations=[record])) if each["ph"] == "X"]
    whole, stop, pages = found
    assert (whole["name"], whole["ts"], whole["dur"]) == ("snapshot", 1_000_000, 30_000)
    assert whole["args"] == {"paused_ms": 20.0, "copied_bytes": 4096}
    assert (stop["name"], stop["ts"], stop["dur"]) == ("stop", 1_000_000, 10_000)
    assert (pages["name"], pages["ts"], pages["dur"]) == ("pages", 1_010_000, 15_500)


def test_states_are_spans_and_the_last_has_no_end() -> None:
    states = [(1_000, "booting"), (3_000, "running"), (9_000, "paused")]
    found = [each for each in events(trace_of(states=states)) if each["ph"] != "M"]
    assert [(each["name"], each["ph"]) for each in found] == [
        ("booting", "X"),
        ("running", "X"),
        ("paused", "i"),
    ]
    assert [each.get("dur") for each in found] == [2_000, 6_000, None]


@given(
    st.lists(OPERATIONS_MADE, max_size=5),
    st.lists(COMMANDS_MADE, max_size=20),
    st.lists(st.tuples(US, st.text()), max_size=5),
)
def test_whatever_a_monitor_remembers_is_a_trace_and_commands_never_cross(
    operations: list[OperationRecord],
    commands: list[CommandRecord],
    states: list[tuple[int, str]],
) -> None:
    found = events(trace_of(operations=operations, commands=commands, states=sorted(states)))
    spans = [each for each in found if each["ph"] == "X" and each["tid"] >= COMMANDS]
    assert len(spans) == len(commands)
    for tid in {each["tid"] for each in spans}:
        lane = sorted((each["ts"], each["dur"]) for each in spans if each["tid"] == tid)
        for (at, length), (later, _) in pairwise(lane):
            assert at + length <= later + 0.01
    named = {each["tid"] for each in found if each["name"] == "thread_name"}
    assert {each["tid"] for each in found if each["ph"] != "M"} <= named
    assert named <= {STATES, OPERATIONS} | set(range(COMMANDS, COMMANDS + 20))
