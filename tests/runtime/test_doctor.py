"""`machinen doctor`: each thing it can find wrong, and what it says to do."""

from __future__ import annotations

import io
import json
import os
import resource
from pathlib import Path

import pytest
from rich.console import Console

from machinen_runtime import doctor_confinement, doctor_memory, doctor_tools
from machinen_runtime.doctor import doctor_json, print_doctor, run_doctor, sandboxes_can_run
from machinen_runtime.doctor_assets import check_assets
from machinen_runtime.doctor_check import Check
from machinen_runtime.doctor_host import (
    check_directory,
    check_disk,
    check_memory,
    check_open_files,
    check_shared_memory,
    check_socket_path,
)
from machinen_runtime.doctor_tools import check_tools, version_of
from machinen_runtime.install import install_lock

OK = Check(name="qemu", status="ok", found="10.0", needed_for="x", path="/q", version="10.0")
WARNING = Check(name="accelerator", status="warning", found="TCG", needed_for="x", fix="use KVM")
FAILED = Check(name="kernel", status="failed", found="missing", needed_for="x", fix="install it")


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def write_tool(directory: Path, name: str, output: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\necho '{output}'\n")
    (directory / name).chmod(0o755)


@pytest.fixture
def tools(machinen_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing in it but what a test puts there."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", str(directory))
    for variable in ("MACHINEN_QEMU", "MACHINEN_PASST", "MACHINEN_ACCEL", "MACHINEN_MKSQUASHFS"):
        monkeypatch.delenv(variable, raising=False)
    return directory


def test_only_a_failed_check_keeps_sandboxes_from_running() -> None:
    assert sandboxes_can_run([OK, WARNING])
    assert not sandboxes_can_run([OK, FAILED, WARNING])


def test_json_carries_every_check_and_the_verdict() -> None:
    answer = json.loads(json.dumps(doctor_json([OK, FAILED])))
    assert answer["schema_version"] == 1
    assert answer["ok"] is False
    assert answer["checks"][0] == {
        "name": "qemu", "status": "ok", "found": "10.0", "needed_for": "x", "fix": None,
        "path": "/q", "version": "10.0",
    }  # fmt: skip


def test_people_see_marks_fixes_and_the_verdict_last() -> None:
    output = io.StringIO()
    print_doctor([OK, WARNING, FAILED], Console(file=output, width=100))
    lines = output.getvalue().splitlines()
    assert lines[0].startswith("✓")
    assert "accelerator: use KVM" in lines
    assert "kernel: install it" in lines
    assert lines[-1] == "Sandboxes cannot run."


def test_a_missing_qemu_fails_and_names_the_package(tools: Path) -> None:
    check = by_name(check_tools())["qemu"]
    assert check.status == "failed"
    assert "qemu-system" in check.found
    assert check.fix is not None


def test_an_old_qemu_fails_and_a_new_one_shows_its_version(tools: Path) -> None:
    name = doctor_tools.host_arch().qemu_binary
    write_tool(tools, name, "QEMU emulator version 7.2.13 (Debian 1:7.2)")
    old = by_name(check_tools())["qemu"]
    assert old.status == "failed"
    assert "7.2" in old.found
    write_tool(tools, name, "QEMU emulator version 9.1.0 (somebody)")
    new = by_name(check_tools())["qemu"]
    assert (new.status, new.version, new.path) == ("ok", "9.1.0", str(tools / name))


def test_missing_tools_fail_or_warn_by_what_they_are_for(tools: Path) -> None:
    checks = by_name(check_tools())
    assert checks["qemu-img"].status == "failed"
    assert checks["passt"].status == "warning"
    assert checks["passt"].fix == "install the package passt"


def test_a_variable_that_names_no_program_is_said_so(
    tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MACHINEN_PASST", "/nonexistent/passt")
    check = by_name(check_tools())["passt"]
    assert check.status == "warning"
    assert check.fix == "unset MACHINEN_PASST"


def test_a_bad_accelerator_override_fails(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACHINEN_ACCEL", "hvf")
    check = by_name(check_tools())["accelerator"]
    assert check.status == "failed"
    assert check.fix == "unset MACHINEN_ACCEL"


def test_the_accelerator_shows_its_reason(tools: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACHINEN_ACCEL", "kvm")
    assert by_name(check_tools())["accelerator"].found == "KVM: MACHINEN_ACCEL=kvm"


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("zstd command line interface 64-bits v1.5.4, by Yann Collet", "1.5.4"),
        ("passt 0.0~git20230309.7c7625d-1", "0.0~git20230309.7c7625d"),
        ("passt 2024_05_23.765eb0b", "2024_05_23.765eb0b"),
        ("tar (GNU tar) 1.34", "1.34"),
        ("passt unknown version\nCopyright 3.0", None),
    ],
)
def test_versions_are_found_in_the_first_line(
    tmp_path: Path, output: str, expected: str | None
) -> None:
    write_tool(tmp_path / "bin", "tool", output)
    assert version_of([str(tmp_path / "bin/tool"), "--version"]) == expected


def test_a_home_without_a_base_fails_with_the_command_to_run(
    machinen_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MACHINEN_ASSETS_DIR", raising=False)
    checks = by_name(check_assets())
    for name in ("kernel", "kernel modules", "base disk", "base root"):
        assert checks[name].status == "failed"
        assert checks[name].fix == "run `machinen install`"


def test_an_install_at_work_is_seen(machinen_home: Path) -> None:
    from machinen_runtime.assets import default_base_dir

    base_dir = default_base_dir()
    base_dir.mkdir(parents=True)
    with install_lock(base_dir):
        check = by_name(check_assets())["install"]
        assert check.status == "warning"
        assert str(os.getpid()) in check.found
    assert "incomplete" in by_name(check_assets())["install"].found


def test_a_directory_that_will_be_made_is_fine(tmp_path: Path) -> None:
    check = check_directory("registry", tmp_path / "not" / "yet")
    assert check.status == "ok"
    assert not (tmp_path / "not").exists(), "doctor changes nothing"


def test_a_file_where_a_directory_should_be_fails(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert check_directory("registry", tmp_path / "file").status == "failed"


def test_a_directory_that_others_may_write_to_fails(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    check = check_directory("registry", shared)
    assert check.status == "failed"
    assert check.fix == f"chmod go-w {shared}"


def test_a_directory_of_somebody_else_fails(tmp_path: Path) -> None:
    theirs = Path("/")
    if os.geteuid() == 0:
        theirs = tmp_path / "theirs"
        theirs.mkdir()
        os.chown(theirs, 1234, 1234)
    check = check_directory("registry", theirs)
    assert check.status == "failed"
    assert f"user id {theirs.stat().st_uid}" in check.found


def test_a_runtime_directory_with_a_long_path_fails(tmp_path: Path) -> None:
    assert check_socket_path(Path("/tmp/machinen-0")).status == "ok"
    check = check_socket_path(tmp_path / ("x" * 90))
    assert check.status == "failed"
    assert check.fix is not None
    assert "MACHINEN_RUNTIME_DIR" in check.fix


@pytest.mark.parametrize(("mib", "status"), [(100, "failed"), (700, "warning"), (4096, "ok")])
def test_memory_is_judged_by_what_a_guest_wants(mib: int, status: str) -> None:
    assert check_memory(mib << 20).status == status


@pytest.mark.parametrize(
    ("limit", "status"),
    [(64, "failed"), (512, "warning"), (1024, "ok"), (resource.RLIM_INFINITY, "ok")],
)
def test_open_files_are_judged(limit: int, status: str) -> None:
    assert check_open_files(limit).status == status


def test_missing_shared_memory_is_a_warning(tmp_path: Path) -> None:
    assert check_shared_memory(tmp_path / "shm").status == "warning"


def test_free_disk_is_measured_where_the_state_will_be(tmp_path: Path) -> None:
    check = check_disk(tmp_path / "not" / "yet")
    assert check.found.endswith("GiB")


def test_the_doctor_looks_at_everything_and_changes_nothing(
    machinen_home: Path, tmp_path: Path
) -> None:
    names = {check.name for check in run_doctor()}
    assert {"qemu", "accelerator", "kernel", "base disk", "guest agent", "free disk"} <= names
    assert {"registry", "runtime directory", "socket paths", "leftovers", "open files"} <= names
    assert not (machinen_home / "vms").exists()
    assert not (machinen_home / "run").exists()


def test_the_kernels_share_in_confinement_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MACHINEN_CONFINE", raising=False)
    monkeypatch.setattr(doctor_confinement, "landlock_abi", lambda: 7)
    whole = doctor_confinement.check_confinement()
    assert (whole.status, whole.fix) == ("ok", None)
    monkeypatch.setattr(doctor_confinement, "landlock_abi", lambda: 0)
    older = doctor_confinement.check_confinement()
    assert older.status == "warning"
    assert "all files" in older.found
    assert older.fix is not None
    assert "which files QEMU sees" in older.fix
    assert "which files tar, mke2fs and other tools see" in older.fix


def test_whether_copies_give_memory_back_is_shown_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MACHINEN_GIVE_BACK", raising=False)
    shim = tmp_path / "shim.so"
    monkeypatch.setattr(doctor_memory, "resolve_qemu_binary", lambda: os.path.realpath("/bin/cat"))
    monkeypatch.setattr(doctor_memory, "shim_path", lambda: shim)
    missing = doctor_memory.check_given_back()
    assert missing.status == "warning"
    assert "make setup" in (missing.fix or "")
    shim.touch()
    assert (doctor_memory.check_given_back().status, doctor_memory.check_given_back().fix) == (
        "ok",
        None,
    )
    write_tool(tmp_path / "bin", "qemu", "a script")
    monkeypatch.setattr(doctor_memory, "resolve_qemu_binary", lambda: str(tmp_path / "bin/qemu"))
    assert "script" in (doctor_memory.check_given_back().fix or "")


@pytest.mark.parametrize(("word", "status"), [("off", "warning"), ("maybe", "failed")])
def test_giving_back_that_is_off_or_misspelt_is_shown(
    monkeypatch: pytest.MonkeyPatch, word: str, status: str
) -> None:
    monkeypatch.setenv("MACHINEN_GIVE_BACK", word)
    check = doctor_memory.check_given_back()
    assert (check.status, check.fix) == (status, "unset MACHINEN_GIVE_BACK")


@pytest.mark.parametrize(("word", "status"), [("off", "warning"), ("maybe", "failed")])
def test_confinement_that_is_off_or_misspelt_is_shown(
    monkeypatch: pytest.MonkeyPatch, word: str, status: str
) -> None:
    monkeypatch.setenv("MACHINEN_CONFINE", word)
    check = doctor_confinement.check_confinement()
    assert (check.status, check.fix) == (status, "unset MACHINEN_CONFINE")
