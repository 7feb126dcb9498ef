"""How one file differs in two VMs: read by the guest's shell, compared calmly, shown as text."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.file_difference import (
    MAX_FILE_BYTES,
    MAX_LINES,
    READ,
    GuestFile,
    TextDifference,
    compared,
    file_difference,
    lines_of,
)
from machinen_runtime.registry_entry import RegistryEntry

A = RegistryEntry(pid=1, socket_path="/nowhere/a.sock", started_at=1, name="a")
B = RegistryEntry(pid=2, socket_path="/nowhere/b.sock", started_at=2, name="b")


def read_here(path: Path, limit: int = 100) -> bytes:
    """What the script says of a file, in this machine's shell."""
    return subprocess.run(
        ["/bin/sh", "-c", READ, "sh", str(limit)],
        input=os.fsencode(path) + b"\0",
        stdout=subprocess.PIPE,
        check=True,
    ).stdout


def differing(one: GuestFile, other: GuestFile) -> TextDifference:
    return compared(A, B, "/f", one, other)


def file(data: bytes) -> GuestFile:
    return GuestFile("f", data)


def test_the_script_tells_what_is_there_also_by_wicked_names(tmp_path: Path) -> None:
    for name in ("plain", "two words", "new\nline", "$(touch x)", "-n", "'"):
        (tmp_path / name).write_bytes(b"\0text\n")
        assert read_here(tmp_path / name) == b"f\0text\n"
    (tmp_path / "link").symlink_to("where\nto")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert read_here(tmp_path / "link") == b"lwhere\nto"
    assert read_here(tmp_path / "directory") == b"d"
    assert read_here(tmp_path / "pipe") == b"o"
    assert read_here(tmp_path / "missing") == b"n"
    assert read_here(tmp_path / "plain", 2) == b"f\0t"


def test_lines_are_shown_as_diff_has_them() -> None:
    found = differing(file(b"one\ntwo\nthree\n"), file(b"one\n2\nthree"))
    assert not found.same
    assert found.lines == [
        "--- a:/f", "+++ b:/f", "@@ -1,3 +1,4 @@", " one", "-two", "+2", " three",
        "+\\ no newline at the end",
    ]  # fmt: skip
    assert differing(file(b"x\n"), file(b"x\n")).same


def test_what_only_one_has_differs_from_nothing() -> None:
    found = differing(GuestFile("n", b""), file(b"new\n"))
    assert found.lines[2:] == ["@@ -0,0 +1 @@", "+new"]


def test_links_and_directories_are_named() -> None:
    found = differing(GuestFile("l", b"x"), GuestFile("l", b"y\x1b"))
    assert found.lines[-2:] == ["--> x", "+-> y\\x1b"]
    assert differing(GuestFile("d", b""), file(b"x")).lines[-2:] == ["-a directory", "+a file"]


def test_what_is_no_text_is_measured() -> None:
    found = differing(file(b"\0" * 10 + b"a"), file(b"\0" * 10 + b"bc"))
    assert (found.binary, found.same) == (True, False)
    assert found.lines == ["no text: 11 and 12 bytes, the first that differs is byte 11"]
    assert differing(file(b"\0"), file(b"\0")).lines == []


def test_long_files_are_cut_and_that_is_said() -> None:
    long, wide = b"x\n" * (MAX_LINES + 1), b"x" * (MAX_FILE_BYTES + 1)
    assert differing(file(long), file(b"")).cut
    assert len(lines_of(long)[0]) == MAX_LINES
    assert lines_of(wide) == (["x" * MAX_FILE_BYTES], True)
    assert not differing(file(b"x\n" * MAX_LINES), file(b"")).cut


@pytest.mark.provokes(ErrorCode.VM_CONTROL_FAILED)
@pytest.mark.parametrize("kinds", ["nn", "dd", "on", "??"])
def test_there_must_be_a_file_in_one_of_them(kinds: str) -> None:
    with pytest.raises(BootError, match="no file to compare") as caught:
        differing(*(GuestFile(kind.strip("?"), b"") for kind in kinds))
    assert caught.value.code is ErrorCode.VM_CONTROL_FAILED


@given(st.sampled_from("flodn"), st.binary(max_size=200), st.binary(max_size=200))
def test_whatever_a_guest_says_is_fit_to_be_drawn(kind: str, one: bytes, other: bytes) -> None:
    found = differing(GuestFile(kind, one), file(other))
    assert all(line.isprintable() for line in found.lines)
    assert found.same or found.lines


@pytest.mark.parametrize("path", ["relative", "", "/a\0b"])
async def test_a_path_that_is_none_is_refused_before_anybody_is_asked(path: str) -> None:
    with pytest.raises(BootError, match="whole path") as caught:
        await file_difference(A, B, path)
    assert caught.value.code is ErrorCode.VM_CONTROL_FAILED


async def test_a_vm_is_not_compared_with_itself() -> None:
    with pytest.raises(BootError, match="name two"):
        await file_difference(A, A, "/etc/hosts")
