"""The machine of this host, and a QEMU that is there, too old, broken, or missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from machinen_runtime import machines, paths
from machinen_runtime.errors import BootError, ErrorCode
from machinen_runtime.machines import (
    confinement_wanted,
    give_back_wanted,
    machine_for,
    resolve_passt,
    resolve_qemu_binary,
)
from machinen_runtime.overlay_template import ensure_overlay_template
from vmm.arch import host_arch

pytestmark = pytest.mark.usefixtures("machinen_home")


def fake_qemu(directory: Path, version: str, runs: str = "") -> Path:
    """A program that only tells its version, and counts how often it was asked."""
    path = directory / "qemu-fake"
    path.write_text(f'#!/bin/sh\necho asked >>"{directory}/asked"\n{runs}\necho "{version}"\n')
    path.chmod(0o755)
    return path


def times_asked(directory: Path) -> int:
    return len((directory / "asked").read_text().splitlines())


@pytest.mark.parametrize("version", ["8.2.0", "10.0.7 (Debian 1:10.0.7+ds-0+deb13u1)", "11.1.50"])
def test_a_qemu_that_is_new_enough_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    qemu = fake_qemu(tmp_path, f"QEMU emulator version {version}")
    monkeypatch.setenv("MACHINEN_QEMU", str(qemu))
    assert resolve_qemu_binary() == str(qemu)


@pytest.mark.parametrize("version", ["8.1.9", "7.2.19 (Debian 1:7.2)", "0.15"])
def test_a_qemu_that_is_too_old_says_which_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    qemu = fake_qemu(tmp_path, f"QEMU emulator version {version}")
    monkeypatch.setenv("MACHINEN_QEMU", str(qemu))
    with pytest.raises(BootError, match=r"needs 8\.2") as caught:
        resolve_qemu_binary()
    assert caught.value.code is ErrorCode.BOOT_VMM_MISSING


def test_a_qemu_is_asked_once_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MACHINEN_QEMU", str(fake_qemu(tmp_path, "QEMU emulator version 10.0.0")))
    resolve_qemu_binary()
    resolve_qemu_binary()
    assert times_asked(tmp_path) == 1
    fake_qemu(tmp_path, "QEMU emulator version 7.0.0, another file")
    with pytest.raises(BootError):
        resolve_qemu_binary()
    assert times_asked(tmp_path) == 2


@pytest.mark.parametrize("cache", ["", "[]", "{", '{"x": 1}', '{"x": [1, "a"]}', "\0"])
def test_a_damaged_cache_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str
) -> None:
    monkeypatch.setenv("MACHINEN_QEMU", str(fake_qemu(tmp_path, "QEMU emulator version 10.0.0")))
    path = paths.cache_root() / "qemu-version.json"
    path.parent.mkdir(parents=True)
    path.write_text(cache)
    resolve_qemu_binary()
    resolve_qemu_binary()
    assert times_asked(tmp_path) == 1


@pytest.mark.parametrize(("output", "runs"), [("hello", ""), ("version 10.0", "exit 3")])
def test_a_program_that_is_no_qemu_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, runs: str
) -> None:
    monkeypatch.setenv("MACHINEN_QEMU", str(fake_qemu(tmp_path, output, runs)))
    with pytest.raises(BootError) as caught:
        resolve_qemu_binary()
    assert caught.value.code is ErrorCode.BOOT_VMM_MISSING


def test_a_qemu_that_is_missing_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(BootError, match=host_arch().qemu_package) as caught:
        resolve_qemu_binary()
    assert caught.value.code is ErrorCode.BOOT_VMM_MISSING


def test_a_variable_that_names_no_program_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACHINEN_QEMU", "/etc/passwd")
    with pytest.raises(BootError):
        resolve_qemu_binary()


def test_passt_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert resolve_passt() is None
    monkeypatch.setenv("MACHINEN_PASST", "/opt/passt")
    assert resolve_passt() == "/opt/passt"


def test_under_tcg_the_cpu_is_the_whole_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACHINEN_ACCEL", "tcg")
    machine = machine_for(memory_mib=512, cpus=2, network="none")
    assert (machine.accel, machine.cpu_model) == ("tcg", host_arch().tcg_cpu)
    assert (machine.memory_mib, machine.cpus, machine.network) == (512, 2, "none")
    assert machine.machine_type == host_arch().machine_type


def test_under_kvm_the_cpu_has_a_name_that_may_travel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACHINEN_ACCEL", "kvm")
    monkeypatch.setattr(machines, "read_cpuinfo_flags", lambda: frozenset({"avx2"}))
    machine = machine_for(memory_mib=512)
    assert machine.accel == "kvm"
    assert machine.cpu_model == host_arch().kvm_cpu({"avx2"})


def test_a_misspelt_accelerator_is_an_option_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MACHINEN_ACCEL", "fast")
    with pytest.raises(BootError, match="MACHINEN_ACCEL") as caught:
        machine_for(memory_mib=512)
    assert caught.value.code is ErrorCode.BOOT_OPTION_INVALID


# -- the empty overlay ----------------------------------------------------------------------------


def base_of(directory: Path, size_bytes: int) -> Path:
    path = directory / f"base-{size_bytes}"
    path.write_bytes(b"")
    with path.open("r+b") as file:
        file.truncate(size_bytes)
    return path


def virtual_size(qcow2: Path) -> int:
    """The size in a qcow2 header: u64 big-endian at 24 (qemu's docs/interop/qcow2.txt)."""
    header = qcow2.read_bytes()[:32]
    assert header[:4] == b"QFI\xfb"
    return int.from_bytes(header[24:32], "big")


def test_an_overlay_template_is_as_large_as_the_base_and_made_once(tmp_path: Path) -> None:
    one = ensure_overlay_template(base_of(tmp_path, 1 << 20))
    assert virtual_size(one) == 1 << 20
    made_ns = one.stat().st_mtime_ns
    assert ensure_overlay_template(base_of(tmp_path, 1 << 20)).stat().st_mtime_ns == made_ns
    assert virtual_size(ensure_overlay_template(base_of(tmp_path, 2 << 20))) == 2 << 20
    names = sorted(path.name for path in one.parent.iterdir() if path.suffix == ".qcow2")
    assert names == ["1048576.qcow2", "2097152.qcow2"]


def test_without_a_base_there_is_no_template(tmp_path: Path) -> None:
    with pytest.raises(BootError) as caught:
        ensure_overlay_template(tmp_path / "absent")
    assert caught.value.code is ErrorCode.BOOT_IMAGE_NOT_FOUND


def test_without_qemu_img_the_doctor_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(BootError, match="doctor") as caught:
        ensure_overlay_template(base_of(tmp_path, 1 << 20))
    assert caught.value.code is ErrorCode.BOOT_VMM_MISSING


def test_a_qemu_img_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "qemu-img").write_text("#!/bin/sh\necho 'no space left' >&2\nexit 1\n")
    (tools / "qemu-img").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    with pytest.raises(BootError, match="no space left") as caught:
        ensure_overlay_template(base_of(tmp_path, 1 << 20))
    assert caught.value.code is ErrorCode.BOOT_VMM_MISSING
    assert [*(paths.cache_root() / "overlays").iterdir()] == []


