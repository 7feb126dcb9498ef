"""A log's bytes as lines that are safe to draw."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machinen_runtime.errors import RegistryError
from machinen_runtime.registry_entry import RegistryEntry
from machinen_tui.console_tail import open_console
from machinen_tui.log_lines import MAX_LINE_CHARS, MAX_LINES, LogLines, spans_of


def fed(*pieces: bytes) -> LogLines:
    lines = LogLines()
    for piece in pieces:
        lines.feed(piece)
    return lines


def test_lines_come_whole_however_the_bytes_are_cut() -> None:
    text = "eins\nzwölf\nmore".encode()
    for cut in range(len(text)):
        assert fed(text[:cut], text[cut:]).shown() == ["eins", "zwölf", "more"]


def test_nothing_of_an_escape_sequence_is_drawn() -> None:
    raw = b"\x1b[1;31mred\x1b[0m \x1b]52;c;aGVsbG8=\x07plain\x1b]0;title\x1b\\\x1b(B\x07\n"
    assert fed(raw).shown() == ["red plain"]
    assert fed(b"half \x1b[1;3").shown() == ["half "]


def test_a_line_rewritten_shows_its_last_state() -> None:
    assert fed(b"10%\r20%\r30%\r\nend\r\n").shown() == ["30%", "end"]


def test_a_filter_takes_any_case_and_what_comes_later_too() -> None:
    lines = fed(b"Alpha\nbeta\n")
    lines.filter("ALPHA")
    lines.feed(b"alphabet\ngamma\nlast alp")
    lines.feed(b"ha")
    assert lines.shown() == ["Alpha", "alphabet", "last alpha"]
    assert lines.total == 5
    lines.filter("")
    assert len(lines.shown()) == 5


def test_a_flood_is_bounded() -> None:
    lines = fed(b"x" * 100_000)
    assert all(len(line) <= MAX_LINE_CHARS for line in lines.shown())
    lines.feed(b"\n".join([b"y"] * (MAX_LINES + 100)))
    assert len(lines.shown()) <= MAX_LINES + 1


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_whatever_a_guest_writes_is_printable(pieces: list[bytes]) -> None:
    for line in fed(*pieces).shown():
        assert line == "" or line.isprintable()


@given(st.text(max_size=30), st.text(min_size=1, max_size=3))
def test_marks_stand_where_the_text_is(line: str, needle: str) -> None:
    for start, end in spans_of(line, needle.casefold()):
        assert line[start:end].casefold() == needle.casefold()


def console_entry(directory: Path, boot_log: Path | None = None) -> RegistryEntry:
    return RegistryEntry(
        pid=7, socket_path="", started_at=1, name="web",
        cleanup_paths=("/run", str(directory)), boot_log_path=str(boot_log) if boot_log else None,
    )  # fmt: skip


def test_a_console_is_followed_over_its_rotation(tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    (tmp_path / "console.log.1").write_bytes(b"old\n")
    log.write_bytes(b"one\n")
    tail = open_console(console_entry(tmp_path))
    assert tail.read() == b"old\none\n"
    assert tail.read() == b""
    with log.open("ab") as file:
        file.write(b"two\n")
    log.rename(tmp_path / "console.log.1")
    log.write_bytes(b"three\n")
    assert tail.read() == b"two\nthree\n"
    log.unlink()
    assert tail.read() == b""
    tail.close()


def test_of_an_ended_sandbox_the_boot_log_is_left_or_a_sentence(tmp_path: Path) -> None:
    boot_log = tmp_path / "7.boot.log"
    with pytest.raises(RegistryError, match="left no log"):
        open_console(console_entry(tmp_path / "gone", boot_log))
    boot_log.write_bytes(b"booted\n")
    tail = open_console(console_entry(tmp_path / "gone", boot_log))
    assert tail.read() == b"booted\n"
    assert "boot" in tail.title
    tail.close()
