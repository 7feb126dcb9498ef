"""Errors, log events, boot logs, paths, detach keys, the terminal's reset, the public names."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import machinen_runtime
from machinen_runtime import paths
from machinen_runtime.boot_log import boot_snapshot_path, write_boot_snapshot
from machinen_runtime.detach_keys import KEY, DetachKeys
from machinen_runtime.errors import (
    BootError,
    ErrorCode,
    ExecError,
    MachinenError,
    format_machinen_error,
    is_machinen_error,
)
from machinen_runtime.log_events import LogEvent, PhaseTimer
from machinen_runtime.terminal_io import ScreenWatch, strip_queries


def test_a_cause_that_says_the_same_is_not_said_again() -> None:
    inner = ValueError("it is paused")
    inner.__cause__ = OSError("timed out")
    error = BootError(ErrorCode.BOOT_PACK_FAILED, "it is paused")
    error.__cause__ = inner
    assert format_machinen_error(error) == (
        "(BOOT_PACK_FAILED): it is paused\n  caused by: timed out"
    )


def test_an_error_is_formatted_with_its_causes() -> None:
    root = OSError("disk full")
    middle = ValueError("")
    middle.__cause__ = root
    error = BootError(ErrorCode.BOOT_PACK_FAILED, "cannot pack")
    error.__cause__ = middle
    assert format_machinen_error(error) == (
        "(BOOT_PACK_FAILED): cannot pack\n  caused by: ValueError\n  caused by: disk full"
    )
    root.__cause__ = error
    assert format_machinen_error(error).count("\n") == 2


def test_errors_are_told_apart() -> None:
    error = ExecError(ErrorCode.EXEC_PROTOCOL, "x")
    assert is_machinen_error(error)
    assert is_machinen_error(error, ErrorCode.EXEC_PROTOCOL)
    assert not is_machinen_error(error, ErrorCode.BOOT_TIMEOUT)
    assert not is_machinen_error(OSError())
    assert not MachinenError(ErrorCode.EXEC_PROTOCOL, "x").retryable
    assert all(code.value == code.name for code in ErrorCode)


def test_phases_are_timed_in_order_and_add_up() -> None:
    events: list[LogEvent] = []
    timer = PhaseTimer("boot")
    timer.mark("second", 5)
    with pytest.raises(KeyError), timer.phase("first"):
        raise KeyError
    timer.mark("second", 2.5)
    event = timer.flush(events.append)
    assert events == [event]
    assert list(event.phases) == ["second", "first"]
    assert event.phases["second"] == 7.5
    assert event.total_ms >= event.phases["first"] >= 0
    assert (event.source, event.kind) == ("phase", "boot")
    assert timer.flush(None).phases == event.phases


def test_a_boot_log_keeps_its_tail(machinen_home: Path) -> None:
    path = boot_snapshot_path(7)
    assert path == machinen_home / "logs" / "7.boot.log"
    assert write_boot_snapshot(path, "x" * (1 << 20) + "end")
    assert path.stat().st_size == 1 << 20
    assert path.read_text().endswith("xend")
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_unwritable_boot_log_is_no_catastrophe(machinen_home: Path) -> None:
    (machinen_home / "logs").touch()
    assert not write_boot_snapshot(boot_snapshot_path(7), "x")


def test_a_failed_atomic_write_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.mkdir()
    (target / "full").touch()
    with pytest.raises(OSError, match="irectory"):
        paths.write_atomically(target, "x")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def typed(chunks: list[bytes]) -> tuple[bytes, bool]:
    """What the guest got, and whether the user left."""
    keys = DetachKeys()
    forwarded = b""
    for chunk in chunks:
        result = keys.feed(chunk)
        forwarded += result.forward
        if result.detached:
            return forwarded, True
    return forwarded + keys.flush(), False


@given(st.lists(st.sampled_from([b"a", KEY, b"\r", b"\xff"]), max_size=12).map(b"".join), st.data())
def test_two_keys_are_found_however_they_come(text: bytes, data: st.DataObject) -> None:
    chunks: list[bytes] = []
    rest = text
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        chunks.append(rest[:size])
        rest = rest[size:]
    before, pair, _ = text.partition(KEY + KEY)
    assert typed(chunks) == (before, bool(pair))


def test_a_held_key_is_given_once() -> None:
    keys = DetachKeys()
    assert keys.feed(KEY).forward == b""
    assert keys.flush() == KEY
    assert keys.flush() == b""
    assert keys.feed(KEY).detached is False


@pytest.mark.parametrize("size", [1, 3, 100])
def test_the_alternate_screen_is_left_only_if_entered(size: int) -> None:
    def watch(output: bytes) -> bool:
        watch = ScreenWatch()
        for start in range(0, len(output), size):
            watch.feed(output[start : start + size])
        assert watch.reset_sequence().startswith(b"\x1b[?1049l") is watch.alternate
        return watch.alternate

    assert not watch(b"hello \x1b[?2004h \x1b[1049h")
    assert watch(b"\x1b[?1049h vi")
    assert watch(b"\x1b[?1;1049;25h")
    assert not watch(b"\x1b[?1049h vi \x1b[?1049l$ ")
    assert watch(b"\x1b[?47h\x1b[?47l\x1b[?1047h")


def test_old_output_asks_the_terminal_nothing() -> None:
    queries = [
        *("\x1b[c", "\x1b[0c", "\x1b[>c", "\x1b[=0c", "\x1b[5n", "\x1b[6n", "\x1b[?6n", "\x1bZ"),
        *("\x1b[?2026$p", "\x1b[4$p", "\x1b[>0q", "\x1b[?u", "\x1b[14t", "\x1b[18t", "\x1b[21t"),
        *("\x1b]10;?\x07", "\x1b]4;1;?\x1b\\", "\x1b]52;c;?\x07", "\x1bP+q544e\x1b\\"),
        *("\x1bP$qm\x1b\\", "\x05"),
    ]
    shown = "a\x1b[1;31mb\x1b[2J\x1b[3;4Hc\x1b]0;title\x07\x1b[?1049h\x1b[>1u\x1b[2 q\x1b[22;0t"
    mixed = shown + "".join(f"{query}x" for query in queries)
    assert strip_queries(mixed.encode()) == (shown + "x" * len(queries)).encode()


def test_every_public_name_is_there_and_importing_them_all_is_not_needed() -> None:
    for name in machinen_runtime.__all__:
        assert getattr(machinen_runtime, name) is not None
        assert name in dir(machinen_runtime)
    unknown = "frobnicate"
    with pytest.raises(AttributeError, match=unknown):
        getattr(machinen_runtime, unknown)
    code = (
        "import sys; from machinen_runtime.boot import boot; import machinen_runtime\n"
        "assert machinen_runtime.boot is boot"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, machinen_runtime; sys.exit('anyio' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["MACHINEN_HOME", "MACHINEN_STATE_DIR", "MACHINEN_RUNTIME_DIR"])
def test_directories_move_with_their_variables(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for other in ("MACHINEN_HOME", "MACHINEN_STATE_DIR", "MACHINEN_RUNTIME_DIR"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, str(tmp_path))
    moved = {
        "MACHINEN_HOME": paths.state_root() == tmp_path / "machines",
        "MACHINEN_STATE_DIR": paths.state_root() == tmp_path,
        "MACHINEN_RUNTIME_DIR": paths.runtime_root() == tmp_path,
    }
    assert moved[name]
