"""Comparing two VMs: what guests say is parsed calmly, and what differs is found."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinen_runtime import guest_survey as survey
from machinen_runtime.compare import (
    MAX_READ_BYTES,
    compare,
    compared_files,
    compared_processes,
    compared_variables,
)
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.guest_survey import FileFacts, ProcessFacts
from machinen_runtime.registry_entry import RegistryEntry


def run(script: str, *arguments: str, stdin: bytes = b"") -> bytes:
    """A script as a guest would run it: here."""
    return subprocess.run(
        ["/bin/sh", "-c", script, "sh", *arguments], input=stdin, stdout=subprocess.PIPE, check=True
    ).stdout


def facts(**changes: object) -> FileFacts:
    values: dict[str, object] = {"kind": "f", "size_bytes": 3, "mode": "644", "owner": "0:0",
                                 "modified_at": 1.0, **changes}  # fmt: skip
    return FileFacts(**values)  # pyright: ignore[reportArgumentType]


def process(pid: int, command: str = "sh", started: int = 1) -> ProcessFacts:
    return ProcessFacts(pid=pid, parent_pid=1, state="S", started_ticks=started, rss_bytes=0,
                        name=command.split()[0], command=command)  # fmt: skip


# -- the scripts, against the tools of this machine -----------------------------------------------


def test_the_scripts_and_their_parsers_agree_also_on_wicked_names(tmp_path: Path) -> None:
    names = ["plain", "two words", "new\nline", "tab\t", "\x1b[31mred", "-rf", "ü"]
    for name in names:
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("plain")
    (tmp_path / "dir").mkdir()
    asked = [os.fsencode(tmp_path / name) for name in (*names, "link", "dir", "missing")]
    listed = b"".join(name + b"\0" for name in asked)
    found = survey.parsed_facts(run(survey.FACTS, stdin=listed))
    assert set(found) == set(asked[:-1])
    one = found[os.fsencode(tmp_path / "new\nline")]
    assert (one.kind, one.size_bytes, one.owner) == ("f", 8, f"{os.getuid()}:{os.getgid()}")
    assert abs(one.modified_at - time.time()) < 60
    assert found[os.fsencode(tmp_path / "link")].target == "plain"
    sums = survey.parsed_sums(run(survey.SUMS, stdin=listed))
    assert set(asked[: len(names)]) <= set(sums)
    assert len(sums[asked[0]]) == 64


def test_this_machines_processes_are_read_without_kernel_threads() -> None:
    found = survey.parsed_processes(run(survey.PROCESSES))
    ours = next(each for each in found if each.pid == os.getpid())
    assert ours.parent_pid == os.getppid()
    assert "python" in ours.command
    assert ours.rss_bytes > 1 << 20
    assert not [each for each in found if 2 in (each.pid, each.parent_pid)]


# -- hostile answers ------------------------------------------------------------------------------


@given(data=st.binary(max_size=300))
def test_whatever_a_guest_says_is_parsed_and_printable(data: bytes) -> None:
    texts = list(survey.parsed_environment(data).items())
    for each in survey.parsed_processes(data):
        texts.append((each.name, each.command))
    for name, found in survey.parsed_facts(data).items():
        texts.append((survey.printable(name), found.target))
    survey.parsed_names(data)
    survey.parsed_sums(data)
    assert all(text.isprintable() for pair in texts for text in pair)


@given(number=st.text(max_size=30))
def test_numbers_of_a_guest_never_raise(number: str) -> None:
    line = f"f {number} 644 {number} 0 {number}".encode("utf-8", "replace")
    survey.parsed_facts(line + b"\0\0/x\0")
    survey.parsed_processes(f"{number} 1 S {number} {number}".encode() + b"\0a\0b\0")


def test_terminal_sequences_and_bidi_controls_are_spelled_out() -> None:
    assert survey.printable(b"\x1b]0;x\x07\xff") == "\\x1b]0;x\\x07\\xff"
    assert survey.printable("a\u202eb".encode()) == "a\\u202eb"


async def test_a_guest_that_never_stops_talking_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def flood(path: str, cmd: object, options: survey.VsockExecOptions) -> None:
        assert options.on_stdout is not None
        while True:
            options.on_stdout(b"x" * 65536)
            await anyio.lowlevel.checkpoint()

    monkeypatch.setattr(survey.VsockExec, "run", flood)
    monkeypatch.setattr(survey, "MAX_ANSWER_BYTES", 1 << 20)
    answer = await survey.ask("/nowhere", "yes")
    assert (len(answer.data), answer.is_cut) == (1 << 20, True)


# -- what differs ---------------------------------------------------------------------------------


def test_files_differ_by_kind_contents_mode_owner_and_target() -> None:
    a = {
        b"/same": facts(), b"/gone": facts(), b"/text": facts(), b"/mode": facts(mode="600"),
        b"/link": facts(kind="l", target="x"), b"/kind": facts(),
        b"/dir": facts(kind="d", modified_at=5.0),
        b"/huge": facts(size_bytes=MAX_READ_BYTES + 1),
    }  # fmt: skip
    b = {
        b"/same": facts(modified_at=9.0), b"/new": facts(), b"/text": facts(),
        b"/mode": facts(owner="1:1"), b"/link": facts(kind="l", target="y"),
        b"/kind": facts(kind="d"), b"/dir": facts(kind="d", modified_at=6.0),
        b"/huge": facts(size_bytes=MAX_READ_BYTES + 1, modified_at=2.0),
    }  # fmt: skip
    names = sorted({*a, *b, b"/was\x1bhere"})
    found = compared_files(names, a, b, {b"/text": "1"}, {b"/text": "2"})
    assert {each.path: each.what for each in found} == {
        "/gone": "only in a", "/new": "only in b", "/text": "contents", "/mode": "mode, owner",
        "/link": "target", "/kind": "kind", "/huge": "perhaps contents, too large to read",
    }  # fmt: skip


def test_processes_are_the_same_if_they_began_together_and_run_the_same() -> None:
    a = [process(1), process(5, "vi x"), process(6, "old"), process(7, started=3)]
    b = [process(1), process(6, "new"), process(7, started=4)]
    found, same = compared_processes(a, b)
    assert same == 1
    assert [(d.a and d.a.command, d.b and d.b.command) for d in found] == [
        ("vi x", None), ("old", "new"), ("sh", None), (None, "sh"),
    ]  # fmt: skip


def test_variables_differ_by_value_and_by_being_set() -> None:
    found, same = compared_variables({"A": "1", "B": "", "C": "x"}, {"A": "1", "C": "y"})
    assert same == 1
    assert [(each.name, each.a, each.b) for each in found] == [("B", "", None), ("C", "x", "y")]


async def test_a_vm_is_not_compared_with_itself() -> None:
    entry = RegistryEntry(pid=1, socket_path="/nowhere/vsock.sock", started_at=1)
    with pytest.raises(BootError) as caught:
        await compare(entry, entry)
    assert caught.value.code is ErrorCode.VM_CONTROL_FAILED
