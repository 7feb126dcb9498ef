"""Crash reports on disk: bounds, what a reader makes of any bytes, and what people are shown."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from machinen_runtime.cli_group import cli
from machinen_runtime.cli_reference import SHAPES, shape_mismatches
from machinen_runtime.crashes import (
    crash_hint,
    list_crashes,
    lost_link_hint,
    prune_crashes,
    read_crash,
    remove_crash,
)
from machinen_runtime.errors import ErrorCode, RegistryError
from machinen_runtime.gc import run_gc
from machinen_runtime.registry import register
from machinen_runtime.registry_entry import RegistryEntry
from vmm.crash_report import (
    CONSOLE_CHARS,
    MAX_AGE_S,
    MAX_REPORT_BYTES,
    MAX_REPORTS,
    CrashReport,
    encoded,
    panic_in,
    report_id,
    timestamp,
    write_report,
)

NOW = 1_800_000_000.0


@pytest.fixture
def crashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MACHINEN_CRASHES_DIR", str(tmp_path / "crashes"))
    for name in ("REGISTRY", "STATE", "RUNTIME", "CACHE"):
        monkeypatch.setenv(f"MACHINEN_{name}_DIR", str(tmp_path / name))
    return tmp_path / "crashes"


def report_of(vm_id: str, at: float = NOW, **fields: Any) -> CrashReport:
    given_fields: dict[str, Any] = {
        "id": report_id(vm_id, at),
        "time": timestamp(at),
        "reason": "QEMU_DIED",
        "message": "QEMU ended unexpectedly (signal 9)",
        "vm_id": vm_id,
        "pid": 7,
        "name": "web",
        **fields,
    }
    return CrashReport(**given_fields)


def test_a_report_is_read_as_it_was_written_and_is_its_owners_alone(crashes: Path) -> None:
    report = report_of("abcd", console_tail="\x1b[31mred\n", operations=[{"kind": "boot"}])
    path = write_report(crashes, report)
    assert list_crashes() == [report]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(crashes.stat().st_mode) == 0o700
    assert b"\x1b" not in path.read_bytes()
    for wanted in (report.id, "web", "7"):
        assert read_crash(wanted) == report
    assert remove_crash("web") == report.id
    assert not list(crashes.iterdir())


@pytest.mark.provokes(ErrorCode.CRASH_NOT_FOUND)
def test_who_did_not_crash_has_no_report(crashes: Path) -> None:
    for call in (read_crash, remove_crash):
        with pytest.raises(RegistryError) as caught:
            call("../../etc/passwd")
        assert caught.value.code is ErrorCode.CRASH_NOT_FOUND


def test_only_the_last_reports_are_kept_and_old_ones_go(crashes: Path) -> None:
    for number in range(MAX_REPORTS + 5):
        write_report(crashes, report_of(f"vm{number}", NOW + number))
    assert len(list_crashes()) == MAX_REPORTS
    assert list_crashes()[0].vm_id == f"vm{MAX_REPORTS + 4}"
    (crashes / "not ours.json").write_text("{}")
    remove_crash(list_crashes()[0].id)
    write_report(crashes, report_of("old", time.time() - MAX_AGE_S - 60))
    old = prune_crashes(dry_run=True)
    assert [path.name for path in old] == [sorted(os.listdir(crashes))[0]]
    result = run_gc()
    assert [each.pid for each in result] == [0]
    assert sorted(result[0].removed_paths) == sorted(map(str, old))
    assert all(not path.exists() for path in old)
    assert (crashes / "not ours.json").exists()


@given(st.text(), st.text(), st.lists(st.text()), st.integers(0, 40))
def test_a_report_never_grows_past_its_bound(
    console: str, stderr: str, argv: list[str], times: int
) -> None:
    more = 1 << (times // 2)
    text = encoded(
        report_of(
            "abcd",
            console_tail=console * more,
            qemu_stderr=stderr * more,
            argv=argv * min(more, 64),
            events=[{"message": console[:2000]}] * 30,
            operations=[{"phases": {stderr: 1.0}}] * 5,
        )
    )
    assert len(text) <= MAX_REPORT_BYTES
    assert len(json.loads(text)["console_tail"]) <= CONSOLE_CHARS
    assert text.isascii()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)
FIELDS = [each.name for each in dataclasses.fields(CrashReport)]


@given(
    st.binary()
    | st.dictionaries(st.sampled_from(FIELDS), VALUES).map(
        lambda fields: json.dumps(fields).encode()
    )
)
def test_no_file_is_too_strange_to_be_listed(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    directory = tmp_path_factory.mktemp("crashes")
    good = report_of("good")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MACHINEN_CRASHES_DIR", str(directory))
        write_report(directory, good)
        (directory / "20260101T000000Z-bad.json").write_bytes(data)
        assert list_crashes()[:1] == [good]
        assert CliRunner().invoke(cli, ["crashes"]).exit_code == 0


@pytest.mark.parametrize(
    ("console", "panic"),
    [
        ("", None),
        ("Kernel panic - not syncing: sysrq\x1b[31m triggered\r\nmore", "sysrq?[31m triggered"),
        ("Kernel panic - not syncing: " + "a" * 999, "a" * 200),
    ],
)
def test_the_kernels_last_words_are_found_and_harmless(console: str, panic: str | None) -> None:
    assert panic_in(console) == panic


def test_what_people_see_has_no_escape_sequence_and_json_has_its_shape(crashes: Path) -> None:
    evil = "\x1b]52;c;AAAA\x07\x9b31m"
    write_report(
        crashes,
        report_of(
            "abcd",
            name=evil,
            message=evil,
            console_tail=f"one\n{evil}two\n",
            qemu_stderr=evil,
            traceback=evil,
            state="running",
            uptime_ms=1500,
            qemu_status=-9,
            operations=[{"kind": evil}],
            versions={"python": evil},
        ),
    )
    run = CliRunner().invoke
    for argv in (["crashes"], ["crashes", "ls"], ["crashes", "show", "7"]):
        result = run(cli, argv)
        assert result.exit_code == 0, result.output
        assert not {"\x1b", "\x07", "\x9b"} & set(result.output)
    shown = run(cli, ["crashes", "show", "7"]).output
    for fact in ("running after 1.5 s", "by signal 9", "console:", "two", "QEMU_DIED"):
        assert fact in shown
    for verb, argv in (("ls", []), ("show", ["7"]), ("rm", ["--all"])):
        result = run(cli, ["crashes", verb, *argv, "--json"])
        value = json.loads(result.stdout)
        assert not shape_mismatches(
            value, {"schema_version": "integer", **SHAPES[f"crashes {verb}"]}
        )
    assert run(cli, ["crashes"]).stderr == "(no crashes)\n"
    assert run(cli, ["crashes", "rm"], standalone_mode=False).exit_code == 1


def test_a_killed_monitor_is_reported_by_gc_once_and_not_if_we_ended_it(crashes: Path) -> None:
    def dead(vm_id: str) -> RegistryEntry:
        run_dir, state_dir = crashes.parent / "RUNTIME" / vm_id, crashes.parent / "STATE" / vm_id
        for directory in (run_dir, state_dir):
            directory.mkdir(parents=True)
        (state_dir / "console.log").write_bytes(b"last words\n\xff\x1b[2J")
        (state_dir / "events.jsonl").write_text(
            '{"event": "state"}\nnot json\n[1]\n{"event": "b"}\n'
        )
        return register(
            RegistryEntry(
                pid=4_000_000,
                name="web",
                socket_path=str(run_dir / "vsock.sock"),
                started_at=1.0,
                cleanup_paths=(str(run_dir), str(state_dir)),
                process_identity="gone",
            )
        )

    dead("aaaa")
    run_gc(dry_run=True)
    run_gc(pid=4_000_000)
    assert list_crashes() == []
    entry = dead("bbbb")
    run_gc()
    run_gc()
    (report,) = list_crashes()
    assert (report.reason, report.name, report.vm_id) == ("MONITOR_KILLED", "web", "bbbb")
    assert report.console_tail.startswith("last words\n")
    assert report.events == [{"event": "state"}, {"event": "b"}]
    assert report.id in crash_hint(Path(entry.socket_path).parent)


def test_who_lost_a_stream_waits_for_the_monitors_end_and_hears_of_the_report(
    crashes: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "r" / "abcd"
    run_dir.mkdir(parents=True)
    assert lost_link_hint(run_dir / "vsock.sock") == ""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.bind(str(run_dir / "control.sock"))
        monitor.listen()
        report = report_of("abcd")
        write_report(crashes, report)
    assert report.id in lost_link_hint(run_dir / "vsock.sock")
