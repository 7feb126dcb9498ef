"""How two sandboxes differ, as rows of a sign and a text. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from machinen_tui.figures import mib

if TYPE_CHECKING:
    from machinen_runtime.compare import FileDifference, VmDifference
    from machinen_runtime.file_difference import TextDifference
    from machinen_runtime.guest_survey import FileFacts, ProcessFacts

ONLY_A, ONLY_B, BOTH, SAID = "<", ">", "!", " "
"""What a row is about: the left one, the right one, both, neither."""
SECTIONS = ("screens", "files", "processes", "environment", "memory")


@dataclass(frozen=True, slots=True)
class Difference:
    """One row."""

    sign: str
    text: str


def titles(found: VmDifference | None) -> list[str]:
    """What stands in the row of sections: how many differ."""
    if found is None:
        return list(SECTIONS)
    counts = (None, len(found.files), len(found.processes), len(found.environment), None)
    return [name if count is None else f"{name} ({count})"
            for name, count in zip(SECTIONS, counts, strict=True)]  # fmt: skip


def rows_of(found: VmDifference, section: str) -> list[Difference]:
    """The rows of a section."""
    match section:
        case "files":
            return list(_file_rows(found))
        case "processes":
            return list(_process_rows(found))
        case "environment":
            return list(_variable_rows(found))
        case _:
            return list(_memory_rows(found))


def text_of(found: TextDifference) -> str:
    """How one file differs, to read."""
    said = [] if found.lines else ["the contents are the same"]
    if found.cut:
        said.append("(only the beginnings were compared: they are very long)")
    return "\n".join([*found.lines, *said])


def since(found: VmDifference) -> str:
    """Until when they were one."""
    if found.parted_at_ms is None:
        return "not related"
    at = time.strftime("%d %b %H:%M:%S", time.localtime(found.parted_at_ms / 1000))
    return f"both were one until {at}"


def _file_rows(found: VmDifference) -> Iterator[Difference]:
    if found.files_problem:
        yield Difference(SAID, found.files_problem)
    elif not found.files:
        yield Difference(SAID, "no file differs")
    for each in found.files:
        sign = {"only in a": ONLY_A, "only in b": ONLY_B}.get(each.what, BOTH)
        yield Difference(sign, f"{each.path}  {_facts(each)}")


def _facts(each: FileDifference) -> str:
    if each.a is None or each.b is None:
        facts = each.a or each.b
        return _size(facts) if facts is not None else ""
    if "contents" in each.what:
        return f"({each.what}: {_size(each.a)} · {_size(each.b)})"
    return f"({each.what})"


def _size(facts: FileFacts) -> str:
    if facts.kind == "d":
        return "directory"
    if facts.kind == "l":
        return f"→ {facts.target}"
    return f"{facts.size_bytes} bytes" if facts.size_bytes < 4096 else mib(facts.size_bytes)


def _process_rows(found: VmDifference) -> Iterator[Difference]:
    yield Difference(SAID, f"{found.same_processes} run in both")
    for each in found.processes:
        if each.a is not None:
            yield Difference(ONLY_A if each.b is None else BOTH, _process(each.a))
        if each.b is not None:
            yield Difference(ONLY_B if each.a is None else BOTH, _process(each.b))


def _process(facts: ProcessFacts) -> str:
    return f"{facts.pid:>6} {facts.state} {mib(facts.rss_bytes):>6}  {facts.command or facts.name}"


def _variable_rows(found: VmDifference) -> Iterator[Difference]:
    yield Difference(SAID, f"{found.same_variables} are the same, as the login shell was started")
    for each in found.environment:
        if each.a is not None:
            yield Difference(ONLY_A, f"{each.name}={each.a}")
        if each.b is not None:
            yield Difference(ONLY_B, f"{each.name}={each.b}")


def _memory_rows(found: VmDifference) -> Iterator[Difference]:
    for sign, memory in ((ONLY_A, found.memory_a), (ONLY_B, found.memory_b)):
        pages = f"{memory.private_pages} pages"
        yield Difference(sign, f"{mib(memory.private_bytes)} its own ({pages}): changed, or nobody "
                               "else's")  # fmt: skip
        yield Difference(sign, f"{mib(memory.shared_bytes)} still shared with its family")
        given = mib(memory.balloon_bytes)
        yield Difference(sign, f"{mib(memory.rss_bytes)} in all · {given} given back")