@pytest.mark.parametrize(("word", "wanted"), [("", True), ("on", True), ("off", False)])
def test_confinement_is_on_unless_it_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, word: str, wanted: bool
) -> None:
    monkeypatch.setenv("MACHINEN_CONFINE", word)
    assert confinement_wanted() is wanted


@pytest.mark.parametrize(("word", "wanted"), [("", True), ("on", True), ("off", False)])
def test_memory_is_given_back_unless_that_is_switched_off(
    monkeypatch: pytest.MonkeyPatch, word: str, wanted: bool
) -> None:
    monkeypatch.setenv("MACHINEN_GIVE_BACK", word)
    assert give_back_wanted() is wanted


@pytest.mark.parametrize(
    ("variable", "ask"),
    [("MACHINEN_CONFINE", confinement_wanted), ("MACHINEN_GIVE_BACK", give_back_wanted)],
)
def test_a_misspelt_switch_is_refused(
    monkeypatch: pytest.MonkeyPatch, variable: str, ask: Callable[[], bool]
) -> None:
    monkeypatch.setenv(variable, "no")
    with pytest.raises(BootError, match=variable) as caught:
        ask()
    assert caught.value.code is ErrorCode.BOOT_OPTION_INVALID
    assert "set it to on or off" in str(caught.value)
