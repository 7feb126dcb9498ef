"""What sandboxes did and how long it took, as a trace that Perfetto and chrome://tracing load.

Format: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU (Trace Event
Format, JSON object form). A sandbox is a process of the trace; its states, its operations with
their phases, and its commands are threads. Commands that overlap get threads of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import anyio

from machinen_runtime.monitor_client import MonitorClient
from machinen_runtime.registry_entry import RegistryEntry
from vmm.records import CommandRecord, OperationRecord, VmTrace

Event = dict[str, Any]

STATES, OPERATIONS, COMMANDS = 1, 2, 10
"""Thread ids; commands take as many from COMMANDS on as run at once."""


async def read_trace(entry: RegistryEntry) -> VmTrace:
    """What the monitor of a live VM remembers: its last 128 operations and 512 commands.

    Raises:
        BootError: VM_DIED, VM_CONTROL_FAILED.
    """
    return await MonitorClient(Path(entry.socket_path).parent).trace()


async def chrome_trace(entries: Sequence[RegistryEntry]) -> dict[str, Any]:
    """The traces of these VMs as one JSON object in Chrome's trace event format.

    Raises:
        BootError: VM_DIED, VM_CONTROL_FAILED.
    """
    traces: dict[int, VmTrace] = {}

    async def read(entry: RegistryEntry) -> None:
        traces[entry.pid] = await read_trace(entry)

    async with anyio.create_task_group() as tasks:
        for entry in entries:
            tasks.start_soon(read, entry)
    return format_trace([traces[entry.pid] for entry in entries])


def format_trace(traces: Iterable[VmTrace]) -> dict[str, Any]:
    """Traces as Chrome's JSON object; times are microseconds since 1970."""
    events = [event for trace in traces for event in _events(trace)]
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _events(trace: VmTrace) -> list[Event]:
    pid = trace.pid
    events = [_named(pid, 0, "process_name", trace.name or f"VM {pid}")]
    if trace.states:
        events.append(_named(pid, STATES, "thread_name", "state"))
        events += _state_events(trace)
    if trace.operations:
        events.append(_named(pid, OPERATIONS, "thread_name", "operations"))
        events += [event for each in trace.operations for event in _operation_events(pid, each)]
    lanes = _lanes(trace.commands)
    for number, commands in enumerate(lanes):
        tid = COMMANDS + number
        title = "commands" if number == 0 else f"commands {number + 1}"
        events.append(_named(pid, tid, "thread_name", title))
        events += [_command_event(pid, tid, each) for each in commands]
    return events


def _state_events(trace: VmTrace) -> list[Event]:
    """One span per state but the last, which has no end yet and is an instant."""
    spans = [
        _span(trace.pid, STATES, state, "state", at_us, later_us - at_us)
        for (at_us, state), (later_us, _) in zip(trace.states, trace.states[1:], strict=False)
    ]
    at_us, state = trace.states[-1]
    now = {"ph": "i", "s": "t", "name": state, "cat": "state", "ts": at_us}
    return [*spans, {**now, "pid": trace.pid, "tid": STATES}]


def _operation_events(pid: int, record: OperationRecord) -> list[Event]:
    """The operation, and in it its phases one after the other."""
    args: dict[str, Any] = {}
    if record.kind == "snapshot":
        args = {"paused_ms": record.paused_ms, "copied_bytes": record.size_bytes}
    if record.error:
        args["error"] = record.error
    spent_us = sum(record.phases.values()) * 1000
    length_us = max(record.total_ms * 1000, spent_us)
    whole = _span(pid, OPERATIONS, record.kind, "operation", record.begun_us, length_us, args)
    events, at_us = [whole], float(record.begun_us)
    for phase, elapsed_ms in record.phases.items():
        events.append(_span(pid, OPERATIONS, phase, "phase", at_us, elapsed_ms * 1000))
        at_us += elapsed_ms * 1000
    return events


def _command_event(pid: int, tid: int, record: CommandRecord) -> Event:
    args = {
        "ending": record.ending,
        "exit_code": record.exit_code,
        "first_reply_ms": record.first_reply_ms,
        "sent_bytes": record.sent_bytes,
        "received_bytes": record.received_bytes,
    }
    length_us = record.total_ms * 1000
    return _span(pid, tid, record.program, "command", record.begun_us, length_us, args)


def _lanes(commands: Sequence[CommandRecord]) -> list[list[CommandRecord]]:
    """Commands apart from those they overlap with: a thread's spans lie beside or in each other."""
    lanes: list[list[CommandRecord]] = []
    ends: list[float] = []
    for each in sorted(commands, key=lambda record: record.begun_us):
        end = each.begun_us + each.total_ms * 1000
        for number, last in enumerate(ends):
            if last <= each.begun_us:
                lanes[number].append(each)
                ends[number] = end
                break
        else:
            lanes.append([each])
            ends.append(end)
    return lanes


def _span(
    pid: int,
    tid: int,
    name: str,
    category: str,
    at_us: float,
    length_us: float,
    args: dict[str, Any] | None = None,
) -> Event:
    times = {"ts": round(at_us, 3), "dur": round(max(0.0, length_us), 3)}
    place = {"pid": pid, "tid": tid, "args": args or {}}
    return {"ph": "X", "name": name, "cat": category, **times, **place}


def _named(pid: int, tid: int, what: str, name: str) -> Event:
    return {"ph": "M", "name": what, "pid": pid, "tid": tid, "args": {"name": name}}
